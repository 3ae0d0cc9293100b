"""Search in a Lance table (extra `search`): on a disk or in object storage, exact or approximate, filtered by SQL."""

import gc
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np

from ...errors import need
from .bit_codes import CODE_BYTES, encode, nearest_codes
from .columns import COLUMNS, STATE_COLUMNS, FileState, Row, in_files
from .filter_syntax import FilterError, check_filter, refusal
from .store import Store, is_address, parse_metadata, parse_state

TABLE, STATE_TABLE = "images", "state"
OWN_COLUMNS = ("row", "code", "embedding")  # that no filter sees
SQL_TYPES = {str: "string", int: "bigint", float: "double"}
MIN_INDEX_ROWS = 50_000  # below, a scan of all vectors takes about 0.1 s and misses nothing
PARTITION_ROWS = 8_192
PROBED_SHARE = 0.2  # of the partitions, without a filter,
MIN_PROBED = 24  # but no fewer: a fifth of a million rows', in 10 ms; a fifth of 60,000 rows' misses every third hit
REFINE_FACTORS = (5, 50)  # candidates per hit whose exact similarity is computed: at least and at most, and between
REFINED = 700  # so many in all: of 100 hits 0.994 are right then and of the first 10 all, in a third less time
ALL_PARTITIONS = 1_000_000  # more than there are; Lance takes those that there are
EXACT_ROWS = 1_000  # that a filter leaves: up to here, their vectors are read and compared one by one, 10 us each;
FEW_ROWS = 50_000  # up to here, their codes are, and the vectors of these candidates:
CANDIDATES, CANDIDATES_PER_HIT = 400, 40  # at least, and for each hit,
MAX_CANDIDATES = 2_000  # but not more than this, unless more hits are wanted
MAX_HITS = 10_000_000  # with the candidates for each, what Lance can count
STALE_SHARE = 0.2  # of rows written since the vector index was trained, from which on it is trained again
MAX_PARTS = 8  # of the vector index, each searched by itself
MAX_FRAGMENTS = 16  # of few rows, from which on they are merged
MAX_UNINDEXED = 5_000  # rows that a search compares one by one, in about 10 ms
KEEP_VERSIONS = timedelta(minutes=10)  # for readers that are in the middle of a search or an export
BATCH_ROWS = 10_000


