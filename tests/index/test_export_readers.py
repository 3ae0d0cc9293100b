"""Exports, read back by the programs that they are for."""

import json
import re
import shutil
import subprocess

import pytest

from modeling_pir.index.export import HIT_FORMATS, write_hits
from modeling_pir.index.pir_index import PIRIndex

pytest.importorskip("pyarrow")
BOXES = [(10, 50, 11, 51), (10.5, 50.5, 11.5, 51.5), (-70, -30, -69, -29)]


@pytest.fixture
def index(tmp_path, tiny_images, tiny_model, tiny_processor):
    """Three images with a place, one without."""
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine="exact")
    for number, (image, box) in enumerate(zip(tiny_images, [*BOXES, None], strict=True)):
        fields = {"path": f"/archive/{number}.tif", "scene": "airport", "date": "2019-09-04"}
        if box is not None:
            west, south, east, north = box
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            fields |= {"bounds": box, "footprint": {"type": "Polygon", "coordinates": [ring]}}
        index.add([(image, fields)])
    return index


@pytest.fixture
def saved(index, tmp_path):
    """The hits of one search in every format, and their ids."""
    hits = index.search("a field", k=4)
    for name in HIT_FORMATS:
        write_hits(tmp_path / f"hits.{name}", hits, index.metadata)
    return tmp_path, [hit.id for hit in hits]


def test_metadata_say_where_the_boxes_are_and_what_made_the_vectors(index, tmp_path):
    import pyarrow.parquet as pq

    index.export(tmp_path / "rows.parquet")
    schema = pq.read_schema(tmp_path / "rows.parquet")
    geo, emb = (json.loads(schema.metadata[name]) for name in (b"geo", b"emb"))
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0" and column["crs"]["id"] == {"authority": "OGC", "code": "CRS84"}
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert emb["dimensions"] == index.metadata["dim"] and emb["weights_sha256"] == index.metadata["weights"]
    boxes = pq.read_table(tmp_path / "rows.parquet").column("bbox").to_pylist()
    assert [box and tuple(box.values()) for box in boxes] == [*BOXES, None]


@pytest.mark.slow
def test_geopandas_reads_hits_and_rows_with_their_place(index, saved, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    folder, ids = saved
    frame = geopandas.read_parquet(folder / "hits.parquet")
    assert frame["id"].tolist() == ids and frame.crs.equals("OGC:CRS84")
    assert geopandas.read_parquet(folder / "hits.parquet", bbox=(-71, -31, -68, -28)).shape[0] == 1  # by the covering
    assert geopandas.read_file(folder / "hits.geojson")["id"].tolist() == ids
    index.export(tmp_path / "rows.parquet")
    rows = geopandas.read_parquet(tmp_path / "rows.parquet")
    assert len(rows) == 4 and len(rows["embedding"].iloc[0]) == index.metadata["dim"]
    assert sorted(rows.geometry.dropna().map(lambda shape: shape.bounds)) == sorted(BOXES)


@pytest.mark.slow
def test_duckdb_reads_every_format(saved):
    duckdb = pytest.importorskip("duckdb")
    folder, ids = saved
    for name in ("parquet", "csv"):
        found = duckdb.sql(f"SELECT id FROM '{folder}/hits.{name}' ORDER BY rank").fetchall()
        assert [row_id for (row_id,) in found] == ids
    east = duckdb.sql(f"SELECT count(*) FROM '{folder}/hits.parquet' WHERE bbox.xmin > 0").fetchall()
    assert east == [(2,)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="GDAL is not installed: apt-get install gdal-bin")
def test_gdal_reads_the_map_of_hits(saved):
    folder, ids = saved
    told = subprocess.run(
        ["ogrinfo", "-al", folder / "hits.geojson"], capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  id \(String\) = (\w+)$", told, re.MULTILINE) == ids
    assert told.count("POLYGON ((") == len(BOXES) and "WGS 84" in told
