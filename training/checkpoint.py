"""Checkpoints that are whole or not there, and what a run needs to go on from one as if nothing had happened.

A folder is written beside its place, flushed to the disk and renamed, so that a kill at any moment leaves the old one
or the new one. Randomness needs no saving: items are drawn by (seed, epoch, index), dropout by (seed, step, process).
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from training.config import TrainConfig, load_config

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the run was told to stop, has saved itself and can be resumed
FREE_TO_CHANGE = {"output_dir", "log_with", "log_every", "num_workers", "cache_images", "checkpoint_every"}
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


def _flush(folder: Path) -> None:
    """Force the files of a folder, and the folder itself, onto the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _retired(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder and put it in its place at once; an older one of that name is replaced.

    Args:
        folder: where it is to be.
        write: gets the folder to write to.

    Raises:
        OSError: the disk is full; what was there before is still there, what was half written is gone.
    """
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        put_in_place(folder)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise disk_full(error, folder) or error from error


def disk_full(error: BaseException, folder: Path) -> OSError | None:
    """A sentence for an error that comes of a full disk, however the library wraps it; None for other errors."""
    message = str(error)
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in message or "os error 28" in message
    # torch.save and safetensors say it in their own words
    full = full or "PytorchStreamWriter failed" in message or "unexpected pos" in message
    if not full:
        return None
    return OSError(
        errno.ENOSPC, f"The disk is full: {folder} was not written, what was saved before is intact. Free space, resume"
    )


def put_in_place(folder: Path) -> None:
    """Rename a filled partial folder to its name, once it is on the disk."""
    partial, retired = _partial(folder), _retired(folder)
    _flush(partial)
    if folder.exists():
        shutil.rmtree(retired, ignore_errors=True)
        folder.rename(retired)
    partial.rename(folder)
    _flush_entry(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _flush_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover_folder(folder: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    if not folder.exists() and _retired(folder).exists():
        _retired(folder).rename(folder)


def save_checkpoint(accelerator: Accelerator, output_dir: Path, progress: dict[str, Any]) -> None:
    """Save everything that a resumed run needs; every process calls it. The checkpoint before it is then removed.

    Args:
        accelerator: knows the model, the optimiser, the schedule and the gradient scaler.
        output_dir: the run folder.
        progress: `epoch`, `step`, `step_in_epoch`, `best`, `prior`.

    Raises:
        OSError: the disk is full; the checkpoint before it is intact.
    """
    folder = output_dir / CHECKPOINTS / f"step_{progress['step']:09d}"
    if folder.exists():  # a resumed run that has not moved yet
        return
    # To save an optimiser that holds nothing yet, torch lets FSDP2's take a step, which AdamW would count for good. A
    # sharded run that was stopped before its first checkpoint starts anew instead.
    if accelerator.is_fsdp2 and not progress["step"]:
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
            (partial / "progress.json").write_text(json.dumps(progress))
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


def load_checkpoint(accelerator: Accelerator, output_dir: Path) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into what the accelerator has prepared.

    Args:
        accelerator: of the run, after `prepare`.
        output_dir: the run folder.

    Returns:
        The progress it was saved with; None where the run had saved none.
    """
    whole = checkpoints(output_dir)
    if not whole:
        return None
    accelerator.load_state(str(whole[-1]))
    return json.loads((whole[-1] / "progress.json").read_text())


def check_resumable(config: TrainConfig, fingerprints: dict[str, str], num_processes: int) -> None:
    """Refuse to go on with what would silently be another run.

    Args:
        config: of the resumed run.
        fingerprints: of its data, by split.
        num_processes: it runs on.

    Raises:
        ValueError: there is no run to resume, or its settings or data were others; all differences are listed.
    """
    folder = Path(config.output_dir)
    if not (folder / "config.yaml").is_file() or not (folder / "environment.json").is_file():
        raise ValueError(f"There is no run in {config.output_dir!r} to resume: start it without --resume.")
    old, new = dataclasses.asdict(load_config(folder / "config.yaml")), dataclasses.asdict(config)
    # The loader processes of a streamed run share out its shards, so that their number decides the order.
    free = FREE_TO_CHANGE - {"num_workers"} if config.streaming else FREE_TO_CHANGE
    differences = [
        f"{name} was {old[name]!r} and is {new[name]!r}" for name in new if old[name] != new[name] and name not in free
    ]
    then = json.loads((folder / "environment.json").read_text())
    differences += [
        f"the {split} data had the fingerprint {then['splits'][split]['fingerprint']} and has {value}"
        for split, value in fingerprints.items()
        if then["splits"][split]["fingerprint"] != value
    ]
    if then["processes"] != num_processes:
        differences.append(f"it ran on {then['processes']} processes and is resumed on {num_processes}")
    if differences:
        raise ValueError(
            f"The run in {config.output_dir!r} cannot be resumed as another one: {'; '.join(differences)}. Undo the "
            "change, or start a new run in another folder."
        )
