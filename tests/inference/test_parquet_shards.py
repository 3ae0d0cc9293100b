import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_pir import PIRModel
from modeling_pir.index import embed_files
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.embed import embed_images
from modeling_pir.inference.encoder import PIREncoder
from modeling_pir.inference.parquet_shards import Shard, check_columns, embed_shard, embed_shards, list_shards
from modeling_pir.inference.ray_workers import run_on_ray
from tests.support.paths import ROOT


def encoded(image):
    return {"bytes": image_bytes(image), "path": None}


def image_bytes(image):
    with io.BytesIO() as file:
        image.save(file, "png")
        return file.getvalue()


@pytest.fixture
def shard(tmp_path, tiny_images):
    """Four images, the third one broken and one more missing, in one Parquet file."""
    images = [encoded(image) for image in tiny_images]
    images[2] = {"bytes": b"broken", "path": "third.png"}
    path = tmp_path / "data" / "part.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": [*images, None], "scene": list("abcde")}), path)
    return Shard(str(path), str(tmp_path / "out" / "part.parquet"))


def embed_one(model, processor, shard, **options):
    return embed_shard(PIREncoder(model, processor), shard, PIREncoder(model, processor).describe(), **options)


def test_output_holds_vectors_errors_and_the_other_columns(shard, tiny_model, tiny_processor, tiny_images):
    report = embed_one(tiny_model, tiny_processor, shard, batch_size=2)
    table = pq.read_table(shard.output)
    assert table.column_names == ["scene", "embedding", "error"]
    assert table.column("scene").to_pylist() == list("abcde")
    vectors, errors = table.column("embedding").to_pylist(), table.column("error").to_pylist()
    expected = embed_images(tiny_model, tiny_processor, [tiny_images[place] for place in (0, 1, 3)])
    np.testing.assert_allclose([vectors[place] for place in (0, 1, 3)], expected, atol=1e-6)
    assert vectors[2] is vectors[4] is errors[0] is None
    assert errors[2] == "third.png is not a readable image, such as a JPEG, PNG or TIFF: remove it or replace it."
    assert report.errors == [(2, errors[2]), (4, "The row has no image.")] and report.rows == 5


def test_output_names_its_model(shard, tiny_model, tiny_processor):
    embed_one(tiny_model, tiny_processor, shard)
    assert json.loads(pq.read_schema(shard.output).metadata[b"pir"]) == PIREncoder(tiny_model).describe()


def test_output_that_is_there_is_skipped(shard, tiny_model, tiny_processor, monkeypatch):
    embed_one(tiny_model, tiny_processor, shard)
    monkeypatch.setattr(PIREncoder, "embed_images", None)  # a call would fail
    report = embed_one(tiny_model, tiny_processor, shard)
    assert report.skipped and report.rows == 0


def test_output_of_another_model_is_refused(shard, tiny_model, tiny_config, tiny_processor):
    embed_one(tiny_model, tiny_processor, shard)
    with pytest.raises(ValueError, match="made by another model .* name another output folder"):
        embed_one(PIRModel(tiny_config).eval(), tiny_processor, shard)


