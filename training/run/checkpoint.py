"""Checkpoints, written completely or not at all, with everything a run needs to resume exactly.

A folder is written beside its place, flushed to the disk and renamed, so that a kill at any moment leaves the old one
or the new one. Randomness needs no saving: items are drawn by (seed, epoch, index), dropout by (seed, step, process).
"""

import hashlib
import json
import pickle
import shutil
import signal
import threading
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler

from modeling_pir.hub.whole_folder import _partial, disk_full, put_in_place
from training.run.state import RunState

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the run was told to stop, has saved itself and can be resumed
CHECKPOINTS = "checkpoints"


class Preempted(Exception):  # noqa: N818 - no error: the run ends as it was asked to
    """The run got SIGTERM and saved a checkpoint."""


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Make the randomness of a step (dropout, stochastic depth) a function of the run's seed and the step alone.

    Args:
        seed: of the run.
        step: number of the update.
        process_index: so that processes draw different masks.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{process_index}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def save_checkpoint(accelerator: Accelerator, output_dir: Path, state: RunState, scheduler: LRScheduler) -> None:
    """Save everything that a resumed run needs; every process calls it. The checkpoint before it is then removed.

    Args:
        accelerator: knows the model, the optimiser and the gradient scaler.
        output_dir: the run folder.
        state: how far the run has come.
        scheduler: of the learning rate; its state is numbers, which go into progress.json.

    Raises:
        OSError: the disk is full; the checkpoint before it is intact.
    """
    folder = output_dir / CHECKPOINTS / f"step_{state.step:09d}"
    if folder.exists():  # a resumed run that has not moved yet
        return
    # To save an optimiser that holds nothing yet, torch lets FSDP2's take a step, which AdamW would count for good. A
    # sharded run that was stopped before its first checkpoint starts anew instead.
    if accelerator.is_fsdp2 and not state.step:
        return
    partial = _partial(folder)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            saved = asdict(state) | {"schedule": scheduler.state_dict()}
            (partial / "progress.json").write_text(json.dumps(saved))
            put_in_place(folder)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise disk_full(error, folder) or error from error
    if accelerator.is_main_process:
        for older in checkpoints(output_dir)[:-1]:
            shutil.rmtree(older)
    accelerator.wait_for_everyone()


def checkpoints(output_dir: Path) -> list[Path]:
    """Whole checkpoints of a run, the newest last."""
    return sorted((output_dir / CHECKPOINTS).glob("step_*"))


def load_checkpoint(accelerator: Accelerator, output_dir: Path, scheduler: LRScheduler) -> RunState | None:
    """Load the newest whole checkpoint into what the accelerator has prepared; no code in it is run.

    accelerate loads its own files as tensors alone (`weights_only`), but would run what a custom object's pickle says:
    there is none of ours, so that one which lies there is refused.

    Args:
        accelerator: of the run, after `prepare`.
        output_dir: the run folder.
        scheduler: of the learning rate.

    Returns:
        The state it was saved with; None where the run had saved none.

    Raises:
        ValueError: the checkpoint holds a pickle that is not ours, or is damaged.
    """
    whole = checkpoints(output_dir)
    if not whole:
        return None
    folder = whole[-1]
    again = f"remove {str(output_dir)!r} and start the run anew"
    if foreign := sorted(file.name for file in folder.glob("custom_checkpoint_*")):
        raise ValueError(
            f"The checkpoint {folder} holds {foreign[0]}, a pickle that would run code and that this version does not "
            f"write: {again}."
        )
    try:
        accelerator.load_state(str(folder))
        progress = json.loads((folder / "progress.json").read_text())
    except (pickle.UnpicklingError, EOFError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"The checkpoint {folder} is damaged or not ours ({reason}): {again}.") from error
    scheduler.load_state_dict(progress.pop("schedule"))
    return RunState(**progress)


def stop_at_sigterm() -> threading.Event:
    """An event that is set when the process is told to end, as a preempted node is."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread set a handler
        signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return stop


def stop_if_told(accelerator: Accelerator, stop: threading.Event) -> None:
    """End a part of a run that has nothing to save yet.

    Raises:
        Preempted: a process was told to stop.
    """
    if is_told_to_stop(accelerator, stop):
        raise Preempted("Stopped by SIGTERM while the prior was trained; --resume begins that anew.")


def is_told_to_stop(accelerator: Accelerator, stop: threading.Event) -> bool:
    """Whether any process was told to stop; all of them learn it at the same step."""
    if accelerator.num_processes == 1:
        return stop.is_set()
    if stop.is_set():
        accelerator.set_trigger()
    return accelerator.check_trigger()
