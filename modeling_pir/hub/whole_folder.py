"""Write folders and files completely or not at all, even if the process dies."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_folder(out_dir: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only when everything in it was written.

    Args:
        out_dir: its name; must not exist, or be empty.

    Yields:
        A folder beside it to write to; renamed at the end, removed if anything fails.

    Raises:
        ValueError: `out_dir` is a file or holds something.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{str(out_dir)!r} exists already: remove it or choose another name.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's folders are private
        partial.replace(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file that takes its name, and the place of an older one, only when everything in it was written.

    Args:
        path: its name.

    Yields:
        A file beside it to write to, with the same suffix; renamed at the end, removed if anything fails.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    fill_folder(folder, write)
    put_in_place(folder)


def fill_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """The first half of [`write_folder`]: the new folder is whole and on the disk, but waits beside its place.

    Args:
        folder: where it is to be, by [`put_in_place`].
        write: gets the folder to write to.

    Returns:
        Where it waits.

    Raises:
        OSError: the disk is full; what was half written is gone.
    """
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        _flush(partial)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise disk_full(error, folder) or error from error
    return partial


def waiting_folder(folder: Path) -> Path | None:
    """What [`fill_folder`] left beside the place of a folder; None where nothing waits."""
    return _partial(folder) if _partial(folder).exists() else None


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    partial = _partial(path)
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_full(error, path) or error from error


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


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn a disk that is full into a sentence that names the folder."""
    try:
        yield
    except Exception as error:
        raise disk_full(error, folder) or error from error


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
