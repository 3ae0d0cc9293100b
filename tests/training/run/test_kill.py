"""A run that is killed without warning, again and again, ends in the weights of one that was not."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.tiny import model_fields
from training import train as train_module
from training.config import TrainConfig
from training.train import train

NUM_KILLS = 10


def make_config(tiny_dataset, tiny_config, output_dir):
    model = model_fields(tiny_config)
    return TrainConfig(
        output_dir=str(output_dir), data=str(tiny_dataset), model=model, vocab_size=200, captions_per_image=2,
        epochs=10, batch_size=2, learning_rate=1e-3, log_every=1, evaluation_batch_size=4, evaluate_every=2,
        checkpoint_every=1,
    )  # fmt: skip


def train_without_report(config, resume):
    """What the child does: all of a run but the evaluation and the pictures at its end."""
    torch.set_num_threads(1)
    train_module.finish_run = lambda *_: None
    train(config, resume=resume)


def run_in_child(context, config, resume, seconds=None):
    """Train in another process; returns its exit code, -SIGKILL where it was still at work after `seconds`."""
    child = context.Process(target=train_without_report, args=(config, resume))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs forkserver")
def test_killed_ten_times_at_random_moments_the_weights_are_bit_identical(tiny_dataset, tiny_config, tmp_path):
    # Children of a server that has only imported: this process has used OpenMP, whose threads do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    warm = make_config(tiny_dataset, tiny_config, tmp_path / "warm")  # so that the server's imports are not timed
    assert run_in_child(context, warm, resume=False) == 0
    whole = make_config(tiny_dataset, tiny_config, tmp_path / "whole")
    start = time.monotonic()
    assert run_in_child(context, whole, resume=False) == 0
    duration = time.monotonic() - start
    cut = make_config(tiny_dataset, tiny_config, tmp_path / "cut")
    moments = random.Random(0)
    kills, resumes, has_started = 0, 0, False
    while True:
        seconds = None if kills >= NUM_KILLS else moments.uniform(0.05, 0.5) * duration
        exit_code = run_in_child(context, cut, has_started, seconds)
        has_started = Path(cut.output_dir, "config.yaml").exists()
        if exit_code == -signal.SIGKILL:
            kills += 1
            continue
        assert exit_code == 0
        if kills >= NUM_KILLS:
            break
        # It finished before it could be killed often enough: another run, from the start, keeps being killed.
        resumes += 1
        cut = make_config(tiny_dataset, tiny_config, tmp_path / f"cut_{resumes}")
        has_started = False
    left = load_file(f"{whole.output_dir}/last/model.safetensors")
    for folder in sorted(tmp_path.glob("cut*")):
        right = load_file(folder / "last" / "model.safetensors")
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left), folder
        assert (folder / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    print(f"killed {kills} times in {resumes + 1} runs of {duration:.1f} s")
