"""Streamed shards: each row once a pass, another order in each, exact resume, and nothing held that need not be."""

import io
import json
import tarfile
from itertools import islice

import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from safetensors.torch import load_file

from tests.support.launcher import launch
from tests.support.tiny import SCENES, captions_of, draw_scene, model_fields
from training import train as train_module
from training.config import TrainConfig
from training.data import stream as stream_module
from training.data.augment import Augmentation
from training.data.stream import StreamItems, in_memory, open_streams
from training.run.checkpoint import Preempted
from training.train import train

FEATURES = Features(
    {"image": ImageFeature(), "captions": List(Value("string")), "scene": Value("string"), "filename": Value("string")}
)
NUM_SHARDS, ROWS_PER_SHARD = 4, 3


@pytest.fixture(autouse=True)
def without_pause(monkeypatch):
    """`datasets` pauses for 5 seconds where a shuffled stream ends, until its reading threads are gone."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


def png(scene, number):
    buffer = io.BytesIO()
    draw_scene(scene, number).save(buffer, "png")
    return buffer.getvalue()


def shard_rows(first, count):
    return [
        {
            "image": {"bytes": png(SCENES[n % 4], 1 + n // 4), "path": None},
            "captions": captions_of(SCENES[n % 4], 1 + n // 4),
            "scene": SCENES[n % 4],
            "filename": f"{n}.png",
        }
        for n in range(first, first + count)
    ]


@pytest.fixture
def shards(tmp_path):
    """Folder of parquet shards: 4 of the training split with 3 rows each, one of validation, one of test."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(NUM_SHARDS):
        rows = shard_rows(shard * ROWS_PER_SHARD, ROWS_PER_SHARD)
        Dataset.from_list(rows, features=FEATURES).to_parquet(folder / f"train-{shard:05d}-of-00004.parquet")
    for split, first in (("validation", 12), ("test", 16)):
        Dataset.from_list(shard_rows(first, 4), features=FEATURES).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def tar_shards(shards, tmp_path):
    """The same rows as webdataset tars: an image and a JSON file each."""
    folder = tmp_path / "tars"
    folder.mkdir()
    places = {f"train-{shard}": (shard * ROWS_PER_SHARD, ROWS_PER_SHARD) for shard in range(NUM_SHARDS)}
    for name, (first, count) in (places | {"validation-0": (12, 4), "test-0": (16, 4)}).items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for row in shard_rows(first, count):
                key = row["filename"].removesuffix(".png")
                facts = json.dumps({"captions": row["captions"], "scene": row["scene"]}).encode()
                for suffix, content in (("png", row["image"]["bytes"]), ("json", facts)):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def stream_items(folder, process_index=0, num_processes=1, num_workers=0, **options):
    augmentation = Augmentation(32, 0.5, rand_augment=True, flips_and_turns=True)
    return StreamItems(
        open_streams(str(folder))["train"], list(SCENES), 1, augmentation, options.pop("shuffle_buffer", 5), 0,
        process_index, num_processes, num_workers, **options,
    )  # fmt: skip


def read_names(monkeypatch, items, count):
    """File names of the next items, without opening any image."""
    monkeypatch.setattr(StreamItems, "_item", lambda self, row, reader, place: row["filename"])
    return list(islice(items, count))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_row_is_seen_once_in_a_pass_over_all_processes(shards, monkeypatch, num_processes):
    num_rows = NUM_SHARDS * ROWS_PER_SHARD
    share = num_rows // num_processes
    names = [
        read_names(monkeypatch, stream_items(shards, process, num_processes), 2 * share)
        for process in range(num_processes)
    ]
    for first in (0, share):
        of_pass = [name for own in names for name in own[first : first + share]]
        assert sorted(of_pass) == sorted(f"{n}.png" for n in range(num_rows))
    assert names[0][:share] != names[0][share:]  # another order in the next pass


def test_loader_workers_share_the_rows_of_a_pass(shards, monkeypatch):
    items = stream_items(shards, num_workers=2)
    monkeypatch.setattr(StreamItems, "_item", lambda self, row, reader, place: row["filename"])
    loader = torch.utils.data.DataLoader(items, batch_size=3, num_workers=2, collate_fn=list)
    names = [name for batch in islice(loader, 4) for name in batch]
    assert sorted(names) == sorted(f"{n}.png" for n in range(NUM_SHARDS * ROWS_PER_SHARD))


