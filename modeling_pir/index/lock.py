"""One writer at a time: the lock of an index, which names its owner to those who wait."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

WAIT_SECONDS = 600.0  # for another writer, whose run may be all but done
logger = logging.getLogger(__name__)


def writer_lock(path: str | Path) -> FileLock:
    """The lock of an index on a disk; not yet taken.

    The system holds it for a process and lets it go when that ends, however it ends: no lock is left by a dead one. On
    a network disk this is so where the disk's own locks work. The file lies in the folder of a Lance table, and beside
    a SQLite file or what is not there yet.

    Args:
        path: of the index.
    """
    path = Path(path)
    return FileLock(path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock"))


@contextmanager
def holding(lock: FileLock) -> Iterator[None]:
    """Hold a lock; who holds it already keeps it, and whoever else does is named and waited for.

    Args:
        lock: see [`writer_lock`].

    Raises:
        OSError: another process has held it for `WAIT_SECONDS`, or its file cannot be written.
    """
    if lock.is_locked:  # by this thread
        yield
        return
    _take(lock)
    owner = _owner_file(lock)
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _take(lock: FileLock) -> None:
    """Take a lock at once, or say for whom one waits, and wait."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s is writing to this index: waiting for it.", _owner(lock))
        try:
            lock.acquire(timeout=WAIT_SECONDS)
        except Timeout as error:
            raise OSError(
                f"{_owner(lock)} is still writing to this index ({lock.lock_file}): run this again when it has ended."
            ) from error


def _owner_file(lock: FileLock) -> Path:
    """Where the owner writes who it is; the lock's own file is emptied by those who try it."""
    return Path(f"{lock.lock_file}.owner")


def _owner(lock: FileLock) -> str:
    """The owner of a lock in words."""
    try:
        owner = json.loads(_owner_file(lock).read_text())
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["since"]))
        return f"Process {owner['pid']} on {owner['host']} (since {since})"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "Another process"