def test_interrupted_shard_leaves_nothing_behind(shard, tiny_model, tiny_processor, monkeypatch):
    calls = []

    embed_images = PIREncoder.embed_images

    def interrupted(encoder, images, batch_size):
        assert not Path(shard.output).exists()  # what a killed process leaves is not taken for a whole file
        if calls:
            raise KeyboardInterrupt
        calls.append(images)
        return embed_images(encoder, images, batch_size)

    monkeypatch.setattr(PIREncoder, "embed_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_one(tiny_model, tiny_processor, shard, batch_size=1)
    assert list(Path(shard.output).parent.iterdir()) == []
    monkeypatch.undo()
    assert embed_one(tiny_model, tiny_processor, shard).rows == 5


def test_broken_shard_is_reported_and_the_others_are_done(shard, tiny_model, tiny_processor, tmp_path):
    broken = Shard(str(tmp_path / "data" / "broken.parquet"), str(tmp_path / "out" / "broken.parquet"))
    Path(broken.source).write_bytes(b"PAR1 no more")
    gone = Shard(str(tmp_path / "gone.parquet"), str(tmp_path / "out" / "gone.parquet"))
    reports = list(embed_shards(PIREncoder(tiny_model, tiny_processor), [broken, gone, shard]))
    assert [bool(report.failure) for report in reports] == [True, True, False]
    assert broken.source in reports[0].failure and [report.rows for report in reports] == [0, 0, 5]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part.parquet"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scene": ["a"]}, "no column 'image' among scene"),
        ({"image": [b""], "error": ["a"]}, "column 'error' already"),
        ({"image": [3]}, "holds int64, not images"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, tiny_model, tiny_processor, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=message):
        embed_one(tiny_model, tiny_processor, Shard(str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")))


def test_column_of_bytes_or_paths(tmp_path, tiny_model, tiny_processor, tiny_images):
    tiny_images[1].save(tmp_path / "b.png")
    values = [{"bytes": None, "path": str(tmp_path / "b.png")}, encoded(tiny_images[1])]
    pq.write_table(pa.table({"a": [image_bytes(tiny_images[1])] * 2, "b": values}), tmp_path / "in.parquet")
    rows = []
    for column in "ab":
        shard = Shard(str(tmp_path / "in.parquet"), str(tmp_path / f"{column}.parquet"))
        embed_one(tiny_model, tiny_processor, shard, image_column=column)
        rows += pq.read_table(shard.output).column("embedding").to_pylist()
    np.testing.assert_allclose(rows, [rows[0]] * 4, atol=1e-6)


@pytest.mark.parametrize("value", [b"", None])
def test_path_that_leads_out_of_the_data_set_is_not_read(tmp_path, tiny_model, tiny_processor, tiny_images, value):
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "private.png", tmp_path / "data" / "own.png"):
        tiny_images[0].save(path)
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "private.png")
    names = ["../private.png", str(tmp_path / "private.png"), "link.png", "own.png"]
    images = [{"bytes": value, "path": name} for name in names]
    shard = Shard(str(tmp_path / "data" / "in.parquet"), str(tmp_path / "out.parquet"))
    pq.write_table(pa.table({"image": images}), shard.source)
    report = embed_one(tiny_model, tiny_processor, shard)
    assert [row for row, _ in report.errors] == ([0, 1, 2] if value is None else [0, 1, 2, 3])


def damaged(content, generator):
    """A file with some of its bytes changed, or without its end."""
    content = bytearray(content)
    if generator.random() < 0.3:
        return bytes(content[: generator.integers(1, len(content))])
    for place in generator.integers(0, len(content), 8):
        content[place] = generator.integers(0, 256)
    return bytes(content)


def test_damaged_shards_are_reported_and_cost_no_other(tmp_path, tiny_model, tiny_processor, tiny_images):
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [encoded(image) for image in tiny_images], "scene": list("abcd")})
    pq.write_table(table, tmp_path / "in" / "whole.parquet", compression="snappy")
    content, generator = (tmp_path / "in" / "whole.parquet").read_bytes(), np.random.default_rng(0)
    for number in range(40):
        (tmp_path / "in" / f"{number}.parquet").write_bytes(damaged(content, generator))
    shards = list_shards(str(tmp_path / "in"), str(tmp_path / "out"))
    reports = list(embed_shards(PIREncoder(tiny_model, tiny_processor), shards, batch_size=2))
    assert len(reports) == 41 and reports[-1].rows == 4 and sum(bool(report.failure) for report in reports) > 5
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {Path(report.output).name for report in reports if not report.failure}


