"""Locate the files of an archive: its root, files that have moved, files that only seem to be gone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from ..stores.columns import FileState

NUM_PROBED = 100  # files that are looked for below a new root


def file_hash(path: str | Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def common_folder(sources: Sequence[str]) -> str:
    """The folder that holds all sources; a single folder is that itself."""
    folders = [source if os.path.isdir(source) else os.path.dirname(source) for source in sources]
    return os.path.commonpath(folders)


def new_root(root: str, known: Iterable[str], sources: Sequence[str]) -> str | None:
    """Where an archive is now that its root is gone: a source, or a folder above, below which its files are.

    Args:
        root: where it was.
        known: absolute paths of its files as they were.
        sources: folders and files that are there now, absolute.

    Returns:
        The folder below which most of the files that are looked for are found; None where the root is still there.
    """
    if os.path.isdir(root) and any(not name.startswith(".") for name in os.listdir(root)):
        return None
    below = [os.path.relpath(path, root) for path in known if path.startswith(os.path.join(root, ""))]
    step = max(1, len(below) // NUM_PROBED)
    probed = below[::step]
    folder = common_folder(sources)
    for candidate in (folder, *map(str, Path(folder).parents)):
        if probed and 2 * sum(os.path.lexists(os.path.join(candidate, name)) for name in probed) > len(probed):
            return candidate
    return None


def find_moves(new: Iterable[str], known: Mapping[str, FileState]) -> dict[str, str]:
    """Which new files are indexed files that have been moved or renamed: of the same content, and gone from there.

    A scene keeps its name, since it may tell date and sensor.

    Args:
        new: absolute paths that are not indexed.
        known: state of all indexed files, by absolute path.

    Returns:
        Old paths by new ones.
    """
    by_size: dict[int | None, list[str]] = {}
    for path, state in known.items():
        by_size.setdefault(state.size, []).append(path)
    moves: dict[str, str] = {}
    for path in new:
        try:
            candidates = by_size.get(os.path.getsize(path), [])
            gone = [old for old in candidates if _is_gone(old)]
            digest = file_hash(path) if gone else None
        except OSError:  # it is reported when it is embedded
            continue
        for old in gone:
            same_name = known[old].chips is None or os.path.basename(old) == os.path.basename(path)
            if known[old].hash == digest and same_name and old not in moves.values():
                moves[path] = old
                break
    return moves


def _is_gone(path: str) -> bool:
    """Whether nothing is at a path; a folder that cannot be looked into may hold it still."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def split_gone(missing: Iterable[str]) -> tuple[list[str], dict[str, tuple[str, list[str]]]]:
    """Which indexed files that were not found are gone, and which may be there still.

    Args:
        missing: absolute paths.

    Returns:
        Those that are gone without a doubt; and by folder that is gone as a whole, is empty, cannot be listed or leads
        nowhere: a sentence, and the files that were in it.
    """
    gone: list[str] = []
    doubtful: dict[str, tuple[str, list[str]]] = {}
    what_is_strange = cache(_what_is_strange)
    for path in missing:
        folder = os.path.dirname(path)
        while not os.path.lexists(folder) and not os.path.lexists(os.path.dirname(folder)):
            folder = os.path.dirname(folder)
        above = os.path.dirname(folder)
        if not os.path.lexists(folder) and what_is_strange(above) is not None:  # empty as a whole, or shut
            folder = above
        if (reason := what_is_strange(folder)) is None:
            gone.append(path)
        else:
            doubtful.setdefault(folder, (f"{folder} {reason}", []))[1].append(path)
    return sorted(gone), doubtful


def _what_is_strange(folder: str) -> str | None:
    """Why files that were below a folder may be there still; None where they are not."""
    try:
        if any(not name.startswith(".") for name in os.listdir(folder)):
            return None
    except FileNotFoundError:
        return "is a link that leads nowhere" if os.path.islink(folder) else "is gone, as where a disk is not mounted"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    return "is empty, as where a disk is not mounted"
