"""Which files of an archive are new, changed or gone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..geo.raster import RASTER_SUFFIXES
from ..inference.images import IMAGE_SUFFIXES
from .rows import LABELS
from .stores.columns import FileState

LABELS_FILE = "metadata.jsonl"  # as in an imagefolder data set: one JSON object with file_name per line


@dataclass
class Scan:
    """What [`scan_files`] found.

    Attributes:
        new: files that are not in the index.
        changed: files whose content is not the indexed one.
        num_unchanged: files that need nothing.
        gone: indexed files below the folder that are there no more; those below an unreadable folder may be there
            still, and are none of them.
        skipped: files that are no images by their suffix, and links to folders that are looked through anyway.
        unreadable: (path, sentence) of files and folders that cannot even be looked at.
        labels: scene, date and sensor of files that a `metadata.jsonl` describes, by path.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    num_unchanged: int = 0
    gone: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass
class Listing:
    """What [`list_files`] found.

    Attributes:
        files: absolute paths, without hidden ones.
        skipped: links to folders that are looked through anyway.
        unreadable: (path, sentence) of folders that cannot be listed.
    """

    files: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def list_files(*sources: str | Path) -> Listing:
    """List files, and all files below folders; linked folders are followed, each folder once.

    Raises:
        ValueError: neither file nor folder.
    """
    listing = Listing()
    pending = [os.path.abspath(source) for source in sources]
    for source in pending:
        if not os.path.exists(source):
            raise ValueError(f"{source} does not exist: name a folder of images and scenes, or one of them.")
    visited: set[tuple[int, int]] = set()
    while pending:  # links are followed last, so that what they lead to keeps the path it has without them
        source = pending.pop(0)
        if os.path.isdir(source):
            pending += _list_folder(source, visited, listing)
        else:
            listing.files.append(source)
    return listing


def _list_folder(top: str, visited: set[tuple[int, int]], listing: Listing) -> list[str]:
    """List what lies below a folder; returns the links to folders that were met."""
    links = []

    def note(error: OSError) -> None:
        listing.unreadable.append((str(error.filename), _unreadable(str(error.filename), error)))

    for folder, folders, names in os.walk(top, onerror=note):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            listing.skipped.append(folder)
            continue
        visited.add((status.st_dev, status.st_ino))
        shown = sorted(name for name in folders if not name.startswith("."))
        links += [path for name in shown if os.path.islink(path := os.path.join(folder, name))]
        folders[:] = [name for name in shown if not os.path.islink(os.path.join(folder, name))]
        listing.files += [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
    return links


def scan_files(listing: Listing, known: Mapping[str, FileState], exclude: str) -> Scan:
    """Compare files with what is indexed, without opening an image.

    A file of the same size and time is taken for unchanged; one of another time only if its hash is the same.

    Args:
        listing: the files.
        known: what is indexed, by path.
        exclude: the index itself, which may lie among the images.

    Returns:
        The files by what is to be done with them.

    Raises:
        ValueError: a `metadata.jsonl` that is broken.
    """
    scan = Scan(skipped=list(listing.skipped), unreadable=list(listing.unreadable))
    seen = set()
    own_files, own_folder = (exclude, f"{exclude}-wal", f"{exclude}-shm"), f"{exclude}{os.sep}"  # SQLite adds the two
    for path in listing.files:
        if path in own_files or path.startswith(own_folder):
            continue
        if os.path.basename(path) == LABELS_FILE and os.path.isfile(path):
            scan.labels |= read_labels(path)
        elif not path.lower().endswith((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)):
            scan.skipped.append(path)
        elif path not in seen:
            seen.add(path)
            _sort_in(path, known.get(path), scan)
    hidden = tuple(os.path.join(folder, "") for folder, _ in listing.unreadable)
    scan.gone = sorted(path for path in known if path not in seen and not path.startswith(hidden))
    return scan


def _sort_in(path: str, known: FileState | None, scan: Scan) -> None:
    """Put an image file into the list it belongs to."""
    try:
        path.encode()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe waits for ever, a device never ends
            scan.unreadable.append((path, f"{path} is a pipe, a socket or a device, no file: remove it."))
            return
        if known is None:
            scan.new.append(path)
            return
        same = status.st_size == known.size and (status.st_mtime == known.time or file_hash(path) == known.hash)
        if same:
            scan.num_unchanged += 1
        else:
            scan.changed.append(path)
    except UnicodeEncodeError:
        printable = path.encode(errors="surrogateescape").decode(errors="replace")
        scan.unreadable.append((printable, f"The name of {printable} is not UTF-8: rename the file."))
    except OSError as error:
        scan.unreadable.append((path, _unreadable(path, error)))


def _unreadable(path: str, error: OSError) -> str:
    """What is said of a file or folder that the system refuses."""
    return f"{path} cannot be read ({error.strerror}): allow it, remove it or replace it."


def read_labels(path: str | Path) -> dict[str, dict[str, str]]:
    """Scene, date and sensor of the files that a `metadata.jsonl` describes.

    Args:
        path: of the file; `file_name` is relative to its folder.

    Returns:
        Labels by absolute path; what is no text is left out.

    Raises:
        ValueError: a line that is no JSON object.
    """
    labels = {}
    folder = os.path.dirname(os.path.abspath(path))
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = entry.get("file_name")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"Line {number} of {path} is no JSON object ({error}): mend it or remove it.") from error
        if isinstance(name, str):
            found = {key: entry[key] for key in LABELS if isinstance(entry.get(key), str)}
            labels[os.path.normpath(os.path.join(folder, name))] = found
    return labels


def file_hash(path: str | Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
