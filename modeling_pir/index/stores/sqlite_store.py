"""Exact search without extras: one SQLite file with rows and vectors, read into memory at the first search."""

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote as quote_address

import numpy as np

from .columns import COLUMNS, STATE_COLUMNS, FileState, Row
from .filter_syntax import FilterError, check_filter, refusal
from .store import Store, parse_metadata, parse_state

SQL_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL"}
BATCH_ROWS = 10_000
WAIT_SECONDS = 60.0  # for another process that is writing


class ExactStore(Store):
    """Rows and vectors in a SQLite file; up to some hundred thousand rows, whose vectors fit into memory.

    Every write is one transaction: after a crash it is there as a whole or not at all. Readers see the last complete
    state while another process writes.

    Args:
        path: of an existing file, see [`ExactStore.create`].

    Attributes:
        path: of the file.
        metadata: what was stored at creation.

    Raises:
        ValueError: the file is not an index.
    """

    kind = "exact"
    is_approximate = False

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._version: int | None = None  # of what is in memory; SQLite counts other connections' writes
        self._row_ids = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((0, 0), dtype=np.float32)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()  # the page searches from several threads
        try:
            (text,) = self._execute("SELECT value FROM metadata").fetchone()
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not an index ({error}): make one with pir index.") from error
        try:
            self.metadata = parse_metadata(text)
            self.refresh()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): rebuild it with pir index.") from error

    def close(self) -> None:
        """Close the connection: a file that is renamed while one is open would share its log with nobody."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def columns(self) -> dict[str, type]:
        """Names and types: those of `COLUMNS`, then what labels have brought."""
        kinds = {sql: kind for kind, sql in SQL_TYPES.items()}
        with self._reading():
            found = self._execute("SELECT name, type FROM pragma_table_info('images')")
            return {name: kinds[sql] for name, sql in found if sql in kinds}  # but the embedding

    def add_columns(self, columns: Mapping[str, type]) -> None:
        """Add columns that are not there yet, empty in all rows."""
        there = self.columns
        with self._writing():
            for name, kind in columns.items():
                if name not in there:
                    self._execute(f"ALTER TABLE images ADD COLUMN {name} {SQL_TYPES[kind]}")

    def read_state(self) -> dict:
        """What is remembered: the second row of the metadata."""
        found = self._execute("SELECT value FROM metadata LIMIT 1 OFFSET 1").fetchone()
        return parse_state(found and found[0])

    def write_state(self, **changes: object) -> None:
        """Remember something for good."""
        with self._writing():
            self.state = self.read_state() | changes
            self._execute("DELETE FROM metadata WHERE rowid > 1")
            self._execute("INSERT INTO metadata VALUES (?)", (json.dumps(self.state),))

    @classmethod
    def create(cls, path: str, metadata: dict) -> "ExactStore":
        """Make an empty index.

        Raises:
            OSError: the file cannot be written.
        """
        columns = ", ".join(f"{name} {SQL_TYPES[kind]}" for name, kind in COLUMNS.items())
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE metadata (value TEXT)")
            connection.execute(f"CREATE TABLE images ({columns}, embedding BLOB)")
            connection.execute("CREATE INDEX images_path ON images (path)")
            connection.execute("CREATE UNIQUE INDEX images_id ON images (id)")
            connection.execute("INSERT INTO metadata VALUES (?)", (json.dumps(metadata),))
            connection.execute("COMMIT")
            connection.close()
        except sqlite3.OperationalError as error:
            raise OSError(f"{path} cannot be written ({error}): check that its folder may be written.") from error
        return cls(path)

    def _execute(self, statement: str, values: Sequence = ()) -> sqlite3.Cursor:
        """Run a statement on the connection, which is opened at first use."""
        if self._connection is None:
            if not Path(self.path).is_file():
                raise sqlite3.OperationalError("there is no such file")
            address = f"file:{quote_address(self.path)}{self._mode()}"
            self._connection = sqlite3.connect(
                address, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False, uri=True
            )
            self._connection.create_function("like", 2, _like, deterministic=True)  # SQLite's own knows no capitals
            self._connection.create_function("lower", 1, lambda text: text and text.lower(), deterministic=True)
            self._connection.create_function("upper", 1, lambda text: text and text.upper(), deterministic=True)
        return self._connection.execute(statement, values)

    def _mode(self) -> str:
        """How the file is opened: on a disk that cannot be written, SQLite must not try to lay files beside it."""
        if os.access(self.path, os.W_OK) and os.access(os.path.dirname(self.path), os.W_OK):
            return ""
        log = Path(f"{self.path}-wal")
        return "?mode=ro" if log.exists() and log.stat().st_size else "?immutable=1"

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        """All or nothing, on one state of the file."""
        with self._lock:
            self._execute(f"BEGIN {kind}")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back already
                    self._execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what a damaged file leads to, from SQLite's errors to a vector of another length, into one sentence."""
        try:
            yield
        except FilterError:
            raise
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be read ({error}): run this again, or rebuild it.") from error
        except (sqlite3.DatabaseError, TypeError, LookupError, OverflowError, ValueError) as error:
            raise OSError(f"{self.path} is damaged ({error}): restore it, or rebuild it with pir index.") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that writes; what is in memory is out of date afterwards."""
        self._version = None
        try:
            with self._transaction("IMMEDIATE"):
                yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be written ({error}): what was committed before is kept.") from error
        except sqlite3.DatabaseError as error:
            raise OSError(f"{self.path} is damaged ({error}): restore it, or rebuild it with pir index.") from error

    def _insert(self, rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Insert inside a transaction."""
        names = list(self.columns)
        marks = ", ".join("?" * (len(names) + 1))
        vectors = np.ascontiguousarray(embeddings, dtype="<f4")
        values = (
            [*(row.get(name) for name in names), vector.tobytes()]
            for row, vector in zip(self.stored_rows(rows), vectors, strict=True)
        )
        self._execute("SELECT 1")
        self._connection.executemany(
            f"INSERT OR REPLACE INTO images ({', '.join(names)}, embedding) VALUES ({marks})", values
        )

    def append(self, rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Add rows, all of them or none; each takes the place of the one of its id."""
        with self._writing():
            self._insert(rows, embeddings)

    def replace(self, paths: Sequence[str], rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Put rows in the place of all rows of some files, at once."""
        with self._writing():
            for path in map(self.stored_path, paths):
                self._execute("DELETE FROM images WHERE path = ?", (path,))
            self._insert(rows, embeddings)

    def drop_doubles(self) -> int:
        """Nothing to drop: the id is unique."""
        return 0

    def delete_files(self, paths: Sequence[str]) -> int:
        """Delete all rows of some files; returns how many."""
        with self._writing():
            stored = map(self.stored_path, paths)
            return sum(self._execute("DELETE FROM images WHERE path = ?", (path,)).rowcount for path in stored)

    def delete(self, where: str) -> int:
        """Delete rows; returns how many."""
        row_ids = self._matching(where).tolist()
        with self._writing():
            return sum(self._execute("DELETE FROM images WHERE rowid = ?", (row_id,)).rowcount for row_id in row_ids)

    def _matching(self, where: str | None) -> np.ndarray:
        """Row ids, ascending. A filter cannot write: SQLite runs one statement at a time, and this one reads."""
        if where is None:
            with self._reading():
                found = self._execute("SELECT rowid FROM images ORDER BY rowid")
                return np.fromiter((row_id for (row_id,) in found), dtype=np.int64)
        check_filter(where, self.columns)
        try:
            cursor = self._execute(f"SELECT rowid FROM images WHERE ({where}\n) ORDER BY rowid")
            return np.fromiter((row_id for (row_id,) in cursor), dtype=np.int64)
        except (sqlite3.OperationalError, sqlite3.Warning) as error:
            raise refusal(where, str(error), self.columns) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise OSError(f"{self.path} is damaged ({error}): restore it, or rebuild it with pir index.") from error

    def count(self, where: str | None = None) -> int:
        """Number of rows that a filter leaves.

        Raises:
            ValueError: the filter cannot be understood.
        """
        if where is None:
            with self._reading():
                return self._execute("SELECT count(*) FROM images").fetchone()[0]
        return len(self._matching(where))

    def files(self) -> dict[str, FileState]:
        """State of the indexed files, by absolute path."""
        with self._reading():
            kept = [name for name in STATE_COLUMNS if name in self.columns]  # an older index has not all
            cursor = self._execute(f"SELECT path, {', '.join(kept)} FROM images GROUP BY path")
            return {self.full_path(path): FileState(**dict(zip(kept, state, strict=True))) for path, *state in cursor}

    def rows(self, where: str | None = None) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Rows and their vectors (rows, projection_dim), in parts."""
        row_ids = self._matching(where)
        for start in range(0, len(row_ids), BATCH_ROWS):
            yield self._fetch(row_ids[start : start + BATCH_ROWS])

    def values(self, columns: Sequence[str]) -> Iterator[tuple]:
        """Some columns of all rows, without their vectors."""
        names = ", ".join(columns)
        with self._lock, self._reading():
            found = self._execute(f"SELECT {names} FROM images ORDER BY rowid").fetchall()
        for row in found:
            yield tuple(
                self.full_path(value) if name == "path" else value for name, value in zip(columns, row, strict=True)
            )

    def _fetch(self, row_ids: np.ndarray) -> tuple[list[Row], np.ndarray]:
        """Rows in the order of their ids, and their vectors."""
        rows, vectors = [], []
        with self._reading():
            for row_id in row_ids.tolist():
                cursor = self._execute("SELECT * FROM images WHERE rowid = ?", (row_id,))
                stored = dict(zip((name for name, *_ in cursor.description), cursor.fetchone(), strict=True))
                vectors.append(np.frombuffer(stored.pop("embedding"), dtype="<f4"))
                rows.append(self.full_row(stored))
            return rows, np.stack(vectors)

    def _load(self) -> None:
        """Read the vectors, unless those in memory are the file's."""
        version = self._execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        num_rows = self.count()
        self._row_ids = np.empty(num_rows, dtype=np.int64)
        self._vectors = np.empty((num_rows, self.metadata["dim"]), dtype=np.float32)
        cursor = self._execute("SELECT rowid, embedding FROM images ORDER BY rowid")
        for position, (row_id, vector) in enumerate(cursor):
            self._row_ids[position] = row_id
            self._vectors[position] = np.frombuffer(vector, dtype="<f4")
        self._version = version

    def nearest(
        self, vector: np.ndarray, k: int, where: str | None = None, exact: bool = True
    ) -> list[tuple[Row, float]]:
        """The rows most similar to a vector.

        Args:
            vector: (projection_dim,) unit norm.
            k: rows at most.
            where: a filter.
            exact: always so here.

        Returns:
            Rows with their cosine, the highest first.

        Raises:
            ValueError: the filter cannot be understood.
        """
        with self._reading(), self._transaction("DEFERRED"):  # vectors and rows of one state
            self._load()
            vectors, row_ids = self._vectors, self._row_ids
            if where is not None:
                kept = np.searchsorted(row_ids, self._matching(where))
                vectors, row_ids = vectors[kept], row_ids[kept]
            if not len(row_ids):
                return []
            similarity = vectors @ vector
            k = min(k, len(similarity))
            best = np.argpartition(-similarity, k - 1)[:k]
            best = best[np.argsort(-similarity[best], kind="stable")]
            return list(zip(self._fetch(row_ids[best])[0], similarity[best].tolist(), strict=True))

    def rows_at(self, positions: np.ndarray) -> tuple[list[Row], np.ndarray]:
        """Rows and their vectors (positions, projection_dim) by their place in the table."""
        return self._fetch(self._matching(None)[positions])

    def maintain(self) -> None:
        """Nothing to tidy up."""


def _like(pattern: str | None, text: str | None) -> bool | None:
    """LIKE as Lance has it: capitals count, and a backslash takes the meaning of % and _."""
    if pattern is None or text is None:
        return None
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    expression = "".join(wild.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(expression, str(text), re.DOTALL) is not None
