"""Search in a Lance table (extra `search`): on a disk or in object storage, exact or approximate, filtered by SQL."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np

from .index_files import COLUMNS, FileState, Row

TABLE = "images"
MIN_INDEX_ROWS = 50_000  # below, a scan of all vectors takes about 0.1 s and misses nothing
PARTITION_ROWS = 8_192
PROBED_SHARE = 0.2  # of the partitions, without a filter
REFINE_FACTOR = 50  # candidates per hit whose exact similarity is computed
FEW_SHARE = 0.1  # of the rows: where a filter leaves no more, neighbours lie further apart,
REFINE_FACTOR_OF_FEW = 20  # and fewer candidates do
ALL_PARTITIONS = 1_000_000  # more than there are; Lance takes those that there are
EXACT_ROWS = 1_000  # that a filter leaves: up to here, or up to this share of the index, they are compared one by one
EXACT_SHARE = 0.002  # since reading a row at random takes as long as comparing the codes of 500
STALE_SHARE = 0.2  # of rows added since the vector index was trained, from which on it is trained again
KEEP_VERSIONS = timedelta(hours=1)  # for readers that are in the middle of a search
BATCH_ROWS = 10_000


def import_lancedb() -> ModuleType:
    """The lancedb package, or which extra brings it."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are about its own defaults
    try:
        import lancedb
    except ImportError as error:
        raise ImportError("This index needs lancedb: pip install 'modeling-pir[search]'.") from error
    return lancedb


def _is_address(path: str) -> bool:
    """Whether a path is one of object storage, such as s3://bucket/archive.lance."""
    return "://" in path


