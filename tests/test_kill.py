"""A run that is killed without warning, again and again, ends in the weights of one that was not."""

import os
import random
import signal
import sys
import time
import traceback

import pytest
import torch
from safetensors.torch import load_file

from training import train as train_module
from training.config import TrainConfig
from training.train import train

NUM_KILLS = 10


def make_config(tiny_dataset, tiny_config, output_dir):
    model = tiny_config.to_diff_dict()
    towers = ("vision_config", "text_config", "instruction_config")
    model = {key: model[key] for key in (*towers, "projection_dim", "num_attention_heads", "feedforward_dim")}
    return TrainConfig(
        output_dir=str(output_dir), data=str(tiny_dataset), model=model, vocab_size=200, captions_per_image=2,
        epochs=10, batch_size=2, learning_rate=1e-3, log_every=1, evaluation_batch_size=4, evaluate_every=2,
        checkpoint_every=1,
    )  # fmt: skip


def run_in_child(config, resume):
    """Train in a forked process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:  # the child must never return into pytest
        train(config, resume=resume)
        os._exit(0)
    except BaseException:  # reported by its exit code
        traceback.print_exc(file=sys.stderr)
        os._exit(1)


def wait(pid, seconds=None):
    """Exit status of a child; kills it after `seconds` if it is still at work."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if deadline is not None and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_ten_times_at_random_moments_the_weights_are_bit_identical(
    tiny_dataset, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_module, "finish_run", lambda *_: None)
    torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
    whole = make_config(tiny_dataset, tiny_config, tmp_path / "whole")
    start = time.monotonic()
    assert wait(run_in_child(whole, resume=False)) == 0
    duration = time.monotonic() - start
    cut = make_config(tiny_dataset, tiny_config, tmp_path / "cut")
    moments = random.Random(0)
    kills, resumes, has_started = 0, 0, False
    while True:
        seconds = None if kills >= NUM_KILLS else moments.uniform(0.05, 0.5) * duration
        status = wait(run_in_child(cut, resume=has_started), seconds)
        has_started = (tmp_path / "cut" / "config.yaml").exists()
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.WEXITSTATUS(status) == 0
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
