"""The way of a model over the Hub, in fresh processes over HTTP: published twice, loaded where we are not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from transformers import BertTokenizer

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.pretrained import load_pretrained, weights_hash
from modeling_pir.processing_pir import build_image_processor
from tests.support.fake_run import write_run
from tests.support.hub_server import HubServer, card_errors
from tests.support.paths import ROOT
from tests.support.tiny import IMAGE_SIZE, SCENES, build_tiny_config, captions_of, draw_scene, tiny_vocabulary
from training.data.sample.draw import load_sample

pytestmark = pytest.mark.slow  # six processes that import torch and transformers
REPO = "org/pir-tiny"
SMALL_RUN = {
    "data": "sample",
    "epochs": 1,
    "batch_size": 64,
    "captions_per_image": 1,
    "rand_augment": False,
    "learning_rate": 1.0e-3,
}
SMALL_MODEL = {
    "vision_config": {
        "model_type": "swin", "image_size": 64, "patch_size": 8, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
        "window_size": 4,
    },
    "text_config": {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64,
    },
    "instruction_config": {
        "model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
    },
    "projection_dim": 32, "num_attention_heads": 2, "feedforward_dim": 64, "filter_size": 14,
}  # fmt: skip


def on_its_own(arguments, hub, home, cwd, **environment):
    """Run Python in a process that has this Hub, a token and a cache of its own; returns what it printed."""
    home.mkdir(exist_ok=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=variables | hub.environment(home) | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def as_stranger(inputs, hub, home, cwd, *revision, repo=REPO, **environment):
    """Load the model by id in a folder where nothing of ours can be imported; returns what `hub_stranger` found."""
    output = cwd / f"{len(list(cwd.iterdir()))}.json"
    script = ROOT / "tests" / "support" / "hub_stranger.py"
    on_its_own(["-I", script, repo, inputs, output, *revision], hub, home, cwd, **environment)
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
    elsewhere, home = folder / "elsewhere", folder / "stranger"
    elsewhere.mkdir()
    write_parquet(folder / "chips", images)
    with HubServer() as hub:
        publish = [
            ROOT / "tests" / "support" / "hub_publisher.py",
            first,
            second,
            folder / "chips",
            folder / "published.json",
        ]
        on_its_own(publish, hub, folder / "publisher", ROOT, PYTHONPATH=str(ROOT))
        happened["published"] = json.loads((folder / "published.json").read_text())
        hub.requests.clear()
        hub.break_connections("GET", "model.safetensors", after=100_000, times=1)
        happened["loaded"] = as_stranger(inputs, hub, home, elsewhere, happened["published"]["commits"][0])
        happened["requests"] = list(hub.requests)
        hub.requests.clear()
        happened["offline"] = as_stranger(inputs, hub, home, elsewhere, HF_HUB_OFFLINE="1")
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


def train_and_push(folder, hub, config):
    """Train with the command, then publish with the command; returns the run folder."""
    run = folder / f"run-{len(list(folder.glob('run-*')))}"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    train = ["-m", "training.train", "--config", folder / "config.yaml", "--output-dir", run]
    on_its_own(train, hub, folder / "publisher", ROOT)
    environment = json.loads((run / "environment.json").read_text())
    environment["uncommitted_changes"] = False  # of this checkout, which is not what is tested
    (run / "environment.json").write_text(json.dumps(environment))
    on_its_own(["-m", "training.push_to_hub", "--model", run, "--repo", REPO], hub, folder / "publisher", ROOT)
    return run


def test_trained_published_loaded_elsewhere_fine_tuned_and_published_again(tmp_path):
    rows = load_sample("test").select(range(4))
    rows[0]["image"].save(tmp_path / "0.png")
    texts = [rows[0]["captions"][0], rows[1]["captions"][0]]
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"images": [str(tmp_path / "0.png")], "texts": texts, "labels": rows["scene"][:]}))
    (tmp_path / "elsewhere").mkdir()
    with HubServer() as hub:
        first = train_and_push(tmp_path, hub, SMALL_RUN | {"model": SMALL_MODEL, "vocab_size": 500})
        commit = hub.repository("models", REPO).commits[-1].sha
        second = train_and_push(tmp_path, hub, SMALL_RUN | {"init_from": REPO})
        found = as_stranger(inputs, hub, tmp_path / "stranger", tmp_path / "elsewhere", commit)
        titles = [published.title for published in hub.repository("models", REPO).commits]
        card = hub.repository("models", REPO).commits[-1].files["README.md"].decode()
    for run, key in ((first, "revision"), (second, "main")):
        model, processor = load_pretrained(run / "best")
        assert_equal(found[key], unit_vectors(model, processor, [rows[0]["image"]], texts))
    for side in ("images", "texts"):  # searching with sentence-transformers is searching with the model
        torch.testing.assert_close(
            torch.tensor(found["sentence_transformers"][side]), torch.tensor(found["main"][side])
        )
    assert {entry["label"] for entry in found["classes"]} == set(rows["scene"])
    assert len(titles) == 3
    test = json.loads((second / "test.json").read_text())
    assert f"test mR {test['mR']:.2f}" in titles[-1] and f"| {test['mR']:.2f} |" in card
    assert f"base_model:\n- {REPO}" in card
    assert card_errors(card) == []
