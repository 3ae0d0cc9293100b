"""STAC: a catalogue as source, an index as a Collection."""

import http.server
import json
import re
import threading
from functools import partial
from pathlib import Path

import pytest

from modeling_pir.index.exchange.stac_source import stac_images
from modeling_pir.index.pir_index import PIRIndex

pystac = pytest.importorskip("pystac")


def item(name, href="image.png", key="visual", **properties):
    asset = {"href": href, "type": "image/png", "roles": ["data"]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2019-09-04T10:00:00Z", **properties},
        "links": [],
        "assets": {key: asset, "thumbnail": {"href": "small.png", "type": "image/png", "roles": ["thumbnail"]}},
    }


def catalogue(name, *links):
    return {"type": "Catalog", "stac_version": "1.0.0", "id": name, "description": name,
            "links": [{"rel": rel, "href": href} for rel, href in links]}  # fmt: skip


@pytest.fixture
def folder(tmp_path, tiny_images):
    """A catalogue of two Items, one in a catalogue below it, which names the first one as its child again."""
    folder = tmp_path / "catalogue"
    (folder / "below").mkdir(parents=True)
    tiny_images[0].save(folder / "image.png")
    tiny_images[1].save(folder / "below" / "image.png")
    files = {
        "catalog.json": catalogue("top", ("child", "below/catalog.json"), ("item", "first.json")),
        "below/catalog.json": catalogue("below", ("child", "../catalog.json"), ("item", "second.json")),
        "first.json": item("first", platform="sentinel-2a"),
        "below/second.json": item("second", start_datetime="2020-05-01T00:00:00Z"),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_catalogue_that_loops_gives_each_image_once(folder, tmp_path):
    found = stac_images(str(folder / "catalog.json"), tmp_path / "assets")
    assert found.labels == {
        str(folder / "image.png"): {"date": "2019-09-04", "sensor": "sentinel-2a"},
        str(folder / "below" / "image.png"): {"date": "2019-09-04"},
    }
    assert not found.errors and not (tmp_path / "assets").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (item("first", href="gone.png"), "The image of the STAC Item first cannot be read .No such file"),
        (item("first", href="s3://bucket/image.png"), "addresses of s3 are not fetched"),
        (item("first", href="table.csv", key="visual") | {"assets": {}}, "first has no asset that is an image"),
    ],
)
def test_item_without_an_image_costs_no_other(folder, tmp_path, changed, sentence):
    (folder / "first.json").write_text(json.dumps(changed))
    found = stac_images(str(folder / "catalog.json"), tmp_path / "assets")
    assert list(found.labels) == [str(folder / "below" / "image.png")]
    ((name, text),) = found.errors
    assert name == "first" and re.search(sentence, text)


@pytest.mark.parametrize("content", ["{}", "no json", '{"type": "FeatureCollection"}', None])
def test_file_that_is_no_stac_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "catalog.json").write_text(content)
    with pytest.raises(ValueError, match="is not readable STAC"):
        stac_images(str(tmp_path / "catalog.json"), tmp_path / "assets")


