"""A run folder as `training.train` leaves it, from a model at hand and with numbers that no model earned."""

import json

from PIL import Image

from modeling_pir.hub.pretrained import weights_hash
from training.config import TrainConfig, save_config
from training.evaluation.metrics import METRICS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_run(folder, model, processor, environment=None, test=None, **config):
    """Write the run; `environment`, `test` and `config` replace single facts. Returns the folder."""
    folder.mkdir(parents=True)
    model.save_pretrained(folder / "best")
    processor.save_pretrained(folder / "best")
    save_config(TrainConfig(output_dir=str(folder), epochs=9, **config), folder / "config.yaml")
    split = {"images": 4, "captions": 20, "distinct_captions": 19, "shared_captions": 2, "sha256": "0"}
    facts = {
        "started": "2026-01-01T00:00:00+00:00",
        "commit": COMMIT,
        "uncommitted_changes": False,
        "python": "3.11.7",
        "packages": {"torch": "2.14.1", "timm": None},
        "device": "x86_64 CPU",
        "processes": 1,
        "precision": "float32",
        "torch_threads": 1,
        "splits": {name: split for name in ("train", "validation", "test")},
    }
    (folder / "environment.json").write_text(json.dumps(facts | (environment or {})))
    result = {
        "split": "test",
        "epoch": 6,
        **{key: 31.25 + place for place, key in enumerate(METRICS)},
        "instruction": "Start: random weights. Frozen in the joint training.",
        "chance": dict.fromkeys(METRICS, 7.5),
        "weights_sha256": weights_hash(folder / "best"),
        "seconds_of_run": 83.0,
        "peak_memory_gib": None,
    }
    (folder / "test.json").write_text(json.dumps(result | (test or {})))
    for name in ("gallery.png", "belief.png", "curves.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder
