"""One writer at a time: a lock that names its owner to those who wait."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def writer_lock(path: str | Path) -> FileLock:
    """The lock of a file or folder on a disk; not yet taken.

    The system holds it for a process and lets it go when that ends, however it ends: no lock is left by a dead one. On
    a network disk this is so where the disk's own locks work. The lock's own file lies in a folder that is there,
    and beside a file or what is not there yet.

    Args:
        path: of what is written, such as an index.
    """
    path = Path(path)
    return FileLock(path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock"))


@contextmanager
def holding(lock: FileLock, wait: float) -> Iterator[None]:
    """Hold a lock; who holds it already keeps it, and whoever else does is named and waited for.

    Args:
        lock: see [`writer_lock`].
        wait: seconds; -1 for as long as it takes.

    Raises:
        BlockingIOError: (an OSError) another process has held it all that time.
        OSError: the lock's file cannot be written.
    """
    if lock.is_locked:  # by this thread
        yield
        return
    _take(lock, wait)
    owner = _owner_file(lock)
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _take(lock: FileLock, wait: float) -> None:
    """Take a lock at once, or say for whom one waits, and wait."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait:
            logger.warning("%s is writing to it: waiting for %s.", _owner(lock), lock.lock_file)
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            raise BlockingIOError(
                f"{_owner(lock)} is still writing, and holds {lock.lock_file}: run this again when it has ended."
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
