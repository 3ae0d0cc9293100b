"""The GPU benchmark, every job of it on a CPU at a tiny size; compilation is left out, which takes minutes there."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from tests.support.paths import ROOT
from training.benchmarks import gpu


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)


@pytest.mark.slow  # 15 seconds
def test_every_job_runs_and_one_file_holds_what_was_measured(tmp_path):
    gpu.main(["--output", str(tmp_path / "gpu.json"), "--tiny", "--batch-size", "2"])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["left_out"] == [] and results["failed"] == {}
    assert results["operations"]["gflops_per_pair"] > results["operations"]["gflops_per_image"] > 0
    for name in ("train_plain", "train_ours", "train_compiled", "train_compiled_written_out"):
        assert results[name]["pairs_per_second"] > 0 and 0 < results["comparisons"][name]["share_of_measured_peak"]
    assert [row["rand_augment"] for row in results["train_compiled"]["loader"]] == [False, True]
    assert all(0 <= row["waiting_share"] < 1 for row in results["train_compiled"]["loader"])
    assert {(row["batch_size"], row["chunk_size"]) for row in results["memory"]["steps"]} == {(2, 0), (2, 1)}


def run_jobs(tmp_path, jobs, minutes=1.0):
    setting = gpu.Setting({}, "cpu", 2, 8, 1, [], 1, 0, 2)
    return gpu.run_jobs(setting, minutes, tmp_path / "gpu.json", jobs)


def test_a_job_that_would_not_end_in_time_is_left_out_and_named(tmp_path):
    def measure(setting):
        yield {"batch_size": setting.batch_size}

    results = run_jobs(tmp_path, [gpu.Job("long", measure, 61), gpu.Job("short", measure, 1)])
    assert results["left_out"] == ["long"] and results["short"] == {"batch_size": 2}


def test_a_job_that_fails_keeps_what_it_found_and_the_other_jobs(tmp_path, capsys):
    def fail(setting):
        yield {"found": 1}
        raise RuntimeError("out of luck")

    def measure(setting):
        yield {"found": 2}

    run_jobs(tmp_path, [gpu.Job("first", fail, 1), gpu.Job("second", measure, 1)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["first"] == {"found": 1} and results["second"] == {"found": 2}
    assert results["failed"] == {"first": "out of luck"} and "RuntimeError" in capsys.readouterr().err


def test_operations_are_twice_the_multiplications_of_the_matrices():
    """A text tower of one layer and nothing else: 2 * length * (4 width^2 + 2 width * inner) and the attention."""
    text = gpu.TINY["text_config"] | {"num_hidden_layers": 1}
    model = gpu.TINY | {"text_config": text, "num_cycles": 0, "num_instruction_layers": 0}
    (found,) = gpu.count_training_flops(dataclasses.replace(gpu.Setting(model, "cpu", 2, 8, 1, [], 1, 0, 2)))
    width, inner, length = 32, 64, 8
    layer = 2 * length * (4 * width**2 + 2 * width * inner) + 4 * length**2 * width
    projection = 2 * length * width * 32
    assert found["gflops_per_text"] == pytest.approx((layer + projection) / 1e9, abs=5e-4)


@pytest.mark.slow
def test_data_sets_are_not_needed():
    """A lent machine may lack `datasets`; importing the benchmark must not ask for it."""
    code = "import sys; sys.modules['datasets'] = None; import training.benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code, "training.benchmarks.gpu"], cwd=ROOT, check=True)