@pytest.fixture
def address(folder):
    """Address of the folder, served by HTTP, and what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()


def test_images_of_the_web_are_fetched_once(folder, address, tmp_path):
    base, asked = address
    for _ in range(2):
        found = stac_images(f"{base}/catalog.json", tmp_path / "assets")
        contents = {Path(path).read_bytes() for path in found.labels}
        assert contents == {path.read_bytes() for path in folder.rglob("*.png")}
    assert asked.count("/image.png") == 1 and all(str(tmp_path / "assets") in path for path in found.labels)


def test_address_that_does_not_answer_costs_no_other(folder, address, tmp_path):
    base, _ = address
    (folder / "image.png").unlink()
    found = stac_images(f"{base}/catalog.json", tmp_path / "assets")
    assert len(found.labels) == 1 and "The image of the STAC Item first cannot be read" in found.errors[0][1]
    assert [path.suffix for path in (tmp_path / "assets").iterdir()] == [".png"]  # nothing that is not whole


def test_items_of_a_parquet_file_are_read(folder, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"id": "first", "assets": item("first")["assets"], "platform": "x", "datetime": "2019-09-04T00:00:00Z"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    found = stac_images(str(folder / "items.parquet"), tmp_path / "assets")
    assert found.labels == {str(folder / "image.png"): {"date": "2019-09-04", "sensor": "x"}}
    pq.write_table(pa.table({"id": ["a"]}), folder / "other.parquet")
    with pytest.raises(ValueError, match="no column 'assets', so it holds no STAC Items: bring vectors in with --from"):
        stac_images(str(folder / "other.parquet"), tmp_path / "assets")


@pytest.fixture
def exported(tmp_path, folder, tiny_images, tiny_model, tiny_processor):
    """The Collection of an index of a dated file in two parts, one across the antimeridian, and one without a place."""
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine="exact")
    first, second = str(folder / "image.png"), str(folder / "below" / "image.png")
    images = [
        {"path": first, "date": "2019-09-04", "bounds": (10, 50, 11, 51), "crs": "EPSG:4326"},
        {"path": second, "date": "2019-02"},
        {"path": str(folder / "third.png"), "bounds": (179.5, 0, -179.5, 1)},
    ]
    index.add(list(zip(tiny_images, images, strict=False)))
    assert index.export(tmp_path / "stac" / "collection.json") == 3
    return tmp_path / "stac" / "collection.json"


def test_collection_is_valid_and_leads_to_the_files(exported, folder):
    collection = pystac.Collection.from_file(str(exported))
    items = {Path(item.assets["image"].get_absolute_href()): item for item in collection.get_items()}
    assert set(items) == {folder / "image.png", folder / "below" / "image.png", folder / "third.png"}
    assert items[folder / "image.png"].bbox == [10, 50, 11, 51]
    assert items[folder / "image.png"].datetime.date().isoformat() == "2019-09-04"
    month = items[folder / "below" / "image.png"].properties
    assert (month["start_datetime"], month["end_datetime"]) == ("2019-02-01T00:00:00Z", "2019-02-28T23:59:59Z")
    assert items[folder / "third.png"].geometry["type"] == "MultiPolygon"
    assert collection.extra_fields["emb:dimensions"] > 0 and {"emb:model", "emb:source-data"} <= {
        link.rel for link in collection.links
    }
    for item in items.values():
        assert Path(item.assets["embeddings"].get_absolute_href()) == exported.parent / "embeddings.parquet"
    assert str(folder.parent) not in (exported.parent / "collection.json").read_text()


def test_collection_is_a_source_again(exported, folder, tmp_path):
    (folder / "third.png").write_bytes((folder / "image.png").read_bytes())
    found = stac_images(str(exported), tmp_path / "assets")
    assert set(found.labels) == {str(folder / name) for name in ("image.png", "below/image.png", "third.png")}


def test_export_that_breaks_off_leaves_the_one_that_is_there(exported, tmp_path, monkeypatch):
    def files():
        return {path: path.read_bytes() for path in exported.parent.rglob("*") if path.is_file()}

    before, index = files(), PIRIndex.open(tmp_path / "index")
    index.delete("date = '2019-02'")
    save = pystac.Item.save_object

    def full_disk(item, *arguments, **options):
        save(item, *arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pystac.Item, "save_object", full_disk)
    with pytest.raises(OSError, match="No space left"):
        index.export(exported)
    assert files() == before and not list(exported.parent.glob(".*"))


@pytest.mark.slow
def test_items_pass_the_validator(exported):
    pytest.importorskip("jsonschema")
    collection = pystac.Collection.from_file(str(exported))
    for item in collection.get_items():
        assert item.validate() is not None
    plain = collection.to_dict()
    plain["stac_extensions"] = []  # the schema of an extension lies in the web
    pystac.validation.validate_dict(plain)