@pytest.mark.parametrize("skip_bad_images", [False, True])
@pytest.mark.parametrize("first_batch", [1, 3, 8])
def test_a_started_stream_goes_on_where_the_whole_one_is(shards, first_batch, skip_bad_images):
    options = {"num_workers": 2, "skip_bad_images": skip_bad_images}
    whole, cut = stream_items(shards, **options), stream_items(shards, **options)
    cut.start_at(first_batch, batch_size=2)
    expected, found = (
        list(islice(torch.utils.data.DataLoader(items, batch_size=2, num_workers=2, collate_fn=list), count))
        for items, count in ((whole, first_batch + 4), (cut, 4))
    )
    for left, right in zip(expected[first_batch:], found, strict=True):
        for item, other in zip(left, right, strict=True):
            assert torch.equal(item.pop("pixels"), other.pop("pixels")) and item == other


def test_only_what_is_drawn_is_decoded_and_passes_before_the_start_are_not_read(shards, monkeypatch):
    decoded, read = [], []
    decode, plain = stream_module.decode_image, stream_module.plain_row
    monkeypatch.setattr(stream_module, "decode_image", lambda row: decoded.append(row["filename"]) or decode(row))
    monkeypatch.setattr(stream_module, "plain_row", lambda *row: read.append(1) or plain(*row))
    items = stream_items(shards)
    items.start_at(14, batch_size=2)  # 28 items: two passes and four rows
    list(islice(items, 3))
    assert len(decoded) == 3 and len(read) == 7


def test_a_picture_has_one_id_wherever_it_is(shards):
    Dataset.from_list(shard_rows(0, 1), features=FEATURES).to_parquet(shards / "train-00009.parquet")
    ids = [item["image_id"] for item in islice(stream_items(shards), 13)]
    assert len(set(ids)) == 12


def test_tars_give_the_rows_of_parquet(shards, tar_shards):
    left, right = (
        {
            row["filename"].removesuffix(".png"): row
            for row in in_memory(open_streams(str(folder))["test"], "test", False)
        }
        for folder in (shards, tar_shards)
    )
    assert left.keys() == right.keys() and len(left) == 4
    for name, row in left.items():
        assert row["captions"] == right[name]["captions"] and row["scene"] == right[name]["scene"]
        assert row["image"].tobytes() == right[name]["image"].tobytes()


def test_bad_rows_stop_the_stream_or_are_left_out(shards, caplog):
    rows = shard_rows(20, 3)
    rows[1]["image"]["bytes"] = b"no image"
    rows[2]["captions"] = [" ."]
    Dataset.from_list(rows, features=FEATURES).to_parquet(shards / "train-00009.parquet")
    with pytest.raises(ValueError, match="21.png|22.png"):
        list(islice(stream_items(shards), 15))
    assert len(list(islice(stream_items(shards, skip_bad_images=True), 14))) == 14
    assert "Left out" in caplog.text and "21.png" in caplog.text


def test_fewer_shards_than_readers_are_refused(shards):
    with pytest.raises(ValueError, match="has 4 shards, fewer than the 6 loader processes"):
        stream_items(shards, num_processes=2, num_workers=3)


@pytest.fixture
def streamed_run(shards, tiny_config, tiny_tokenizer, tmp_path, without_report):
    """Configuration of a streamed run of 2 epochs with 3 steps each, which is one pass and a half."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def make(name="run", **fields):
        model = model_fields(tiny_config)
        settings = {
            "output_dir": str(tmp_path / name),
            "data": str(shards),
            "model": model,
            "tokenizer": str(tmp_path / "tokenizer"),
            "streaming": True,
            "shuffle_buffer": 4,
            "steps_per_epoch": 3,
            "captions_per_image": 2,
            "epochs": 2,
            "batch_size": 3,
            "learning_rate": 1e-3,
            "log_every": 1,
        }
        return TrainConfig(**settings | fields)

    return make


@pytest.mark.parametrize(("stop_at", "num_workers"), [(2, 0), (5, 0), (5, 2)])
def test_a_stopped_and_resumed_streamed_run_is_bit_identical(streamed_run, monkeypatch, stop_at, num_workers):
    whole, cut = streamed_run("whole", num_workers=num_workers), streamed_run("cut", num_workers=num_workers)
    train(whole)
    calls = iter(range(1, 100))
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(calls) == stop_at)
    with pytest.raises(Preempted):
        train(cut)
    train(cut, resume=True)
    left, right = (load_file(f"{config.output_dir}/last/model.safetensors") for config in (whole, cut))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    logs = [(train_module.Path(config.output_dir) / "metrics.jsonl").read_text() for config in (whole, cut)]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 8


STOP_AT_STEP_4 = """
from training import train as train_module

