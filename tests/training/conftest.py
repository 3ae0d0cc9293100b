"""Fixtures of the training's tests: a tiny run, and runs that end without their report."""

import json
from pathlib import Path

import datasets
import pytest

from tests.support.tiny import model_fields
from training import train as train_module
from training.config import TrainConfig

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # 5 seconds behind each pass over parquet shards


@pytest.fixture
def without_report(monkeypatch):
    """Pictures and report have tests of their own; here only the numbers are kept."""

    def finish(config, splits, state):
        (Path(config.output_dir) / "test.json").write_text(json.dumps(state.best))

    monkeypatch.setattr(train_module, "finish_run", finish)


@pytest.fixture
def tiny_run(tiny_dataset, tiny_config, tmp_path, without_report):
    """Configuration of a run of 2 epochs with 2 steps each, which ends without its report."""

    def make(name="run", **fields):
        settings = {
            "output_dir": str(tmp_path / name), "data": str(tiny_dataset), "model": model_fields(tiny_config),
            "vocab_size": 200, "captions_per_image": 2, "epochs": 2, "batch_size": 2, "learning_rate": 1e-3,
            "log_every": 1, "evaluation_batch_size": 4,
        }  # fmt: skip
        return TrainConfig(**settings | fields)

    return make
