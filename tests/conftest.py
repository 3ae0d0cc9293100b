"""Fixtures of all tests: a PIR of about 45,000 weights, its processor, and images drawn on the spot.

Nothing here reads the network or real data. Each test starts from the same seed.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub, which reads it once
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["PIR_TEXT_ENCODER"] = "torch"  # an export takes ten seconds: the tests of it ask for it
os.environ["PIR_IMAGE_ENCODER"] = "torch"  # likewise
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: workers that share cores wait for each other

import pytest
import torch
from transformers import BertTokenizer, set_seed

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from tests.support.tiny import (
    IMAGE_SIZE,
    SCENES,
    build_tiny_config,
    captions_of,
    draw_scene,
    tiny_vocabulary,
    write_tiny_dataset,
)


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in Python, numpy and torch for every test."""
    set_seed(0)


@pytest.fixture
def tiny_config():
    """See `build_tiny_config`; a fresh one for each test, free to be changed."""
    return build_tiny_config()


@pytest.fixture
def tiny_model(tiny_config):
    """A seeded model in evaluation mode; a fresh one for each test, free to be changed."""
    torch.manual_seed(0)
    return PIRModel(tiny_config).eval()


@pytest.fixture
def tiny_tokenizer():
    """An uncased WordPiece tokenizer that knows the drawn captions' words and spells out all others."""
    return BertTokenizer(vocab=tiny_vocabulary(), model_max_length=47)


@pytest.fixture
def tiny_processor(tiny_tokenizer):
    """The official image settings at 32 pixels, and the tiny tokenizer."""
    return PIRProcessor(build_image_processor(IMAGE_SIZE), tiny_tokenizer)


@pytest.fixture
def model_folder(tmp_path, tiny_model, tiny_processor):
    """A folder that `from_pretrained` and --model take."""
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tiny_images():
    """Four RGB images, one of each scene."""
    return [draw_scene(scene, number) for number, scene in enumerate(SCENES, start=1)]


@pytest.fixture
def tiny_captions():
    """Five captions for each of `tiny_images`."""
    return [captions_of(scene, number) for number, scene in enumerate(SCENES, start=1)]


@pytest.fixture
def tiny_dataset(tmp_path):
    """Folder of an imagefolder data set: train, validation and test with 4 images of 4 scenes and 5 captions each."""
    return write_tiny_dataset(tmp_path / "tiny_dataset")


@pytest.fixture
def tiny_parquet_dataset(tiny_dataset, tmp_path):
    """The same rows as parquet files with the columns image, captions, scene, filename."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    features = Features(
        {
            "image": ImageFeature(),
            "captions": List(Value("string")),
            "scene": Value("string"),
            "filename": Value("string"),
        }
    )
    root = tmp_path / "tiny_parquet_dataset"
    root.mkdir()
    for split in ("train", "validation", "test"):
        lines = (tiny_dataset / split / "metadata.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        columns = {
            "image": [{"bytes": (tiny_dataset / split / row["file_name"]).read_bytes(), "path": None} for row in rows],
            "captions": [row["captions"] for row in rows],
            "scene": [row["scene"] for row in rows],
            "filename": [row["file_name"] for row in rows],
        }
        Dataset.from_dict(columns, features=features).to_parquet(root / f"{split}.parquet")
    return root
