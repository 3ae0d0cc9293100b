"""The LanceDB store: recall beside a search of every row, under filters and after writes."""

import numpy as np
import pytest

from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.rows import make_row
from modeling_pir.index.stores import lance_store as index_lance
from modeling_pir.index.stores.bit_codes import nearest_codes
from modeling_pir.index.stores.lance_store import LanceStore
from tests.support.embeddings import clustered

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """12,000 rows with a vector index of many partitions; scene is the cluster, date is drawn by lot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_lance, "MIN_INDEX_ROWS", 1000)
        patch.setattr(index_lance, "PARTITION_ROWS", 256)
        patch.setattr(index_lance, "EXACT_ROWS", 50)
        patch.setattr(index_lance, "FEW_ROWS", 3000)
        patch.setattr(index_lance, "CANDIDATES", 100)
        patch.setattr(index_lance, "CANDIDATES_PER_HIT", 4)
        store = LanceStore.create(str(tmp_path_factory.mktemp("large") / "index"), {"dim": 32, "weights": ""})
        vectors, labels = clustered(12_000)
        days = np.random.default_rng(1).integers(0, 1000, len(labels))
        rows = [
            make_row(f"/{number}", (0, 0, 1, 1), scene=f"s{label}", date=f"{day:03}")
            for number, (label, day) in enumerate(zip(labels, days, strict=True))
        ]
        store.append(rows, vectors)
        store.maintain()
        yield store


@pytest.mark.parametrize(
    ("where", "least"),
    [(None, 0.98), ("scene = 's3'", 0.99), ("date < '040'", 0.99), ("date < '005'", 0.99), ("date < '500'", 0.99)],
)
def test_recall_holds_under_a_filter(large_store, where, least):
    index = PIRIndex(large_store)
    assert large_store.is_approximate
    assert index.check(60, where=where) >= least


def test_filter_that_leaves_few_rows_is_searched_exactly(large_store):
    vector = clustered(1, seed=5)[0][0]
    kept = sum(len(rows) for rows, _ in large_store.rows("date = '007'"))
    found = large_store.nearest(vector, 100, "date = '007'")
    assert 0 < len(found) == kept < 50
    assert [row["id"] for row, _ in found] == [
        row["id"] for row, _ in large_store.nearest(vector, 100, "date = '007'", True)
    ]


def test_filter_that_leaves_thousands_compares_codes_and_sees_every_write(large_store, monkeypatch):
    where, vector = "date < '100' OR scene = 'new'", -clustered(1, seed=3)[0][0]
    compared = []

    def counting(codes, places, query, count):
        compared.append(len(places))
        return nearest_codes(codes, places, query, count)

    monkeypatch.setattr(index_lance, "nearest_codes", counting)
    before = large_store.nearest(vector, 5, where)
    large_store.append([make_row("/new", scene="new")], vector[None])
    (row, similarity), *_ = large_store.nearest(vector, 5, where)
    assert row["path"] == "/new" and similarity == pytest.approx(1, abs=1e-5)
    large_store.maintain()  # moves rows
    assert large_store.nearest(vector, 5, where)[0][0]["path"] == "/new"
    assert large_store.delete("scene = 'new'") == 1
    after = large_store.nearest(vector, 5, where)
    assert [row["id"] for row, _ in after] == [row["id"] for row, _ in before]
    similarities = [similarity for _, similarity in after]
    assert similarities == sorted(similarities, reverse=True)
    num_left = large_store.count(where)
    assert 1000 < num_left < 1500 and compared == [num_left, num_left + 1, num_left + 1, num_left]


@pytest.mark.parametrize("code_bytes", [None, 8])
def test_index_without_codes_or_with_others_is_refused(tmp_path, code_bytes):
    import lancedb
    import pyarrow as pa

    fields = [pa.field("row", pa.string())] + ([pa.field("code", pa.binary(code_bytes))] if code_bytes else [])
    schema = pa.schema(fields, metadata={"pir": '{"dim": 4, "weights": ""}'})
    lancedb.connect(str(tmp_path)).create_table(index_lance.TABLE, schema=schema)
    with pytest.raises(ValueError, match="older version of this package: make a new index with pir index"):
        PIRIndex.open(tmp_path)


def test_rows_added_after_the_vector_index_are_found(large_store):
    vector = -clustered(1)[0][0]
    large_store.append([make_row("/late", scene="late")], vector[None])
    (row, similarity), *_ = large_store.nearest(vector, 3)
    assert row["path"] == "/late" and similarity == pytest.approx(1, abs=1e-5)
    large_store.maintain()
    assert large_store.nearest(vector, 1)[0][0]["path"] == "/late"
    assert large_store.delete("scene = 'late'") == 1
    assert large_store.nearest(vector, 1)[0][0]["path"] != "/late"