def test_shard_of_other_columns_among_many_is_reported(tmp_path, tiny_model, tiny_processor, shard):
    pq.write_table(pa.table({"scene": ["a"]}), tmp_path / "data" / "other.parquet")
    shards = list_shards(str(tmp_path / "data"), str(tmp_path / "out"))
    first, second = embed_shards(PIREncoder(tiny_model, tiny_processor), shards)
    assert "no column 'image'" in first.failure and second.rows == 5
    with pytest.raises(ValueError, match="no column 'picture' among scene"):
        check_columns(shards, "picture")


@pytest.mark.parametrize("left", ["truncated", "rows missing", "another's partial file"])
def test_output_that_is_not_whole_is_made_anew(shard, tiny_model, tiny_processor, left):
    embed_one(tiny_model, tiny_processor, shard)
    output = Path(shard.output)
    if left == "truncated":
        output.write_bytes(output.read_bytes()[:-100])
    elif left == "rows missing":
        pq.write_table(pq.read_table(output).slice(0, 3), output)
    else:
        output.rename(f"{output}.1234.partial")
    assert embed_one(tiny_model, tiny_processor, shard).rows == 5
    assert pq.read_table(output).num_rows == 5 and [path.name for path in output.parent.iterdir()] == [output.name]


def test_two_processes_share_the_shards(tmp_path, tiny_model, tiny_processor, tiny_images):
    (tmp_path / "in").mkdir()
    for number in range(6):
        table = pa.table({"image": [encoded(image) for image in tiny_images]})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet")
    shards = list_shards(str(tmp_path / "in"), str(tmp_path / "out"))
    start, reports = threading.Barrier(2), []

    def work():
        start.wait()
        reports.extend(embed_shards(PIREncoder(tiny_model, tiny_processor), shards))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(reports) == 12 and sum(report.rows for report in reports) == 24  # each shard once
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{number}.parquet" for number in range(6)}


