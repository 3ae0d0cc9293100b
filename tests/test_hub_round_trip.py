"""The way of a model over the Hub, in fresh processes over HTTP: published twice, loaded where we are not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import IMAGE_SIZE, SCENES, build_tiny_config, captions_of, draw_scene, tiny_vocabulary
from fake_run import write_run
from hub_server import HubServer
from transformers import BertTokenizer

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub import weights_hash
from training.build import build_image_processor

ROOT = Path(__file__).parents[1]
REPO = "org/pir-tiny"
WEIGHTS = f"/{REPO}/resolve/"


def in_fresh_process(arguments, hub, home, cwd, **environment):
    """Run a script on a machine of its own: cache, token and Hub; returns what it wrote as JSON."""
    output = home / f"{len(list(home.glob('*.json')))}.json"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments(output))],
        env=variables | hub.environment(home) | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


def unit_vectors(model, processor, images, texts):
    with torch.inference_mode():
        output = model(**processor(images=images, text=texts, return_tensors="pt"))
    return {"images": output.image_embeds, "texts": output.text_embeds}


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """Everything that happened on the way, as a dictionary."""
    folder = tmp_path_factory.mktemp("trip")
    torch.manual_seed(0)
    model = PIRModel(build_tiny_config()).eval()
    processor = PIRProcessor(
        build_image_processor(IMAGE_SIZE), BertTokenizer(vocab=tiny_vocabulary(), model_max_length=47)
    )
    images = [draw_scene(scene, number) for number, scene in enumerate(SCENES, start=1)]
    texts = [captions_of(scene, number)[0] for number, scene in enumerate(SCENES, start=1)]
    happened = {"first": unit_vectors(model, processor, images, texts)}
    first = write_run(folder / "first", model, processor)
    with torch.no_grad():  # "fine-tuned"
        model.text_projection.weight.add_(0.1 * torch.randn_like(model.text_projection.weight))
    happened["second"] = unit_vectors(model, processor, images, texts)
    second = write_run(folder / "second", model, processor, init_from=REPO, test={"mR": 41.0})
    happened["hash"] = weights_hash(second / "best")
    for index, image in enumerate(images):
        image.save(folder / f"{index}.png")
    inputs = folder / "inputs.json"
    paths = [str(folder / f"{index}.png") for index in range(len(images))]
    inputs.write_text(json.dumps({"images": paths, "texts": texts, "labels": SCENES}))
    publisher_home, stranger_home, elsewhere = (folder / name for name in ("publisher", "stranger", "elsewhere"))
    for home in (publisher_home, stranger_home, elsewhere):
        home.mkdir()
    write_parquet(folder / "chips", images)
    with HubServer() as hub:
        happened["published"] = in_fresh_process(
            lambda output: [ROOT / "tests" / "hub_publisher.py", first, second, folder / "chips", output],
            hub,
            publisher_home,
            ROOT,
            PYTHONPATH=str(ROOT),
        )
        stranger = ["-I", ROOT / "tests" / "hub_stranger.py", REPO, inputs]
        hub.break_connections("GET", "model.safetensors", after=100_000, times=1)
        hub.requests.clear()
        happened["loaded"] = in_fresh_process(
            lambda output: [*stranger, output, happened["published"]["commits"][0]], hub, stranger_home, elsewhere
        )
        happened["requests"] = list(hub.requests)
        hub.requests.clear()
        happened["offline"] = in_fresh_process(
            lambda output: [*stranger, output], hub, stranger_home, elsewhere, HF_HUB_OFFLINE="1"
        )
        happened["requests_offline"] = list(hub.requests)
        happened["blobs"] = dict(hub.blobs)
    return happened


def write_parquet(folder, images):
    """A prepared data set of one schema, three splits of the same rows."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    schema = {"image": ImageFeature(), "captions": List(Value("string")), "scene": Value("string")}
    features = Features(schema | {"filename": Value("string")})
    columns = {
        "image": images,
        "captions": [captions_of(scene, number) for number, scene in enumerate(SCENES, start=1)],
        "scene": list(SCENES),
        "filename": [f"{scene}_1.png" for scene in SCENES],
    }
    folder.mkdir()
    for split in ("train", "validation", "test"):
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000.parquet")


def assert_equal(embeds, expected):
    for side in ("images", "texts"):
        torch.testing.assert_close(torch.tensor(embeds[side]), expected[side], atol=1e-6, rtol=0)


def test_a_fine_tuned_model_is_a_second_commit(trip):
    published = trip["published"]
    assert published["titles"] == ["PIR at epoch 7: test mR 41.00", "PIR at epoch 7: test mR 37.25", "initial commit"]
    assert published["sha"] == published["commits"][1] != published["commits"][0]


def test_the_page_says_what_it_is(trip):
    published = trip["published"]
    assert published["pipeline_tag"] == "zero-shot-image-classification"
    assert {"pir", "remote-sensing", "custom_code"} <= set(published["tags"])
    assert published["results"]["mR"] == 41.0
    assert trip["hash"] in trip["blobs"]


def test_it_loads_by_id_where_the_package_and_its_extras_are_not(trip):
    assert trip["loaded"]["class"].startswith("transformers_modules.org.")
    assert trip["loaded"]["hidden_but_imported"] == []
    assert_equal(trip["loaded"]["main"], trip["second"])


def test_an_older_revision_gives_the_older_vectors(trip):
    assert_equal(trip["loaded"]["revision"], trip["first"])
    assert (trip["first"]["texts"] - trip["second"]["texts"]).abs().max() > 1e-3


def test_an_interrupted_download_goes_on_where_it_broke_off(trip):
    gets = [line for line in trip["requests"] if line.startswith("GET") and "model.safetensors" in line]
    first, resumed, *older_revision = gets
    offset = int(resumed.split("bytes=")[1].rstrip("-"))
    assert "bytes=" not in first and 0 < offset <= 100_000
    assert len(older_revision) == 1


def test_it_loads_offline_from_the_cache(trip):
    assert trip["requests_offline"] == []
    assert_equal(trip["offline"]["main"], trip["second"])


def test_zero_shot_pipeline_ranks_the_labels(trip):
    scores = [entry["score"] for entry in trip["loaded"]["classes"]]
    assert sorted(entry["label"] for entry in trip["loaded"]["classes"]) == sorted(SCENES)
    assert scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 1e-5


def test_sentence_transformers_gives_the_same_unit_vectors(trip):
    assert_equal(trip["loaded"]["sentence_transformers"], trip["second"])


def test_a_data_set_comes_back_as_it_was_pushed(trip):
    published = trip["published"]
    assert published["data_equal"] == {"train": True, "validation": True, "test": True}
    assert published["pixels_equal"] and published["streamed"] and published["ours"]