def import_lancedb() -> ModuleType:
    """The lancedb package, or which extra brings it."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are about its own defaults
    gc.disable()  # of the thousands of classes that this import makes, none is garbage: looking for it takes 0.2 s
    try:
        return need("lancedb", "search", "This index needs")
    finally:
        gc.enable()


@dataclass(frozen=True)
class _Snapshot:
    """One version of the table, with what is in memory of it.

    Attributes:
        version: of the table.
        table: a handle that stays at this version, so that row ids keep their meaning while others write.
        row_ids: (rows,) uint64, ascending.
        codes: (rows, CODE_BYTES) uint8.
    """

    version: int
    table: object
    row_ids: np.ndarray
    codes: np.ndarray


class LanceStore(Store):
    """Rows and vectors in a Lance table.

    Every write is one commit: after a crash it is there as a whole or not at all. Any number of processes read while
    others write. One search runs on one machine: whoever needs a cluster exports to Parquet. The columns of `COLUMNS`
    are there for filters; `row` holds them once more as JSON, since to read them one by one takes five times as long.

    How it searches, measured with `training/benchmarks/search/table.py` on a million rows: without a filter the vector
    index does, and its best are refined by their exact vectors. Under a filter it does not: if only the partitions near
    the query are looked at, a third of the hits is lost, and if all are, it takes 35 ms to ask of each row whether the
    filter leaves it. So the rows that are left are counted first. Up to 1,000 are compared exactly. Up to 50,000, to
    read the vectors takes 400 ms, since they lie scattered: their codes (`bit_codes`) are compared in memory instead,
    and the best 400 exactly. For more, the vector index looks at all partitions. Codes take 96 bytes per row, read at
    the first such search and after each write.

    Args:
        path: folder or object storage address of an existing index, see [`LanceStore.create`].

    Attributes:
        path: of the folder.
        metadata: what was stored at creation.
        table: the Lance table, for what is not offered here.

    Raises:
        ImportError: lancedb is missing.
        ValueError: there is not an index.
    """

    kind = "lance"

    def __init__(self, path: str) -> None:
        lancedb = import_lancedb()
        super().__init__(path)
        if not is_address(path) and not Path(path, f"{TABLE}.lance").is_dir():  # connecting would make the folder
            raise ValueError(f"{path} is not an index: make one with pir index.")
        self._num_written = 0  # rows, since the last maintenance
        self._snapshot: _Snapshot | None = None
        self._lock = threading.Lock()  # the page searches from several threads
        with self._reading():
            self._connection = lancedb.connect(path, read_consistency_interval=timedelta(0))
            try:
                self.table = self._connection.open_table(TABLE)
                self.metadata = parse_metadata(self.table.schema.metadata[b"pir"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is not an index ({error}): make one with pir index.") from error
        code_type = self.table.schema.field("code").type if "code" in self.table.schema.names else None
        if code_type is None or code_type.byte_width != CODE_BYTES:
            raise ValueError(f"{path} was made by an older version of this package: make a new index with pir index.")
        self.refresh()

    def close(self) -> None:
        """Nothing to do: Lance holds no file open between two calls."""

    @property
    def columns(self) -> dict[str, type]:
        """Names and types: those of `COLUMNS`, then what labels have brought."""
        schema = self.table.schema
        return COLUMNS | {
            name: str if str(schema.field(name).type) == "string" else float
            for name in schema.names
            if name not in COLUMNS and name not in OWN_COLUMNS
        }

    def add_columns(self, columns: Mapping[str, type]) -> None:
        """Add columns that are not there yet, empty in all rows."""
        there = set(self.table.schema.names)
        missing = {name: f"CAST(NULL AS {SQL_TYPES[kind]})" for name, kind in columns.items() if name not in there}
        if missing:
            with self._writing():
                self.table.add_columns(missing)

    def read_state(self) -> dict:
        """What is remembered, in a table of its own with one row."""
        with self._reading():
            if STATE_TABLE not in self._connection.list_tables().tables:
                return {}
            return parse_state(self._connection.open_table(STATE_TABLE).to_arrow()["state"][0].as_py())

    def write_state(self, **changes: object) -> None:
        """Remember something for good."""
        import pyarrow as pa

        self.state = self.read_state() | changes
        table = pa.table({"state": [json.dumps(self.state)]})
        with self._writing():
            self._connection.create_table(STATE_TABLE, table, mode="overwrite")

    @classmethod
    def create(cls, path: str, metadata: dict) -> "LanceStore":
        """Make an empty index.

        Raises:
            ImportError: lancedb is missing.
            OSError: the folder cannot be written.
        """
        lancedb = import_lancedb()
        import pyarrow as pa

        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        fields = [pa.field(name, types[kind]) for name, kind in COLUMNS.items()]
        fields.append(pa.field("row", pa.string()))
        fields.append(pa.field("code", pa.binary(CODE_BYTES)))
        fields.append(pa.field("embedding", pa.list_(pa.float32(), metadata["dim"])))
        connection = lancedb.connect(path)
        connection.create_table(STATE_TABLE, pa.table({"state": ["{}"]}))
        connection.create_table(TABLE, schema=pa.schema(fields, metadata={"pir": json.dumps(metadata)}))
        return cls(path)

    def _to_arrow(self, rows: Sequence[Row], embeddings: np.ndarray) -> object:
        """An Arrow table of rows and vectors."""
        import pyarrow as pa

        schema, rows = self.table.schema, self.stored_rows(rows)
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
        codes = pa.py_buffer(encode(vectors))
        own = {
            "row": pa.array([json.dumps(row) for row in rows], pa.string()),
            "code": pa.FixedSizeBinaryArray.from_buffers(pa.binary(CODE_BYTES), len(rows), [None, codes]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.metadata["dim"]),
        }
        columns = [
            own[name] if name in own else pa.array([row.get(name) for row in rows], schema.field(name).type)
            for name in schema.names
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what damaged files lead to into one sentence."""
        with self._telling("cannot be read", "if its files are damaged, restore them or rebuild it with pir index"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what Lance says of a full or broken disk into one sentence."""
        with self._telling("cannot be written", "what was committed before is kept"):
            yield

    @contextmanager
    def _telling(self, fault: str, remedy: str) -> Iterator[None]:
        """Turn whatever Lance raises into one sentence: errors of many kinds, and panics, which are no Exception."""
        try:
            yield
        except (FilterError, KeyboardInterrupt, GeneratorExit, SystemExit, MemoryError):
            raise
        except BaseException as error:
            if isinstance(error, ValueError | OSError) and str(error).startswith(self.path):
                raise  # a sentence of ours
            reason = " ".join(str(error).split()).split(", /")[0]  # without the place in Lance's source
            raise OSError(f"{self.path} {fault} ({reason or type(error).__name__}): {remedy}.") from error

    def append(self, rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Add rows, all of them or none; each takes the place of the one of its id."""
        with self._writing():
            self._merge_by_id().execute(self._to_arrow(rows, embeddings))
        self._num_written += len(rows)

    def replace(self, paths: Sequence[str], rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Put rows in the place of all rows of some files, at once."""
        merge = self._merge_by_id().when_not_matched_by_source_delete(in_files(list(map(self.stored_path, paths))))
        with self._writing():
            merge.execute(self._to_arrow(rows, embeddings))
        self._num_written += len(rows)

    def _merge_by_id(self) -> object:
        """A write that replaces rows of the same id and adds the others."""
        return self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()

    def drop_doubles(self) -> int:
        """Delete all but the newest row of each id; returns how many.

        Lance has no unique columns: writers that do not wait for each other, as in object storage, add a row twice.
        """
        with self._reading():
            found = self._scan(None, ["id", "_rowid"]).limit(None).to_arrow()
        newest = found.group_by("id").aggregate([("_rowid", "max")])["_rowid_max"].to_numpy()
        doubles = np.setdiff1d(found["_rowid"].to_numpy(), newest, assume_unique=True)
        with self._writing():
            for start in range(0, len(doubles), BATCH_ROWS):
                self.table.delete(f"_rowid IN ({', '.join(map(str, doubles[start : start + BATCH_ROWS]))})")
        return len(doubles)

    def delete_files(self, paths: Sequence[str]) -> int:
        """Delete all rows of some files; returns how many."""
        stored = list(map(self.stored_path, paths))
        return sum(self.delete(in_files(stored[start : start + 1_000])) for start in range(0, len(stored), 1_000))

    def delete(self, where: str) -> int:
        """Delete rows; returns how many."""
        num_rows = self.count(where)
        if num_rows:
            with self._writing():
                self.table.delete(f"({where}\n)")
        return num_rows

    def count(self, where: str | None = None) -> int:
        """Number of rows that a filter leaves.

        Raises:
            ValueError: the filter cannot be understood.
        """
        if where is not None:
            check_filter(where, self.columns)
        with self._reading():
            if where is None:
                return self.table.count_rows()
            try:
                return self.table.count_rows(f"({where}\n)")  # Lance alone would pass over what follows a semicolon
            except (ValueError, RuntimeError) as error:
                fault = _fault_of_filter(where, self.table.schema, error)
                if fault is None:
                    raise  # the files are to blame
                raise refusal(where, fault, self.columns) from error

    def _scan(self, where: str | None, columns: list[str]) -> object:
        """A query for all rows, without a vector."""
        query = self.table.search().select(columns)
        return query.where(f"({where}\n)") if where else query

    def files(self) -> dict[str, FileState]:
        """State of the indexed files, by absolute path."""
        kept = [name for name in STATE_COLUMNS if name in self.table.schema.names]  # an older index has not all
        with self._reading():
            found = self._scan(None, ["path", *kept]).limit(None).to_arrow()
        found = found.group_by("path").aggregate([(name, "min") for name in kept])
        columns = (found.column(name).to_pylist() for name in ("path", *(f"{name}_min" for name in kept)))
        return {
            self.full_path(path): FileState(**dict(zip(kept, state, strict=True)))
            for path, *state in zip(*columns, strict=True)
        }

    def rows(self, where: str | None = None) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Rows and their vectors (rows, projection_dim), in parts."""
        self.count(where)  # checks the filter
        with self._reading():
            for batch in self._scan(where, ["row", "embedding"]).limit(None).to_batches(BATCH_ROWS):
                if batch.num_rows:
                    vectors = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
                    yield [self._full(row) for row in batch.column("row").to_pylist()], vectors

    def _full(self, text: str) -> Row:
        """A row from its JSON."""
        return self.full_row(json.loads(text))

    def values(self, columns: Sequence[str]) -> Iterator[tuple]:
        """Some columns of all rows, without their vectors."""
        with self._reading():
            for batch in self._scan(None, list(columns)).limit(None).to_batches(BATCH_ROWS):
                found = {name: batch.column(name).to_pylist() for name in columns}
                if "path" in found:
                    found["path"] = list(map(self.full_path, found["path"]))
                yield from zip(*found.values(), strict=True)

    @property
    def is_approximate(self) -> bool:
        """Whether there is a vector index, so that a search may miss something."""
        return self._index_stats() is not None

    def _index_stats(self) -> object | None:
        """Lance's account of the vector index, if there is one."""
        with self._reading():
            return self.table.index_stats("embedding_idx")

    def nearest(
        self, vector: np.ndarray, k: int, where: str | None = None, exact: bool = False
    ) -> list[tuple[Row, float]]:
        """The rows most similar to a vector.

        Args:
            vector: (projection_dim,) unit norm.
            k: rows at most.
            where: a filter.
            exact: compare all vectors, whatever it costs.

        Returns:
            Rows with their cosine, the highest first.

        Raises:
            ValueError: the filter cannot be understood.
        """
        num_left = None if where is None else self.count(where)
        with self._reading():
            return self._nearest(vector, min(k, MAX_HITS), where, num_left, exact)

    def _nearest(
        self, vector: np.ndarray, k: int, where: str | None, num_left: int | None, exact: bool
    ) -> list[tuple[Row, float]]:
        """As `nearest`, where a filter is known to leave `num_left` rows."""
        if num_left is not None and not exact:
            exact = num_left <= max(EXACT_ROWS, _num_candidates(k))
            if not exact and num_left <= FEW_ROWS and self.is_approximate:
                return self._nearest_of_few(vector, k, where)
        query = self.table.search(vector, vector_column_name="embedding").distance_type("dot")
        query = query.select(["row", "_distance"]).limit(k)
        if where is not None:
            query = query.where(f"({where}\n)", prefilter=True)
        if exact:
            query = query.bypass_vector_index()
        else:
            near = max(MIN_PROBED, round(PROBED_SHARE * self.count() / PARTITION_ROWS))
            num_probed = near if where is None else ALL_PARTITIONS
            query = query.minimum_nprobes(num_probed).maximum_nprobes(num_probed).refine_factor(_refine_factor(k))
        found = query.to_arrow()
        rows, distances = (found.column(name).to_pylist() for name in ("row", "_distance"))
        return [(self._full(row), 1.0 - distance) for row, distance in zip(rows, distances, strict=True)]

    def _nearest_of_few(self, vector: np.ndarray, k: int, where: str) -> list[tuple[Row, float]]:
        """As `nearest`, among few rows: candidates by their codes, then the exact cosine of these."""
        snapshot = self._coded()
        query = snapshot.table.search().where(f"({where}\n)").select(["_rowid"]).limit(None)
        left, own = query.to_batches(FEW_ROWS).read_all()["_rowid"].to_numpy(), snapshot.row_ids
        is_run = own[-1] - own[0] == len(own) - 1  # one fragment, nothing deleted: no need to look them up, 2 ms
        places = (left - own[0]).astype(np.int64) if is_run else np.searchsorted(own, left)
        count = _num_candidates(k)
        if len(places) > count:
            places = nearest_codes(snapshot.codes, places, np.asarray(vector, dtype=np.float32), count)
        found = _take(snapshot, snapshot.row_ids[np.sort(places)], "embedding")
        row_ids = found["_rowid"].to_numpy()
        vectors = found["embedding"].combine_chunks().flatten().to_numpy().reshape(len(row_ids), -1)
        similarity = np.einsum("ij,j->i", vectors, vector)  # see `nearest_codes`
        best = np.argsort(-similarity, kind="stable")[:k]
        found = _take(snapshot, row_ids[best], "row")
        rows = dict(zip(found["_rowid"].to_pylist(), found["row"].to_pylist(), strict=True))
        return [(self._full(rows[row_ids[place]]), float(similarity[place])) for place in best]

    def _coded(self) -> _Snapshot:
        """The table as it is now, with its codes in memory."""
        with self._lock:
            version = self.table.version
            if self._snapshot is None or self._snapshot.version != version:
                table = self._connection.open_table(TABLE)
                table.checkout(version)
                row_ids = np.empty(table.count_rows(), dtype=np.uint64)
                codes = np.empty((len(row_ids), CODE_BYTES), dtype=np.uint8)
                start = 0
                for batch in table.search().select(["_rowid", "code"]).limit(None).to_batches(BATCH_ROWS):
                    rows = slice(start, start + batch.num_rows)
                    row_ids[rows] = batch["_rowid"].to_numpy()
                    codes[rows] = _as_bytes(batch["code"])
                    start = rows.stop
                order = np.argsort(row_ids, kind="stable")
                if (order[1:] < order[:-1]).any():  # a copy of the codes, which is as a rule not needed
                    row_ids, codes = row_ids[order], codes[order]
                self._snapshot = _Snapshot(version, table, row_ids, codes)
            return self._snapshot

    def rows_at(self, positions: np.ndarray) -> tuple[list[Row], np.ndarray]:
        """Rows and their vectors (positions, projection_dim) by their place in the table; Lance chooses their order."""
        with self._reading():
            found = self.table.take_offsets(positions.tolist()).select(["row", "embedding"]).to_arrow()
            rows = [self._full(row) for row in found.column("row").to_pylist()]
        return rows, found.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(positions), -1)

    def maintain(self) -> None:
        """Merge small fragments and bring the indexes up to date, where there is something to be done.

        To merge and to extend an index cost as much as the rows that are there already, so that many small runs wait
        until it is worth it: new rows are searched one by one until then. Extended again and again, an index fits its
        rows less and less and falls into parts, so it is trained anew after enough writes, however small each was.
        Lance may also cut partitions as it merges, whose nearest few then hold fewer of the hits: see `MIN_PROBED`.
        """
        with self._writing():
            stats, num_rows = self._index_stats(), self.count()
            trained = self.state.get("trained_rows", stats.num_indexed_rows if stats else 0)
            written = self.state.get("written_rows", 0) + self._num_written
            num_parts = (stats.num_indices or 1) if stats else 0
            is_stale = stats is None or written > STALE_SHARE * trained or num_parts > MAX_PARTS
            num_small = self.table.stats()["fragment_stats"]["num_small_fragments"]
            if num_small > MAX_FRAGMENTS or (stats and stats.num_unindexed_rows > MAX_UNINDEXED):
                self.table.optimize(cleanup_older_than=KEEP_VERSIONS)
            if num_rows >= MIN_INDEX_ROWS and is_stale:
                self._train(num_rows)
                self.write_state(trained_rows=num_rows, written_rows=0)
            elif stats is not None and self._num_written:
                self.write_state(written_rows=written)
            self._num_written = 0

    def _train(self, num_rows: int) -> None:
        """Make the vector index anew, and those of the columns that filters use."""
        from lancedb.index import Bitmap, BTree, IvfRq

        partitions = max(1, num_rows // PARTITION_ROWS)
        self.table.create_index("embedding", config=IvfRq(distance_type="dot", num_partitions=partitions))
        for column in ("scene", "sensor"):
            self.table.create_index(column, config=Bitmap())
        for column in ("date", "minx", "miny", "maxx", "maxy"):
            self.table.create_index(column, config=BTree())


def _fault_of_filter(where: str, schema: object, error: Exception) -> str | None:
    """What is wrong with a filter that a table has failed at, or None if nothing is.

    An empty table of the same columns is asked, which has no files that could be damaged.
    """
    if "Divide by zero" in str(error):
        return "it divides by zero in some row"
    empty = import_lancedb().connect("memory://").create_table(TABLE, schema=schema)
    try:
        empty.count_rows(f"({where}\n)")
    except ValueError as refused:
        reason = " ".join(str(refused).removeprefix("Invalid input, ").split())
        return reason.split(", /")[0].split(" Valid fields are")[0]  # no source lines, no inner columns
    return None


def _refine_factor(k: int) -> int:
    """Candidates per hit whose exact similarity is computed."""
    least, most = REFINE_FACTORS
    return max(least, min(most, REFINED // max(1, k)))


def _num_candidates(k: int) -> int:
    """Rows of those that a filter leaves whose exact similarity is computed, chosen by their codes."""
    return max(CANDIDATES, min(CANDIDATES_PER_HIT * k, MAX_CANDIDATES), REFINE_FACTORS[0] * k)


def _take(snapshot: _Snapshot, row_ids: np.ndarray, column: str) -> object:
    """A column of some rows as an Arrow table, with `_rowid`, in an order of Lance's choice."""
    return snapshot.table.take_row_ids(row_ids.tolist()).with_row_id().select([column, "_rowid"]).to_arrow()


def _as_bytes(codes: object) -> np.ndarray:
    """(rows, CODE_BYTES) uint8 of an Arrow array of codes, without a copy."""
    first = codes.offset * CODE_BYTES
    size = len(codes) * CODE_BYTES
    return np.frombuffer(codes.buffers()[1], np.uint8, size, first).reshape(-1, CODE_BYTES)