def test_shards_keep_their_place_below_the_common_folder(tmp_path):
    for name in ("data/train/0.parquet", "data/train/1.parquet", "data/test/0.parquet", "data/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    shards = list_shards(str(tmp_path / "data"), "/out/")
    assert [shard.output for shard in shards] == ["/out/test/0.parquet", "/out/train/0.parquet", "/out/train/1.parquet"]
    assert shards[0].source == f"file://{tmp_path}/data/test/0.parquet"
    pattern = str(tmp_path / "data" / "train" / "*.parquet")
    assert [shard.output for shard in list_shards(pattern, "/out")] == ["/out/0.parquet", "/out/1.parquet"]
    (one,) = list_shards(str(tmp_path / "data" / "train" / "1.parquet"), "s3://bucket/out")
    assert one.output == "s3://bucket/out/1.parquet"
    with pytest.raises(ValueError, match="no .parquet file at /nowhere"):
        list_shards("/nowhere", "/out")


def test_shards_in_object_storage(shard, tiny_model, tiny_processor):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/in/part.parquet", Path(shard.source).read_bytes())
    (one,) = list_shards("memory://in", "memory://out")
    assert embed_one(tiny_model, tiny_processor, one).rows == 5
    assert embed_one(tiny_model, tiny_processor, one).skipped
    with memory.open("/out/part.parquet") as file:
        assert pq.read_table(file).num_rows == 5
    assert memory.find("/out") == ["/out/part.parquet"]


def test_ray_needs_a_model_with_a_name(tiny_model):
    with pytest.raises(ValueError, match="no id or folder"):
        list(run_on_ray(embed_shard, [1], PIREncoder(tiny_model).describe()))


def test_missing_ray_names_the_extra(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    description = PIREncoder(tiny_model, None, "org/pir").describe()
    assert list(run_on_ray(embed_shard, [], description)) == []  # nothing to do needs no cluster
    with pytest.raises(ImportError, match=r"modeling-pir\[ray\]"):
        list(run_on_ray(embed_shard, [1], description))


def test_files_are_grouped_by_number_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(embed_files, "GROUP_FILES", 3)
    monkeypatch.setattr(embed_files, "GROUP_BYTES", 100)
    paths = []
    for number, size in enumerate((1, 1, 1, 200, 1, 60, 60)):
        (tmp_path / str(number)).write_bytes(bytes(size))
        paths.append(str(tmp_path / str(number)))
    groups = list(embed_files._file_groups([*paths, "/gone"]))
    assert [len(group) for group in groups] == [3, 1, 3, 1]
    assert sum(groups, []) == [*paths, "/gone"]


CLUSTER_SCRIPT = """
import sys

import ray
from ray._private.state import state
from ray.cluster_utils import Cluster

from modeling_pir.cli.main import main
from modeling_pir.index import PIRIndex, commits, embed_files

index_path, archive, model, data, output = sys.argv[1:]
embed_files.GROUP_FILES = commits.COMMIT_ROWS = 4
cluster = Cluster()
cluster.add_node(num_cpus=0, include_dashboard=False)
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]  # one worker each
ray.init(address=cluster.address, log_to_driver=False)
commit, num_commits = commits.commit, 0


def places():
    actors = state.actor_table(None).values()
    alive = [actor for actor in actors if actor["State"] == "ALIVE" and "MapWorker" in actor["ActorClassName"]]
    return [actor["Address"]["NodeID"] for actor in alive]


def commit_and_kill(*arguments):
    global num_commits
    commit(*arguments)
    num_commits += 1
    if num_commits == 3:
        print("workers", len(set(places())), flush=True)
        victim = next(node for node in nodes if node.node_id in places())
        cluster.remove_node(victim, allow_graceful=False)
        print("killed", flush=True)


commits.commit = commit_and_kill
options = ["--model", model, "--engine", "ray", "--workers", "2", "--json"]
codes = [main(["index", archive, "--index", index_path, *options])]
codes.append(main(["embed", data, "--output", output, *options]))
print("codes", codes, flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture
def ray_environment():
    """For machines with few processors: time to start, and no network."""
    root = str(ROOT)
    return os.environ | {"PYTHONPATH": root, "RAY_raylet_start_wait_time_s": "300", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.slow
def test_cluster_that_loses_a_node_embeds_everything_once(
    tmp_path, tiny_model, tiny_processor, tiny_parquet_dataset, ray_environment
):
    pytest.importorskip("ray")
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "archive").mkdir()
    generator = np.random.default_rng(0)
    for number in range(80):
        pixels = generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "archive" / f"{number}.png")
    (tmp_path / "archive" / "broken.png").write_bytes(b"broken")
    shards = list_shards(str(tiny_parquet_dataset), str(tmp_path / "out"))
    assert embed_one(PIRModel.from_pretrained(tmp_path / "model"), tiny_processor, shards[0]).rows == 4
    paths = [str(tmp_path / name) for name in ("index", "archive", "model", "tiny_parquet_dataset", "out")]
    command = [sys.executable, "-c", CLUSTER_SCRIPT, *paths]
    done = subprocess.run(command, env=ray_environment, capture_output=True, text=True, timeout=900, check=False)
    lines = done.stdout.splitlines()  # the process's own exit code is Ray's, which misses the killed node
    assert {"workers 2", "killed", "codes [1, 0]"} <= set(lines), done.stderr[-2000:]  # 1: one file is broken
    result, embedded = (json.loads(line) for line in lines if line.startswith("{"))
    assert sorted(shard["rows"] for shard in embedded["shards"]) == [0, 4, 4]  # one was there
    assert (result["added"], result["rows"]) == (80, 80) and len(result["errors"]) == 1
    index = PIRIndex.open(tmp_path / "index", tiny_model, tiny_processor)
    found = [row["path"] for rows, _ in index.store.rows() for row in rows]
    assert sorted(found) == sorted(str(tmp_path / "archive" / f"{number}.png") for number in range(80))
    image = Image.open(tmp_path / "archive" / "7.png")
    assert index.search(image, k=1)[0].path.endswith("/7.png")