steps = iter(range(1, 100))
train_module.is_told_to_stop = lambda *_: next(steps) == 4
train_module.main()
"""


@pytest.mark.slow
def test_a_streamed_run_of_two_processes_resumes_to_the_bit(streamed_run, tmp_path):
    script = tmp_path / "stop.py"
    script.write_text(STOP_AT_STEP_4)
    options = {"batch_size": 4, "num_workers": 1}
    whole, cut = (streamed_run(name, **options, output_dir=str(tmp_path / name / "run")) for name in ("whole", "cut"))
    module = ("-m", "training.train")
    assert launch(whole, tmp_path / "whole", 2).returncode == 0
    stopped = launch(cut, tmp_path / "cut", 2, [str(script)])
    assert stopped.returncode == 1 and "Stopped by SIGTERM at step 4" in stopped.stderr
    resumed = launch(cut, tmp_path / "cut", 2, [*module, "--resume"])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert json.loads((tmp_path / "cut" / "run" / "environment.json").read_text())["processes"] == 2
    left, right = (load_file(f"{config.output_dir}/last/model.safetensors") for config in (whole, cut))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_epoch_is_a_pass_where_the_rows_are_counted_and_has_to_be_said_where_they_are_not(streamed_run, tar_shards):
    config = streamed_run(steps_per_epoch=0, epochs=1)
    train(config)
    assert "step_000000004" in str(list((train_module.Path(config.output_dir) / "checkpoints").iterdir()))
    with pytest.raises(ValueError, match="tars' does not say how many rows it has: set steps_per_epoch"):
        train(streamed_run("tar", data=str(tar_shards), steps_per_epoch=0))
    train(streamed_run("tar", data=str(tar_shards), steps_per_epoch=1, epochs=1))


def test_other_shards_or_workers_are_not_resumed(streamed_run, shards):
    config = streamed_run(epochs=1)
    train(config)
    config.num_workers = 1
    with pytest.raises(ValueError, match="num_workers was 0 and is 1"):
        train(config, resume=True)
    config.num_workers = 0
    (shards / "train-00000-of-00004.parquet").rename(shards / "train-7.parquet")
    with pytest.raises(ValueError, match="the train data had the fingerprint"):
        train(config, resume=True)


def test_a_split_shorter_than_a_batch_is_refused(streamed_run):
    with pytest.raises(ValueError, match="has 12 rows, fewer than one batch of 13"):
        train(streamed_run(batch_size=13))


def test_a_source_without_shards_or_a_split_is_refused(streamed_run, tiny_dataset, shards):
    with pytest.raises(ValueError, match="holds no .parquet or .tar shards"):
        train(streamed_run(data=str(tiny_dataset)))
    (shards / "test.parquet").unlink()
    with pytest.raises(ValueError, match="no split 'test' in .* its shards are train, validation"):
        train(streamed_run())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captions_per_image": 0}, "captions_per_image is 0"),
        ({"tokenizer": "train"}, "tokenizer is 'train'"),
        ({"instruction_epochs": 1}, "instruction_epochs is not 0"),
        ({"cache_images": True}, "cache_images is on"),
        ({"split_list": "rsicd"}, "split_list is set"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"streaming": False}, "steps_per_epoch is 3, but only a streamed run"),
    ],
)
def test_a_field_that_streaming_cannot_have_gets_one_sentence(streamed_run, fields, message):
    with pytest.raises(ValueError, match=message):
        streamed_run(**fields)
