"""The state of a run and what lies beside it never contradict, and no code in them is run."""

import json
import pickle
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from modeling_pir.hub.pretrained import weights_hash
from training import train as train_module
from training.run.checkpoint import Preempted, checkpoints
from training.train import build_accelerator, train


@pytest.fixture
def run(tiny_run):
    return partial(tiny_run, epochs=1, learning_rate=6e-5)


class Bomb:
    """What a pickle of a stranger does when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "optimizer.bin"])
def test_a_foreign_pickle_is_refused_and_not_run(run, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    config = run()
    train(config)
    (newest,) = checkpoints(Path(config.output_dir))
    assert not list(newest.glob("custom_checkpoint*"))
    (newest / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="pickle that would run code|damaged or not ours"):
        train(config, resume=True)
    assert not Path("exploded").exists()


def test_another_precision_is_not_resumed(run):
    config = run()
    train(config)
    path = Path(config.output_dir, "environment.json")
    path.write_text(path.read_text().replace('"precision": "float32"', '"precision": "bfloat16 autocast"'))
    with pytest.raises(ValueError, match="computed in bfloat16 autocast and is resumed in float32"):
        train(config, resume=True)


def test_another_chunk_size_is_resumed(run):
    train(run())
    train(run(chunk_size=1), resume=True)


@pytest.mark.parametrize("moment", ["before the state", "after the state"])
def test_a_kill_between_the_best_model_and_the_state_leaves_a_pair(run, monkeypatch, moment):
    config = run(epochs=2)
    folder, save = Path(config.output_dir), train_module.save_checkpoint

    def killed(accelerator, output_dir, progress, scheduler):
        last = progress.epoch == 1
        if not last or moment == "after the state":
            save(accelerator, output_dir, progress, scheduler)
        if last:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(train_module, "save_checkpoint", save)
    train(config, resume=True)
    best = json.loads((checkpoints(folder)[-1] / "progress.json").read_text())["best"]
    assert weights_hash(folder / "best") == best["weights_sha256"]
    assert not list(folder.glob(".best*"))


def test_a_best_model_that_is_not_the_states_is_refused(run):
    config = run()
    train(config)
    weights = Path(config.output_dir, "best", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ValueError, match="does not hold the weights of epoch 0"):
        train(config, resume=True)


def test_gradients_are_not_accumulated_unseen(run, monkeypatch):
    monkeypatch.setattr(Accelerator, "gradient_accumulation_steps", property(lambda _: 4))
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 4, .* set chunk_size"):
        build_accelerator(run())


def test_a_tracker_that_is_not_installed_is_said(run, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.is_tensorboard_available", lambda: False)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ValueError, match="log_with is 'tensorboard', which is not installed"):
        build_accelerator(run(log_with="tensorboard"))


def test_trackers_get_numbers_and_words(run):
    values = train_module.tracked(run(log_with="tensorboard"))
    assert values["batch_size"] == 2 and isinstance(values["model"], str)
    assert all(isinstance(value, int | float | bool | str) for value in values.values())


def test_sigterm_ends_the_training_of_the_prior(run):
    before = signal.getsignal(signal.SIGTERM)
    config = run(instruction_epochs=2000)
    timer = threading.Timer(4, lambda: signal.raise_signal(signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(Preempted, match="prior"):
            train(config)
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)


def test_a_full_disk_at_the_start_leaves_no_half_configuration(run, monkeypatch):
    config = run()

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="The disk is full: .*environment.json"):
        train(config)
    assert not Path(config.output_dir, "config.yaml").exists()


def test_scale_beyond_the_bound_is_brought_back_by_a_step(run):
    config = run()
    config.model["logit_scale_init_value"] = 4.9
    train(config)
    lines = [json.loads(line) for line in Path(config.output_dir, "metrics.jsonl").read_text().splitlines()]
    assert all(line["logit_scale"] == pytest.approx(100, rel=1e-4) for line in lines if "logit_scale" in line)
    assert torch.isfinite(torch.tensor([line["loss"] for line in lines if "loss" in line])).all()
