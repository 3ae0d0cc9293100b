"""What both kinds of index share: where files lie, and what an index remembers beside its rows."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from .columns import COLUMNS, Row, row_id

BELOW_ROOT = f".{os.sep}"  # how a path begins that is relative to the root; images in memory have names of their own


def is_address(path: str | Path) -> bool:
    """Whether a path is one of object storage, such as s3://bucket/archive.lance."""
    return "://" in str(path)


class Store(ABC):
    """Rows and vectors of an index.

    Paths below the index's root are stored relative to it, so that an archive can be moved and an index handed over;
    whoever reads or writes rows sees absolute paths.

    Args:
        path: of the index.

    Attributes:
        path: of the index.
        state: what the index remembers: `root` and `root_from_index`, `chips`, `trained_rows`.
        root: absolute path of the folder that paths are relative to; None where all are absolute.
    """

    kind: str

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: dict = {}
        self.root: str | None = None

    @property
    @abstractmethod
    def columns(self) -> dict[str, type]:
        """Names and types: those of `COLUMNS`, then what labels have brought."""

    @abstractmethod
    def add_columns(self, columns: Mapping[str, type]) -> None:
        """Add columns that are not there yet, empty in all rows."""

    @abstractmethod
    def write_state(self, **changes: object) -> None:
        """Remember something for good."""

    @abstractmethod
    def read_state(self) -> dict:
        """What is remembered now."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files; the next call opens them again."""

    def refresh(self) -> None:
        """Take what is remembered, and the root; or where that lay beside the index, if both have been moved."""
        self.state = self.read_state()
        self.root = self.state.get("root")
        if self.root and not os.path.isdir(self.root):
            beside = os.path.normpath(os.path.join(os.path.dirname(self.path), self.state["root_from_index"]))
            self.root = beside if os.path.isdir(beside) else self.root

    def set_root(self, folder: str) -> None:
        """Make all relative paths relative to another folder, for good."""
        self.root = folder
        self.write_state(root=folder, root_from_index=os.path.relpath(folder, os.path.dirname(self.path)))

    def stored_path(self, path: str) -> str:
        """An absolute path as it is stored."""
        if self.root and path.startswith(os.path.join(self.root, "")):
            return BELOW_ROOT + os.path.relpath(path, self.root)
        return path

    def full_path(self, stored: str) -> str:
        """A stored path as an absolute one."""
        if not stored.startswith(BELOW_ROOT):
            return stored
        if self.root is None:  # another process has given the index its first files since it was opened
            self.refresh()
        return os.path.join(self.root or "", stored[len(BELOW_ROOT) :])

    def stored_row(self, row: Row) -> Row:
        """A row as it is stored; its id is that of the stored path, and stays when the archive moves."""
        path = self.stored_path(row["path"])
        if path == row["path"]:
            return row
        window = [row[name] for name in ("col_off", "row_off", "width", "height") if row[name] is not None]
        return row | {"path": path, "id": row_id(path, window)}

    def full_row(self, stored: Mapping[str, object]) -> Row:
        """A stored row with all columns and its absolute path."""
        return dict.fromkeys(COLUMNS) | stored | {"path": self.full_path(stored["path"])}

    def stored_rows(self, rows: Sequence[Row]) -> list[Row]:
        """[`Store.stored_row`] of each."""
        return [self.stored_row(row) for row in rows]


def parse_metadata(text: str | bytes) -> dict:
    """What an index says of the model that made it.

    Raises:
        ValueError: no JSON, or it does not say how long its vectors are and of which weights.
    """
    metadata = {"model_id": None, "revision": None} | dict(json.loads(text))
    if not isinstance(metadata.get("dim"), int) or not isinstance(metadata.get("weights"), str):
        raise ValueError("it does not say what made its vectors")
    return metadata


def parse_state(text: str | None) -> dict:
    """A remembered state; an index of an older version remembers nothing."""
    return json.loads(text) if text else {}
