"""Which files of an archive are new, changed or gone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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
        gone: indexed files below the folder that are there no more.
        skipped: files that are no images by their suffix.
        unreadable: (path, sentence) of files that cannot even be looked at.
        labels: scene, date and sensor of files that a `metadata.jsonl` describes, by path.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    num_unchanged: int = 0
    gone: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)


def list_files(source: str | Path) -> list[str]:
    """Absolute paths of a file, or of all files below a folder; hidden ones are left out.

    Raises:
        ValueError: neither file nor folder.
    """
    source = os.path.abspath(source)
    if os.path.isfile(source):
        return [source]
    if not os.path.isdir(source):
        raise ValueError(f"{source} does not exist: name a folder of images and scenes, or one of them.")
    files = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
    return files


def scan_files(files: Iterable[str], known: Mapping[str, FileState], exclude: str) -> Scan:
    """Compare files with what is indexed, without opening an image.

    A file of the same size and time is taken for unchanged; one of another time only if its hash is the same.

    Args:
        files: absolute paths.
        known: what is indexed, by path.
        exclude: the index itself, which may lie among the images.

    Returns:
        The files by what is to be done with them.

    Raises:
        ValueError: a `metadata.jsonl` that is broken.
    """
    scan = Scan()
    seen = set()
    own_files, own_folder = (exclude, f"{exclude}-wal", f"{exclude}-shm"), f"{exclude}{os.sep}"  # SQLite adds the two
    for path in files:
        if path in own_files or path.startswith(own_folder):
            continue
        if os.path.basename(path) == LABELS_FILE:
            scan.labels |= read_labels(path)
        elif not path.lower().endswith((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)):
            scan.skipped.append(path)
        elif path not in seen:
            seen.add(path)
            _sort_in(path, known.get(path), scan)
    scan.gone = sorted(path for path in known if path not in seen)
    return scan


def _sort_in(path: str, known: FileState | None, scan: Scan) -> None:
    """Put an image file into the list it belongs to."""
    try:
        path.encode()
        if known is None:
            scan.new.append(path)
            return
        status = os.stat(path)
        same = status.st_size == known.size and (status.st_mtime == known.time or file_hash(path) == known.hash)
        if same:
            scan.num_unchanged += 1
        else:
            scan.changed.append(path)
    except UnicodeEncodeError:
        printable = path.encode(errors="surrogateescape").decode(errors="replace")
        scan.unreadable.append((printable, f"The name of {printable} is not UTF-8: rename the file."))
    except OSError as error:
        scan.unreadable.append((path, f"{path} cannot be read ({error.strerror}): remove it or replace it."))


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
