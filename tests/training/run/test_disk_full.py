"""A disk that is really full: one sentence, the checkpoint before it intact, and the run goes on after."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.support.launcher import launch, make_config
from training import train as train_module
from training.run.checkpoint import checkpoints
from training.run.state import RunState
from training.train import train

DISK_BYTES = 4 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk, keep_free):
    """A file that leaves `keep_free` bytes."""
    ballast = disk / "ballast"
    free = int(subprocess.run(["df", "-B1", "--output=avail", disk], capture_output=True, text=True).stdout.split()[1])
    ballast.write_bytes(b"0" * (free - keep_free))
    return ballast


@pytest.mark.slow
@pytest.mark.parametrize("keep_free", [0, 20_000, 400_000, 900_000])  # fails in the weights, the optimiser, or later
def test_a_full_disk_stops_with_one_sentence_and_the_run_goes_on_after(
    small_disk, tiny_dataset, tiny_config, tmp_path, monkeypatch, without_report, keep_free
):
    whole, cut = (make_config(tiny_dataset, tiny_config, folder / "run") for folder in (tmp_path, small_disk))
    for config in (whole, cut):
        config.epochs, config.checkpoint_every, config.batch_size = 2, 1, 2
    train(whole)
    ballast = []
    is_told_to_stop = train_module.is_told_to_stop

    def fill_after_first_step(*arguments):
        if not ballast:
            ballast.append(fill(small_disk, keep_free))
        return is_told_to_stop(*arguments)

    monkeypatch.setattr(train_module, "is_told_to_stop", fill_after_first_step)
    with pytest.raises(
        OSError, match=r"The disk is full: .*(step_\d+|last|best|metrics\.jsonl).* was not written.* Free space, resume"
    ):
        train(cut)
    left = checkpoints(Path(cut.output_dir))
    assert len(left) == 1 and (left[0] / "progress.json").is_file()
    assert not list(Path(cut.output_dir).rglob("*.partial"))
    ballast[0].unlink()
    monkeypatch.setattr(train_module, "is_told_to_stop", is_told_to_stop)
    train(cut, resume=True)
    expected, found = (load_file(f"{config.output_dir}/last/model.safetensors") for config in (whole, cut))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_by_the_log_of_metrics_too(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"The disk is full: .*metrics.jsonl was not written"):
        train_module.write_record(SimpleNamespace(is_main_process=True), tmp_path, {"loss": 1.0}, RunState())


@pytest.mark.slow
def test_a_full_disk_ends_both_processes(small_disk, tiny_dataset, tiny_config, tmp_path):
    config = make_config(tiny_dataset, tiny_config, small_disk / "run")
    fill(small_disk, 100_000)
    result = launch(config, tmp_path, 2, timeout=120)
    assert result.returncode != 0
    assert "error: [Errno 28] The disk is full" in result.stderr and str(small_disk / "run") in result.stderr
