"""Changes to the rows of an index: files written as they are embedded, relabelled, moved, deleted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..geo.raster import is_georaster
from .archive.labels import fit_labels, relabel
from .stores.columns import Row, in_files, row_id

if TYPE_CHECKING:
    from .archive.scan import Scan
    from .embed_files import EmbeddedFile
    from .stores.lance_store import LanceStore
    from .stores.sqlite_store import ExactStore


COMMIT_ROWS = 10_000  # rows that are written at once, unless
COMMIT_SECONDS = 20.0  # it is so long since the last were: what a crash can cost
CHANGED_FILES = 1_000  # whose rows are read, changed and written at once
Note = Callable[[Sequence[Row], np.ndarray], None]


@dataclass
class AddReport:
    """What was done to an index.

    Attributes:
        added: rows written, one per image or chip.
        unchanged: files that were in the index as they are.
        moved: files that were found at another place, and were not embedded again.
        relabelled: files whose labels have changed, and that were not embedded again.
        deleted: rows deleted because their file is gone.
        skipped: files that are no images by their suffix.
        outside: links that lead out of the folders and files that were named, and were followed.
        unplaced: scenes that say nothing about their place, indexed without a footprint.
        errors: (path, sentence) of files that could not be read, of labels that do not fit, and of folders whose files
            may only seem to be gone; the others are indexed all the same.
    """

    added: int = 0
    unchanged: int = 0
    moved: int = 0
    relabelled: int = 0
    deleted: int = 0
    skipped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


def apply_scan(
    store: LanceStore | ExactStore,
    files: Iterable[EmbeddedFile],
    scan: Scan,
    note: Note,
    delete_gone: bool = False,
    force: bool = False,
) -> AddReport:
    """Bring rows to the state that a scan has found.

    Args:
        store: of the index, whose only writer this is.
        files: new and changed files, embedded.
        scan: what else is to be done, and reported.
        note: completes rows by their vectors before they are written.
        delete_gone: whether rows of files that are gone are deleted,
        force: even of those that may only seem to be gone.

    Returns:
        What was done.

    Raises:
        OSError: the index cannot be written; earlier commits are kept.
    """
    report = AddReport(skipped=list(scan.skipped), outside=list(scan.outside), errors=list(scan.unreadable))
    _move(store, scan.moved, scan.labels)
    _change(store, scan.relabelled, lambda row: relabel(row, scan.labels.get(row["path"], {})))
    report.moved, report.relabelled = len(scan.moved), len(scan.relabelled)
    _write_files(store, files, scan, note, report)
    report.unchanged = scan.num_unchanged  # known only now where images come one by one
    if delete_gone:
        told = {path for path, _ in report.errors}
        doubtful = [path for _, paths in scan.doubtful.values() for path in paths]
        if not force:
            report.errors += [
                (folder, f"{sentence}: {len(paths):,} indexed files from there are kept (--force deletes their rows).")
                for folder, (sentence, paths) in scan.doubtful.items()
                if folder not in told
            ]
        report.deleted = store.delete_files(scan.gone + (doubtful if force else []))
    return report


def fit_scan(scan: Scan, columns: Mapping[str, type]) -> None:
    """Make the labels of a scan fit the columns of an index; what does not fit is reported."""
    scan.unreadable += fit_labels(scan.labels, columns)


def _write_files(
    store: LanceStore | ExactStore, files: Iterable[EmbeddedFile], scan: Scan, note: Note, report: AddReport
) -> None:
    """Commit files when enough rows wait, or have waited for long enough."""
    waiting: dict[str, EmbeddedFile] = {}  # by path: the last one of a name counts
    last_commit = time.monotonic()
    for file in files:
        if file.error is not None:
            report.errors.append((file.path, file.error))
            continue
        waiting[file.path] = file
        num_rows = sum(len(item.rows) for item in waiting.values())
        if num_rows >= COMMIT_ROWS or time.monotonic() - last_commit >= COMMIT_SECONDS:
            commit(store, list(waiting.values()), scan, note, report)
            waiting, last_commit = {}, time.monotonic()
    commit(store, list(waiting.values()), scan, note, report)


def commit(
    store: LanceStore | ExactStore, files: Sequence[EmbeddedFile], scan: Scan, note: Note, report: AddReport
) -> None:
    """Write files: new ones are appended, changed ones take the place of their old rows."""
    changed = set(scan.changed)
    for are_changed in (False, True):
        chosen = [file for file in files if (file.path in changed) == are_changed]
        if not chosen:
            continue
        rows = [row for file in chosen for row in file.rows]
        embeddings = np.concatenate([file.embeddings for file in chosen])
        note(rows, embeddings)
        store.add_columns({name: type(value) for row in rows for name, value in row.items() if value is not None})
        if are_changed:
            store.replace([file.path for file in chosen], rows, embeddings)
        else:
            store.append(rows, embeddings)
        report.added += len(rows)
        report.unplaced += [file.path for file in chosen if _is_unplaced(file)]


def _is_unplaced(file: EmbeddedFile) -> bool:
    """Whether a file is a scene whose place is not known; chips off the limb of a full disk have none either."""
    return all(row["footprint"] is None for row in file.rows) and os.path.isfile(file.path) and is_georaster(file.path)


def _change(store: LanceStore | ExactStore, paths: Sequence[str], change: Callable[[Row], Row]) -> None:
    """Change the rows of files; their vectors stay."""
    for start in range(0, len(paths), CHANGED_FILES):
        some = paths[start : start + CHANGED_FILES]
        for rows, vectors in _parts(store, some):
            new = [change(row) for row in rows]
            store.add_columns({name: type(value) for row in new for name, value in row.items() if value is not None})
            store.append(new, vectors)


def _move(store: LanceStore | ExactStore, moves: Mapping[str, str], labels: Mapping[str, Mapping]) -> None:
    """Give the rows of files their new paths, with the labels of the new place."""
    new_paths = {old: new for new, old in moves.items()}
    olds = list(new_paths)
    for start in range(0, len(olds), CHANGED_FILES):
        some = olds[start : start + CHANGED_FILES]
        for rows, vectors in _parts(store, some):
            moved = [_moved(relabel(row, labels.get(new_paths[row["path"]], {})), new_paths) for row in rows]
            store.add_columns({name: type(value) for row in moved for name, value in row.items() if value is not None})
            store.append(moved, vectors)
        store.delete_files(some)


def _moved(row: Row, new_paths: Mapping[str, str]) -> Row:
    """A row at its new path."""
    path = new_paths[row["path"]]
    window = [row[name] for name in ("col_off", "row_off", "width", "height") if row[name] is not None]
    return row | {"path": path, "id": row_id(path, window), "time": os.path.getmtime(path)}


def _parts(store: LanceStore | ExactStore, paths: Sequence[str]) -> Iterator[tuple[list[Row], np.ndarray]]:
    """Rows of files with their vectors, read before anything is written."""
    yield from list(store.rows(in_files([store.stored_path(path) for path in paths])))