class LanceStore:
    """Rows and vectors in a Lance table.

    Every write is one commit: after a crash it is there as a whole or not at all. Any number of processes read while
    others write. One search runs on one machine: whoever needs a cluster exports to Parquet. The columns of `COLUMNS`
    are there for filters; `row` holds them once more as JSON, since to read them one by one takes five times as long.

    How it searches, measured with `training/benchmark_index.py`: an approximate index alone loses a third of the
    hits under a filter, so the rows that a filter leaves are counted first. Few are compared one by one; for more, the
    codes of all partitions are compared, and the best refined by their exact vectors.

    Args:
        path: folder or object storage address of an existing index, see [`LanceStore.create`].

    Attributes:
        path: of the folder.
        metadata: what was stored at creation.
        table: the Lance table, for what is not offered here.

    Raises:
        ImportError: lancedb is missing.
        ValueError: there is no index.
    """

    kind = "lance"

    def __init__(self, path: str) -> None:
        lancedb = import_lancedb()
        self.path = path
        if not _is_address(path) and not Path(path, f"{TABLE}.lance").is_dir():  # connecting would make the folder
            raise ValueError(f"{path} is no index: make one with pir index.")
        try:
            self.table = lancedb.connect(path, read_consistency_interval=timedelta(0)).open_table(TABLE)
            self.metadata = json.loads(self.table.schema.metadata[b"pir"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no index ({error}): make one with pir index.") from error

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
        fields.append(pa.field("embedding", pa.list_(pa.float32(), metadata["dim"])))
        lancedb.connect(path).create_table(TABLE, schema=pa.schema(fields, metadata={"pir": json.dumps(metadata)}))
        return cls(path)

    def _to_arrow(self, rows: Sequence[Row], embeddings: np.ndarray) -> object:
        """An Arrow table of rows and vectors."""
        import pyarrow as pa

        schema = self.table.schema
        columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in COLUMNS]
        columns.append(pa.array([json.dumps(row) for row in rows]))
        vectors = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).ravel())
        columns.append(pa.FixedSizeListArray.from_arrays(vectors, self.metadata["dim"]))
        return pa.Table.from_arrays(columns, schema=schema)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what Lance says of a full or broken disk into one sentence."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(", /")[0]  # without the place in Lance's source
            raise OSError(f"{self.path} cannot be written ({reason}): what was committed before is kept.") from error

    def append(self, rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Add rows, all of them or none."""
        with self._writing():
            self.table.add(self._to_arrow(rows, embeddings))

    def replace(self, paths: Sequence[str], rows: Sequence[Row], embeddings: np.ndarray) -> None:
        """Put rows in the place of all rows of some files, at once."""
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        with self._writing():
            merge.when_not_matched_by_source_delete(_in_files(paths)).execute(self._to_arrow(rows, embeddings))

    def delete_files(self, paths: Sequence[str]) -> int:
        """Delete all rows of some files; returns how many."""
        return sum(self.delete(_in_files(paths[start : start + 1_000])) for start in range(0, len(paths), 1_000))

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
        if where is None:
            return self.table.count_rows()
        try:
            return self.table.count_rows(f"({where}\n)")  # Lance alone would pass over what follows a semicolon
        except ValueError as error:
            reason = " ".join(str(error).removeprefix("Invalid input, ").split())
            reason = reason.split(", /")[0].split(" Valid fields are")[0]  # no source lines, no inner columns
            raise ValueError(
                f"The filter {where!r} cannot be understood ({reason}): write SQL over {', '.join(COLUMNS)}, such as "
                "\"date >= '2020' AND scene = 'airport'\"."
            ) from error

    def _scan(self, where: str | None, columns: list[str]) -> object:
        """A query for all rows, without a vector."""
        query = self.table.search().select(columns)
        return query.where(f"({where}\n)") if where else query

    def files(self, folder: str | None = None) -> dict[str, FileState]:
        """State of the indexed files below a folder, or of all."""
        low, high = (_quote(f"{folder}{end}") for end in "/0")  # "0" follows "/" in ASCII
        where = f"path >= {low} AND path < {high}" if folder else None
        found = self._scan(where, ["path", "size", "time", "hash"]).limit(None).to_arrow()
        found = found.group_by("path").aggregate([("size", "min"), ("time", "min"), ("hash", "min")])
        columns = (found.column(name).to_pylist() for name in ("path", "size_min", "time_min", "hash_min"))
        return {path: FileState(*state) for path, *state in zip(*columns, strict=True)}

    def rows(self, where: str | None = None) -> Iterator[tuple[list[Row], np.ndarray]]:
        """Rows and their vectors (rows, projection_dim), in parts."""
        self.count(where)  # checks the filter
        for batch in self._scan(where, ["row", "embedding"]).limit(None).to_batches(BATCH_ROWS):
            if batch.num_rows:
                vectors = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
                yield [json.loads(row) for row in batch.column("row").to_pylist()], vectors

    @property
    def is_approximate(self) -> bool:
        """Whether there is a vector index, so that a search may miss something."""
        return self._index_stats() is not None

    def _index_stats(self) -> object | None:
        """Lance's account of the vector index, if there is one."""
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
        query = self.table.search(vector, vector_column_name="embedding").distance_type("dot")
        query = query.select(["row", "_distance"]).limit(k)
        num_rows = self.count()
        num_probed, refine_factor = max(1, round(PROBED_SHARE * num_rows / PARTITION_ROWS)), REFINE_FACTOR
        if where is not None:
            num_left = self.count(where)
            exact = exact or num_left <= max(EXACT_ROWS, EXACT_SHARE * num_rows, k)
            query, num_probed = query.where(f"({where}\n)", prefilter=True), ALL_PARTITIONS
            refine_factor = REFINE_FACTOR_OF_FEW if num_left <= FEW_SHARE * num_rows else REFINE_FACTOR
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.minimum_nprobes(num_probed).maximum_nprobes(num_probed).refine_factor(refine_factor)
        found = query.to_arrow()
        rows, distances = (found.column(name).to_pylist() for name in ("row", "_distance"))
        return [(json.loads(row), 1.0 - distance) for row, distance in zip(rows, distances, strict=True)]

    def vectors_at(self, positions: np.ndarray) -> np.ndarray:
        """Vectors (positions, projection_dim) by their place in the table."""
        found = self.table.take_offsets(positions.tolist()).select(["embedding"]).to_arrow()
        return found.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(positions), -1)

    def maintain(self) -> None:
        """Merge small fragments and bring the indexes up to date, where there is something to be done."""
        from lancedb.index import Bitmap, BTree, IvfRq

        with self._writing():
            stats = self._index_stats()
            has_new = stats is not None and stats.num_unindexed_rows > 0
            if has_new or self.table.stats()["fragment_stats"]["num_small_fragments"] > 1:
                self.table.optimize(cleanup_older_than=KEEP_VERSIONS)
            num_rows = self.count()
            num_new = num_rows if stats is None else stats.num_unindexed_rows
            if num_rows < MIN_INDEX_ROWS or num_new <= STALE_SHARE * num_rows:
                return
            partitions = max(1, num_rows // PARTITION_ROWS)
            self.table.create_index("embedding", config=IvfRq(distance_type="dot", num_partitions=partitions))
            for column in ("scene", "sensor"):
                self.table.create_index(column, config=Bitmap())
            for column in ("date", "minx", "miny", "maxx", "maxy"):
                self.table.create_index(column, config=BTree())


def _quote(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _in_files(paths: Sequence[str]) -> str:
    """The filter for the rows of some files."""
    return f"path IN ({', '.join(map(_quote, paths))})"
