"""Which files of an archive are new, changed or gone."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...geo.raster import RASTER_SUFFIXES
from ...inference.images import IMAGE_SUFFIXES
from ..stores.columns import FileState
from .labels import LABELS_FILES, Labels, labels_above, loses_facts, read_labels
from .places import file_hash, find_moves, split_gone

MAP_SUFFIXES = (".heat.png", ".heat.tif")  # what pir localize has drawn is no image of the archive


@dataclass
class Scan:
    """What [`scan_files`] found.

    Attributes:
        new: files that are not in the index.
        changed: files whose content is not the indexed one.
        num_unchanged: files that need nothing.
        moved: old paths of indexed files by their new ones.
        relabelled: unchanged files of which the labels have changed.
        gone: indexed files below the folder that are there no more.
        doubtful: those that may be there still: by folder that is empty or cannot be listed, a sentence and the files.
        skipped: files that are no images by their suffix, and links to folders that are looked through anyway.
        outside: links that lead out of what was named, and were followed.
        unreadable: (path, sentence) of files and folders that cannot even be looked at.
        labels: of files that a `metadata.jsonl` or `metadata.csv` describes, see [`read_labels`].
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    num_unchanged: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    relabelled: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    doubtful: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    labels: Labels = field(default_factory=dict)


@dataclass
class Listing:
    """What [`list_files`] found.

    Attributes:
        files: absolute paths, without hidden ones.
        links: to files and folders, wherever they lead.
        skipped: links to folders that are looked through anyway.
        unreadable: (path, sentence) of folders that cannot be listed.
    """

    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
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
        files = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
        listing.files += files
        listing.links += [path for path in files if os.path.islink(path)]
    listing.links += links
    return links


def leading_outside(links: Iterable[str], sources: Iterable[str]) -> list[str]:
    """Those links that lead to none of the sources, nor below one."""
    inside = [os.path.realpath(source) for source in sources]
    return [link for link in links if not any(_is_below(os.path.realpath(link), folder) for folder in inside)]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def scan_files(
    sources: Sequence[str],
    known: Mapping[str, FileState],
    exclude: str,
    root: str | None = None,
    recut: Mapping[str, object] | None = None,
) -> Scan:
    """Compare files with what is indexed, without opening an image.

    A file of the same size and time is taken for unchanged; one of another time only if its hash is the same.

    Args:
        sources: absolute paths of folders and files.
        known: what is indexed, by absolute path.
        exclude: the index itself, which may lie among the images.
        root: of the archive; label files up to there are read.
        recut: options of how scenes are cut; one that was cut by others counts as changed.

    Returns:
        The files by what is to be done with them; `gone` only for a single folder.

    Raises:
        ValueError: a source does not exist.
    """
    listing = list_files(*sources)
    outside = leading_outside(listing.links, sources)
    scan = Scan(skipped=list(listing.skipped), outside=outside, unreadable=list(listing.unreadable))
    files = _image_files(listing, exclude, scan)
    for source in sources:
        labels, errors = labels_above(source, root)
        scan.labels = labels | scan.labels
        scan.unreadable += errors
    for path in files:
        _sort_in(path, known.get(path), scan, recut or {})
    scan.moved = find_moves(scan.new, known)
    scan.new = [path for path in scan.new if path not in scan.moved]
    if len(sources) == 1 and os.path.isdir(sources[0]):
        left = known.keys() - set(files) - set(scan.moved.values())
        folder = os.path.join(sources[0], "")
        scan.gone, scan.doubtful = split_gone(path for path in left if path.startswith(folder))
    return scan


def _image_files(listing: Listing, exclude: str, scan: Scan) -> list[str]:
    """Images and scenes, each once; label files are read, and what else there is is noted."""
    files: dict[str, None] = {}
    own_files, own_folder = (exclude, f"{exclude}-wal", f"{exclude}-shm"), f"{exclude}{os.sep}"  # SQLite adds the two
    for path in listing.files:
        if path in own_files or path.startswith(own_folder):
            continue
        if os.path.basename(path) in LABELS_FILES and os.path.isfile(path):
            labels, errors = read_labels(path)
            scan.labels |= labels
            scan.unreadable += errors
        elif not path.lower().endswith((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)) or path.endswith(MAP_SUFFIXES):
            scan.skipped.append(path)
        else:
            files[path] = None
    return list(files)


def _sort_in(path: str, known: FileState | None, scan: Scan, recut: Mapping[str, object]) -> None:
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
        labels = scan.labels.get(path, {})
        loses = known.chips is not None and loses_facts(known.labels, labels)
        if not same or loses or _is_cut_otherwise(known.chips, recut):
            scan.changed.append(path)
        elif known.labels != labels.get("labels"):
            scan.relabelled.append(path)
        else:
            scan.num_unchanged += 1
    except UnicodeEncodeError:
        printable = path.encode(errors="surrogateescape").decode(errors="replace")
        scan.unreadable.append((printable, f"The name of {printable} is not UTF-8: rename the file."))
    except OSError as error:
        scan.unreadable.append((path, _unreadable(path, error)))


def _is_cut_otherwise(chips: str | None, wanted: Mapping[str, object]) -> bool:
    """Whether a scene was cut by other options than those that are asked for."""
    if chips is None:
        return False
    cut = json.loads(chips)
    return any(cut.get(name) != value for name, value in wanted.items())


def _unreadable(path: str, error: OSError) -> str:
    """What is said of a file or folder that the system refuses."""
    return f"{path} cannot be read ({error.strerror}): allow it, remove it or replace it."
