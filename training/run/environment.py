"""The environment of a run: commit, package versions, device, memory."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset

from training.data.loader import split_facts
from training.data.stream import Stream

ROOT = Path(__file__).parents[2]
PRECISION_WORDS = {"no": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast"}  # of accelerate's names
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "torchvision", "timm", "numpy", "pillow")


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, GiB; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def environment(accelerator: Accelerator, splits: dict[str, Dataset | Stream]) -> dict[str, Any]:
    """What a run depends on beside its configuration.

    Args:
        accelerator: of the run.
        splits: name to rows.

    Returns:
        Start (UTC), commit, versions, hardware, precision and the facts of every split, ready for JSON.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **git_state(ROOT),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": precision_of(accelerator),
        "torch_threads": torch.get_num_threads(),
        "splits": {name: split_facts(rows) for name, rows in splits.items()},
    }


def precision_of(accelerator: Accelerator) -> str:
    """What a run computes in, in words."""
    return PRECISION_WORDS.get(accelerator.mixed_precision, accelerator.mixed_precision)


def mixed_precision_of(folder: Path) -> str:
    """What a run computed in, by accelerate's name, from its environment.json."""
    words = json.loads((folder / "environment.json").read_text())["precision"]
    return next((name for name, known in PRECISION_WORDS.items() if known == words), words)


def git_state(folder: Path) -> dict[str, str | bool | None]:
    """Commit of a checkout and whether its tracked files were changed; both None where there is no git checkout."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or the folder is no checkout
        return {"commit": None, "uncommitted_changes": None}
    return {"commit": commit.strip(), "uncommitted_changes": bool(changes.strip())}


def package_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:  # timm is optional
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} {device.type.upper()}, {os.cpu_count()} cores"
