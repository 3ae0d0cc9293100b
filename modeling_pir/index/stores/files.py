"""Where an index lies: its store is made whole or not at all, and opened by what lies at its path."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Literal

from ...hub.lock import holding, writer_lock
from .lance_store import LanceStore
from .sqlite_store import ExactStore
from .store import is_address

WAIT_SECONDS = 600.0  # for another writer, whose run may be all but done


def full_path(path: str | Path) -> str:
    """An absolute path; an address of object storage stays as it is."""
    return str(path) if is_address(path) else os.path.abspath(path)


def create_store(
    path: str | Path, description: dict, engine: Literal["lance", "exact"] | None = None
) -> LanceStore | ExactStore:
    """Make an empty store under another name, and rename it, so that a kill or a full disk leaves its path free.

    Args:
        path: of the index, where nothing may be.
        description: of its encoder.
        engine: None takes Lance if lancedb is installed.

    Raises:
        ValueError: there is something at the path.
        ImportError: "lance", and lancedb is missing.
        OSError: the path cannot be written.
    """
    path = full_path(path)
    engine = engine or ("lance" if importlib.util.find_spec("lancedb") else "exact")
    store_class = {"lance": LanceStore, "exact": ExactStore}[engine]
    if is_address(path):
        return store_class.create(path, description)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lock = writer_lock(path)
    with holding(lock, WAIT_SECONDS):
        if os.path.exists(path):
            raise ValueError(f"{path} exists already: open it with PIRIndex.open, or name another path.")
        partial = Path(path).with_name(f".{Path(path).name}.partial")
        _remove(partial)  # of a run that was killed
        try:
            store_class.create(str(partial), description).close()
            partial.rename(path)
        finally:
            _remove(partial)
    if engine == "lance":  # whose own lock lies in its folder from here on
        Path(lock.lock_file).unlink(missing_ok=True)
    return store_class(path)


def open_store(path: str | Path) -> LanceStore | ExactStore:
    """Open a store: a file is SQLite's, a folder or an address Lance's.

    Raises:
        ValueError: no index there.
        ImportError: a Lance table, and lancedb is missing.
    """
    path = full_path(path)
    if not is_address(path) and not os.path.exists(path):
        raise ValueError(f"{path} is not an index: make one with pir index.")
    return ExactStore(path) if os.path.isfile(path) else LanceStore(path)


def _remove(partial: Path) -> None:
    """Remove an index that was never finished, with what SQLite lays beside it."""
    if partial.is_dir():
        shutil.rmtree(partial)
    for path in (partial, *(partial.with_name(partial.name + end) for end in ("-journal", "-wal", "-shm"))):
        path.unlink(missing_ok=True)
