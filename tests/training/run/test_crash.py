"""One of two processes fails in the middle: the launcher ends soon, says so by its code, and shows the message."""

import subprocess
import time

import pytest

from tests.support.launcher import launch, make_config

MAX_SECONDS = 120  # from the start: imports and two steps take about 20; a hang would last gloo's 30 minutes
FAULTS = {
    "an error": "raise RuntimeError('process one ran out of luck')",
    "a kill": "os.kill(os.getpid(), signal.SIGKILL)",
}
SCRIPT = """
import os, signal
from accelerate import PartialState
from training import train as train_module

check_losses = train_module.check_losses

def fail(unchecked, step, output_dir):
    if step == 2 and PartialState().process_index == 1:
        {fault}
    check_losses(unchecked, step, output_dir)

train_module.check_losses = fail
train_module.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_process_ends_the_others(tiny_dataset, tiny_config, tmp_path, fault):
    config = make_config(tiny_dataset, tiny_config, tmp_path / "run")
    config.epochs = 50
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(fault=FAULTS[fault]))
    start = time.monotonic()
    result = launch(config, tmp_path, 2, [str(script)], MAX_SECONDS)
    seconds = time.monotonic() - start
    assert result.returncode != 0
    expected = "process one ran out of luck" if fault == "an error" else "SIGKILL"
    assert expected in result.stderr + result.stdout, result.stderr[-3000:]
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "run.yaml")], capture_output=True, text=True).stdout
    assert not left, f"still running: {left}"
    print(f"{fault}: the launcher ended with {result.returncode} after {seconds:.0f} s")
