"""Vectors of a file, brought into an index."""

import json

import numpy as np
import pytest

from modeling_pir.index.exchange import vectors as vectors_module
from modeling_pir.index.exchange.vectors import open_vectors
from modeling_pir.index.import_vectors import import_vectors
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.modeling_pir import PIRModel

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SQUARE = {"type": "Polygon", "coordinates": [[[10, 50], [11, 50], [11, 51], [10, 51], [10, 50]]]}


@pytest.fixture
def index(tmp_path, tiny_images, tiny_model, tiny_processor):
    """Four images, the first two parts of one file."""
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine="exact")
    index.add([(image, {"path": f"/archive/{n}.tif", "scene": "o'hare"}) for n, image in enumerate(tiny_images)])
    index.add([(tiny_images[0], {"path": "/archive/4.tif", "bounds": (10, 50, 11, 51), "footprint": SQUARE})])
    return index


@pytest.fixture
def exported(index, tmp_path):
    """Its rows as a file."""
    index.export(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def everything(index):
    pairs = (pair for rows, vectors in index.store.rows() for pair in zip(rows, vectors, strict=True))
    return {row["id"]: (row, vector.tolist()) for row, vector in pairs}


@pytest.mark.parametrize("batch_rows", [10_000, 2])
def test_export_is_read_back_as_it_was(index, exported, tmp_path, tiny_model, tiny_processor, monkeypatch, batch_rows):
    monkeypatch.setattr(vectors_module, "BATCH_ROWS", batch_rows)
    other = PIRIndex.create(tmp_path / "other", tiny_model, tiny_processor, engine="exact")
    assert import_vectors(other, open_vectors(exported)).added == 5
    found, expected = everything(other), everything(index)
    assert found.keys() == expected.keys()
    for row_id, (row, vector) in expected.items():
        assert found[row_id][1] == pytest.approx(vector, abs=1e-6)
        for name in set(row) - {"hubness", "footprint"}:
            assert found[row_id][0][name] == row[name], name
        assert json.loads(found[row_id][0]["footprint"] or "null") == json.loads(row["footprint"] or "null")
    assert [hit.id for hit in other.search("a field", k=5)] == [hit.id for hit in index.search("a field", k=5)]
    import_vectors(other, open_vectors(exported))
    assert len(other) == 5  # a second time, the rows are replaced


def test_columns_that_labels_brought_are_handed_over(tmp_path, tiny_images, tiny_model, tiny_processor):
    folder = tmp_path / "archive"
    folder.mkdir()
    tiny_images[0].save(folder / "0.png")
    tiny_images[1].save(folder / "1.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "country": "Fiji", "clouds": 0.25}\n')
    first, second = (PIRIndex.create(tmp_path / name, tiny_model, tiny_processor, engine="exact") for name in "ab")
    first.add(folder)
    first.export(tmp_path / "rows.parquet")
    import_vectors(second, open_vectors(tmp_path / "rows.parquet"))
    for where in ("country = 'Fiji'", "clouds < 0.5"):
        (hit,) = second.search("a", k=5, where=where)
        assert hit.path == str(folder / "0.png")


def test_rows_of_pir_embed_are_read(index, tmp_path, tiny_model, tiny_processor):
    """Its columns are the user's own, and what could not be embedded has no vector."""
    _, (row, vector) = everything(index).popitem()
    file = tmp_path / "shard.parquet"
    columns = {"filename": ["a.jpg", "b.jpg"], "scene": ["airport", None], "caption": ["x", "y"]}
    kind = pa.list_(pa.float32(), index.metadata["dim"])
    table = pa.table(columns).append_column("embedding", pa.array([vector, None], kind))
    table = table.append_column("error", pa.array([None, "broken"]))
    pq.write_table(table.replace_schema_metadata({"pir": json.dumps(index.metadata)}), file)
    other = PIRIndex.create(tmp_path / "other", tiny_model, tiny_processor, engine="exact")
    import_vectors(other, open_vectors(file))
    (hit,) = other.search(np.array(vector), k=5)
    assert (hit.path, hit.scene) == ("a.jpg", "airport") and hit.similarity == pytest.approx(1, abs=1e-5)


def test_geometry_of_others_becomes_a_footprint(index, tmp_path, tiny_model, tiny_processor):
    shapely = pytest.importorskip("shapely")
    dim = index.metadata["dim"]
    shapes = [shapely.Point(3, 4).buffer(1, quad_segs=1), shapely.Point(5, 6)]
    table = pa.table({"path": ["a", "b"], "geometry": [shapely.to_wkb(shape) for shape in shapes]})
    table = table.append_column("embedding", pa.array([[1.0] * dim] * 2, pa.list_(pa.float32(), dim)))
    pq.write_table(table.replace_schema_metadata({"pir": json.dumps(index.metadata)}), tmp_path / "x.parquet")
    (rows, _), *_ = open_vectors(tmp_path / "x.parquet").parts()
    assert [json.loads(row["footprint"])["type"] for row in rows] == ["Polygon", "Polygon"]
    assert [(row["minx"], row["maxy"]) for row in rows] == [(2, 5), (5, 6)]


def write(path, dim=4, length=4, metadata=None, name="embedding"):
    table = pa.table({"path": ["a"], name: pa.array([[1.0] * length], pa.list_(pa.float32(), length))})
    facts = {"model_id": "org/x", "revision": None, "weights": "0" * 64, "dim": dim} if metadata is None else metadata
    pq.write_table(table.replace_schema_metadata({"pir": json.dumps(facts)} if facts else None), path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "vector"}, "has no column 'embedding' among path, vector"),
        ({"length": 5}, "not 4 values each as its metadata say"),
        ({"metadata": {}}, "does not say which model made its vectors"),
        ({"metadata": {"model_id": "org/x"}}, "does not say which model made its vectors"),
    ],
)
def test_file_without_usable_vectors_is_refused(tmp_path, options, sentence):
    write(tmp_path / "x.parquet", **options)
    with pytest.raises(ValueError, match=sentence):
        open_vectors(tmp_path / "x.parquet")


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_no_parquet_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        open_vectors(tmp_path / "x.parquet")


def test_vectors_of_another_model_are_refused(index, exported, tmp_path, tiny_config, tiny_processor):
    other = PIRIndex.create(tmp_path / "other", PIRModel(tiny_config).eval(), tiny_processor, engine="exact")
    with pytest.raises(ValueError, match="vectors of two models cannot be compared: name another --index"):
        import_vectors(other, open_vectors(exported))
    assert len(other) == 0


def test_rows_of_an_image_that_do_not_follow_each_other_are_refused(index, tmp_path):
    dim = index.metadata["dim"]
    table = pa.table({"path": ["a", "b", "a"]})
    table = table.append_column("embedding", pa.array([[1.0] * dim] * 3, pa.list_(pa.float32(), dim)))
    pq.write_table(table.replace_schema_metadata({"pir": json.dumps(index.metadata)}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="The rows of a in .* do not follow each other: sort the file by path"):
        import_vectors(index, open_vectors(tmp_path / "x.parquet"))
