import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pir import PIRModel
from modeling_pir.index.archive.scan import Scan
from modeling_pir.index.embed_files import ChipOptions, embed_files
from modeling_pir.index.exchange.geometry import to_wkb
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.index.rows import make_row
from modeling_pir.index.stores.sqlite_store import ExactStore
from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.encoder import PIREncoder
from modeling_pir.inference.images import open_image

pytest.importorskip("lancedb")

SQUARE = {"type": "Polygon", "coordinates": [[[10, 51], [10, 50], [11, 50], [11, 51], [10, 51]]]}


def names(hits):
    return [Path(hit.path).stem for hit in hits]


def write_raster(path, values, **profile):
    """A GeoTIFF of (bands, height, width) values."""
    rasterio = pytest.importorskip("rasterio")
    bands, height, width = values.shape
    shape = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **shape, **profile) as file:
        file.write(values)


def noise(height=64, width=96, seed=0):
    return np.random.default_rng(seed).integers(1, 255, (3, height, width), dtype=np.uint8)


def test_second_add_embeds_nothing(index, archive, monkeypatch):
    assert index.add(archive).added == 4
    monkeypatch.setattr(PIREncoder, "embed_images", None)  # a call would fail
    report = index.add(archive)
    assert (report.added, report.unchanged, report.errors, len(index)) == (0, 4, [], 4)


def test_update_embeds_only_what_changed_and_drops_what_is_gone(index, archive, tiny_images, monkeypatch):
    index.add(archive)
    tiny_images[0].save(archive / "forest.png")  # now the airport's picture
    os.utime(archive / "harbor.png", (1, 1))  # another time, the same content
    (archive / "parking.png").unlink()
    tiny_images[3].rotate(90).save(archive / "new.png")
    encoded = []

    embed = PIREncoder.embed_images

    def counting(encoder, images, batch_size=64):
        encoded.extend(images)
        return embed(encoder, images, batch_size)

    monkeypatch.setattr(PIREncoder, "embed_images", counting)
    report = index.update(archive)
    assert (len(encoded), report.added, report.unchanged, report.deleted) == (2, 2, 2, 1)
    assert sorted(names(index.search("a", k=9))) == ["airport", "forest", "harbor", "new"]
    twins = index.search(tiny_images[0], k=2)
    assert sorted(names(twins)) == ["airport", "forest"]
    assert twins[1].similarity == pytest.approx(1, abs=1e-5)


def test_file_of_the_same_size_but_another_content_is_embedded_again(index, archive, tiny_images):
    tiny_images[0].save(archive / "new.bmp")
    index.add(archive / "new.bmp")
    tiny_images[1].save(archive / "new.bmp")
    os.utime(archive / "new.bmp", (1, 1))
    assert index.add(archive / "new.bmp").added == len(index) == 1
    assert index.search(tiny_images[1])[0].similarity == pytest.approx(1, abs=1e-5)


def test_changed_scene_leaves_no_chip_of_its_old_windows(index):
    old = [make_row("/scene.tif", (column, 0, 32, 32)) for column in (0, 32, 64)]
    index.store.append([*old, make_row("/other.tif", (32, 0, 32, 32))], np.eye(4, 16, dtype=np.float32))
    new = [make_row("/scene.tif", (column, 0, 32, 32)) for column in (0, 16)]
    index.store.replace(["/scene.tif"], new, np.eye(2, 16, dtype=np.float32))
    found = sorted((hit.path, hit.window[0]) for hit in index.search(torch.ones(16)))
    assert found == [("/other.tif", 32), ("/scene.tif", 0), ("/scene.tif", 16)]


def test_search_ranks_as_the_matrix_of_similarities(index, archive, tiny_model, tiny_processor, tiny_images):
    index.add(archive, batch_size=3)
    image_embeds = embed_images(tiny_model, tiny_processor, tiny_images)
    text_embed = embed_texts(tiny_model, tiny_processor, ["two green square"])[0]
    expected = image_embeds @ text_embed
    order = expected.argsort(descending=True)
    for query in ("two green square", text_embed, 5 * text_embed.numpy()):
        hits = index.search(query, k=4)
        assert names(hits) == [("airport", "forest", "harbor", "parking")[place] for place in order]
        np.testing.assert_allclose([hit.similarity for hit in hits], expected[order], atol=1e-5)
    assert index.search(tiny_images[2], k=1)[0].path == str(archive / "harbor.png")


def test_hit_tells_where_it_is_from(index, archive):
    index.add(archive)
    hit = index.search("a", k=1, where="path LIKE '%harbor%'")[0]
    status = (archive / "harbor.png").stat()
    assert (hit.window, hit.size, hit.time) == ((0, 0, 48, 40), status.st_size, status.st_mtime)
    assert (hit.bounds, hit.footprint, hit.crs, hit.date, hit.sensor, hit.scene) == (None,) * 6


def test_more_hits_than_rows_gives_all_rows(index, archive):
    index.add(archive)
    assert len(index.search("a", k=1000)) == 4
    assert len(index.search("a", k=1000, where="path NOT LIKE '%harbor%'")) == 3


def test_empty_index_finds_nothing(index):
    assert index.search("a") == [] and len(index) == 0
    with pytest.raises(ValueError, match="add images first"):
        index.check()


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("  ", {}, "query is empty"),
        ("a", {"k": 0}, "k is 0, but it has to be at least 1"),
        ("a", {"where": " "}, "filter is empty"),
        ("a", {"where": "date >>"}, "'date >>' cannot be understood"),
        ("a", {"where": "colour = 'red'"}, "colour"),
        ("a", {"where": "1 = 1; DROP TABLE images"}, "cannot be understood"),
        ("a", {"where": "1 = 1) OR (1 = 1; --"}, "cannot be understood"),
        (torch.ones(3), {}, "3 values .* one vector of 16"),
        (torch.full((16,), float("nan")), {}, "norm nan"),
        (torch.zeros(16), {}, "norm 0"),
    ],
)
def test_search_refuses_what_means_nothing(index, archive, query, options, message):
    index.add(archive)
    with pytest.raises(ValueError, match=message):
        index.search(query, **options)
    assert len(index) == 4


def test_delete_by_filter_and_by_path(index, archive):
    index.add(archive)
    assert index.delete("path LIKE '%harbor%'") == 1
    assert index.delete(paths=[archive / "forest.png", "/no/such.png"]) == 1
    assert sorted(names(index.search("a"))) == ["airport", "parking"]
    for options in ({}, {"where": "1 = 1", "paths": []}):
        with pytest.raises(ValueError, match="either where"):
            index.delete(**options)
    with pytest.raises(ValueError, match="cannot be understood"):
        index.delete("path ===== 3")


def test_deleted_file_is_embedded_again(index, archive):
    index.add(archive)
    index.delete("path LIKE '%harbor%'")
    assert index.add(archive).added == 1


def test_bad_files_are_reported_and_cost_no_other(index, archive, monkeypatch):
    good = (archive / "harbor.png").read_bytes()
    (archive / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (archive / "cut.png").write_bytes(good[: len(good) // 2])
    (archive / "empty.tif").write_bytes(b"")
    (archive / "notes.txt").write_text("no image")
    (archive / ".hidden.png").write_bytes(b"passed over")
    Image.new("L", (60, 60)).save(archive / "huge.png")
    monkeypatch.setattr("modeling_pir.images_pir.MAX_PIXELS", 3000)
    report = index.add(archive)
    assert report.added == len(index) == 4
    assert sorted(Path(path).name for path, _ in report.errors) == ["corrupt.jpg", "cut.png", "empty.tif", "huge.png"]
    assert all(path in sentence for path, sentence in report.errors)
    assert report.skipped == [str(archive / "notes.txt")]


@pytest.mark.parametrize("problem", [AttributeError("no attribute 'x'"), struct.error("unpack"), MemoryError()])
def test_any_exception_of_a_decoder_is_the_error_of_its_file(index, archive, monkeypatch, problem):
    def fail_once(path, real=open_image):
        if path.endswith("forest.png"):
            raise problem
        return real(path)

    monkeypatch.setattr("modeling_pir.index.embed_files.open_image", fail_once)
    report = index.add(archive)
    ((path, sentence),) = report.errors
    assert report.added == 3 and "forest.png cannot be read (" in sentence and path.endswith("forest.png")
    assert str(problem) in sentence and "\n" not in sentence


def test_large_images_wait_in_small_groups(archive, tiny_model, tiny_processor, monkeypatch):
    """64 of 20 megapixels at once are 4 GB before the model sees one."""
    counts = []
    monkeypatch.setattr("modeling_pir.index.embed_files.GROUP_PIXELS", 2 * 48 * 40)

    class CountingEncoder(PIREncoder):
        def embed_images(self, images, *arguments):
            counts.append(len(images))
            return super().embed_images(images, *arguments)

    encoder = CountingEncoder(tiny_model, tiny_processor)
    files = list(embed_files(encoder, sorted(map(str, archive.iterdir()))))
    assert len(files) == 4 and all(len(file.rows) == 1 for file in files)
    assert max(counts) == 2 and sum(counts) == 4


def test_file_name_that_is_no_text_is_reported(index, archive):
    os.rename(archive / "harbor.png", os.fsencode(archive) + b"/harb\xff.png")
    report = index.add(archive)
    assert report.added == 3 and "not UTF-8" in report.errors[0][1]


def test_file_that_vanishes_is_reported(index, archive):
    scan = index.scan(archive)
    (archive / "harbor.png").unlink()
    report = index.write(embed_files(index.encoder, scan.new), scan)
    assert report.added == 3 and "harbor.png cannot be read (No such file" in report.errors[0][1]


def test_missing_folder_is_refused(index, tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        index.add(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a folder"):
        index.update(tmp_path / "nowhere")


def test_index_among_the_images_is_not_indexed(archive, tiny_model, tiny_processor):
    for engine in ("exact", "lance"):
        index = PIRIndex.create(archive / f"index.{engine}", tiny_model, tiny_processor, engine=engine)
        index.add(archive)
        report = index.add(archive)
        assert (report.added, report.unchanged) == (0, 4)
        assert not any(path.startswith(index.path) for path in report.skipped)


def test_labels_come_from_the_metadata_file(index, archive):
    entries = [
        {"file_name": "harbor.png", "scene": "harbor", "date": "2019-09-04", "label": ["x"]},
        {"file_name": "no"},
    ]
    (archive / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    report = index.add(archive)
    assert report.skipped == []
    (hit,) = index.search("a", where="scene = 'harbor' AND date >= '2019'")
    assert (names([hit]), hit.scene, hit.date, hit.sensor) == (["harbor"], "harbor", "2019-09-04", None)
    (archive / "metadata.jsonl").write_text('{"file_name": "a.png"}\n[1]\n')
    ((path, sentence),) = index.add(archive).errors
    assert path == str(archive / "metadata.jsonl") and "Line 2 of" in sentence and "is not a JSON object" in sentence


def test_images_in_memory_with_metadata(index, tiny_images):
    pairs = [
        (tiny_images[0], {"path": "s3://bucket/a.png", "bounds": (10, 50, 11, 51), "footprint": SQUARE}),
        (tiny_images[1].convert("L"), {"scene": "o'hare"}),
    ]
    assert index.add(pairs).added == 2
    assert index.add(iter(pairs)).unchanged == 2
    (hit,) = index.search("a", where="minx <= 10.5 AND maxx >= 10.5")
    assert (hit.path, hit.bounds, hit.footprint) == ("s3://bucket/a.png", (10, 50, 11, 51), SQUARE)
    (hit,) = index.search("a", where="scene = 'o''hare'")
    assert hit.path.startswith("image:")
    assert index.add([(tiny_images[2], {"path": "s3://bucket/a.png"})]).added == 1  # another picture of that name
    assert len(index) == 2
    with pytest.raises(ValueError, match="key 'colour': allowed are path, window"):
        index.add([(tiny_images[0], {"colour": "red"})])


def test_scene_becomes_chips_with_their_places(index, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    scene = tmp_path / "scene_20190904.tif"
    write_raster(scene, noise(), crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 5_550_000))
    report = index.add([scene], chips=ChipOptions(chip_size=32, overlap=0))
    assert (report.added, report.unplaced, report.errors) == (6, [], [])
    hits = index.search("a", k=9, where="minx > 14.9 AND maxy < 50.2")
    assert sorted(hit.window for hit in hits) == [(x, y, 32, 32) for x in (0, 32, 64) for y in (0, 32)]
    assert {(hit.crs, hit.date) for hit in hits} == {("EPSG:32633", "2019-09-04")}
    assert all(hit.footprint["type"] == "Polygon" for hit in hits)


def test_scenes_that_are_hard(index, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    utm = {"crs": "EPSG:32633", "nodata": 0}
    turned = rasterio.Affine.translation(5e5, 5.5e6) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(10, -10)
    write_raster(scenes / "turned.tif", noise(), **utm, transform=turned)
    write_raster(scenes / "nodata.tif", noise() * 0, **utm, transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_raster(scenes / "nowhere.tif", np.concatenate([noise(), noise()]))
    fiji = rasterio.Affine(0.01, 0, 179.8, 0, -0.01, -17)
    write_raster(scenes / "fiji.tif", noise(32, 32), crs="EPSG:4326", transform=fiji)
    report = index.add(scenes, chips=ChipOptions(chip_size=64))
    assert report.unplaced == [str(scenes / "nowhere.tif")]
    ((path, sentence),) = report.errors
    assert path == str(scenes / "nodata.tif") and "nodata" in sentence
    across = index.search("a", where="minx > maxx")
    assert set(names(across)) == {"fiji"} and across[0].footprint["type"] == "MultiPolygon"
    hit = index.search("a", k=1, where="path LIKE '%turned%'")[0]
    corners = {tuple(corner) for corner in hit.footprint["coordinates"][0]}
    assert len(corners) == 4 and len({longitude for longitude, _ in corners}) == 4  # no upright rectangle


def test_full_disk_is_placed_though_its_corners_are_not(index, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    goes = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80 +units=m"
    disk = rasterio.Affine(170_000, 0, -5_440_000, 0, -170_000, 5_440_000)
    write_raster(tmp_path / "disk.tif", noise(64, 64), crs=goes, transform=disk)
    write_raster(tmp_path / "metres.tif", noise(), crs="EPSG:4326", transform=rasterio.Affine(2, 0, 5e5, 0, -2, 5e6))
    report = index.add([tmp_path / "disk.tif", tmp_path / "metres.tif"], chips=ChipOptions(chip_size=16, overlap=0))
    assert report.unplaced == [str(tmp_path / "metres.tif")] and report.errors == []
    assert 0 < len(index.search("a", k=99, where="footprint IS NOT NULL AND path LIKE '%disk%'")) < 16


def test_scene_that_breaks_off_leaves_no_row(index, tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    whole, broken = tmp_path / "whole.tif", tmp_path / "broken.tif"
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.5e6), "blockysize": 1}
    write_raster(whole, noise(), **profile)
    broken.write_bytes(whole.read_bytes()[:-8_000])
    report = index.add([broken, whole], batch_size=1, chips=ChipOptions(chip_size=32, overlap=0))
    assert report.added == len(index) == 6
    assert [path for path, _ in report.errors] == [str(broken)]


def test_another_model_is_refused_with_the_command(index, archive, tiny_config, tiny_processor):
    index.add(archive)
    other = PIRModel(tiny_config).eval()
    with pytest.raises(ValueError, match="two models cannot be compared.* pir index FOLDER --index NEW_INDEX"):
        PIRIndex.open(index.path, other, tiny_processor)


def test_half_precision_is_the_same_model(index, tiny_model, tiny_processor):
    PIRIndex.open(index.path, tiny_model.to(torch.bfloat16), tiny_processor)


def test_index_remembers_its_model(index, tiny_model, tiny_processor, tmp_path):
    named = PIRIndex.create(
        tmp_path / "named", PIREncoder(tiny_model, tiny_processor, "org/pir", "abc"), engine=index.store.kind
    )
    assert (PIRIndex.open(named.path).metadata["model_id"], named.metadata["revision"]) == ("org/pir", "abc")
    tiny_model.save_pretrained(tmp_path / "model")
    loaded = PIRModel.from_pretrained(tmp_path / "model")
    assert PIRIndex.create(tmp_path / "b", loaded, tiny_processor).metadata["model_id"] == str(tmp_path / "model")


def test_without_a_model_vectors_can_be_searched_but_not_sentences(index, archive):
    index.add(archive)
    opened = PIRIndex.open(index.path)
    assert len(opened.search(torch.ones(16))) == 4
    with pytest.raises(ValueError, match="opened without a model"):
        opened.search("a")
    with pytest.raises(ValueError, match="opened without a model"):
        opened.add(archive)


def test_create_and_open_say_what_is_wrong(tmp_path, tiny_model, tiny_processor):
    (tmp_path / "file").write_text("no index")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder", "missing"):
        with pytest.raises(ValueError, match=f"{name} is not an index"):
            PIRIndex.open(tmp_path / name)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(ValueError, match="exists already"):
        PIRIndex.create(tmp_path / "folder", tiny_model, tiny_processor)


@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_place_that_cannot_be_written_is_an_os_error(tmp_path, tiny_model, tiny_processor, engine):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        PIRIndex.create(tmp_path / "file" / "index", tiny_model, tiny_processor, engine=engine)


def test_full_disk_is_an_os_error_and_keeps_what_was_committed(index, archive):
    index.add([archive / "airport.png"])
    rows = [make_row(f"/{number}.png", (0, 0, 1, 1)) for number in range(5000)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written"):
            index.store.append(rows, np.ones((5000, 16), dtype=np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(PIRIndex.open(index.path).search(torch.ones(16))) == ["airport"]
    assert index.add(archive).added == 3


def test_without_lancedb_search_is_exact_and_a_table_names_the_extra(tmp_path, tiny_model, tiny_processor, monkeypatch):
    path = PIRIndex.create(tmp_path / "table", tiny_model, tiny_processor, engine="lance").path
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert isinstance(PIRIndex.create(tmp_path / "b", tiny_model, tiny_processor).store, ExactStore)
    with pytest.raises(ImportError, match=r"modeling-pir\[search\]"):
        PIRIndex.open(path)


def test_lance_table_at_an_address(tmp_path, tiny_model, tiny_processor, archive):
    address = f"file://{tmp_path}/table"
    PIRIndex.create(address, tiny_model, tiny_processor).add(archive)
    assert PIRIndex.open(address, tiny_model, tiny_processor).add(archive).unchanged == 4


def test_export_to_geojson(index, tmp_path, tiny_images):
    index.add([(tiny_images[0], {"path": "a", "bounds": (10, 50, 11, 51), "footprint": SQUARE, "date": "2019"})])
    index.add([(tiny_images[1], {"path": "b"})])
    assert index.export(tmp_path / "all.geojson") == 2
    placed, unplaced = json.loads((tmp_path / "all.geojson").read_text())["features"]
    assert placed["geometry"] == SQUARE and placed["properties"]["date"] == "2019"
    assert unplaced["geometry"] is None and unplaced["properties"]["path"] == "b"
    assert index.export(tmp_path / "some.geojson", where="date = '1900'") == 0
    assert json.loads((tmp_path / "some.geojson").read_text())["features"] == []
    with pytest.raises(ValueError, match=r"suffix '.csv'"):
        index.export(tmp_path / "all.csv")


def test_export_to_parquet_holds_vectors_and_geometry(index, tmp_path, tiny_images, tiny_model, tiny_processor):
    import pyarrow.parquet as pq

    index.add([(tiny_images[0], {"path": "a", "footprint": SQUARE}), (tiny_images[1], {"path": "b"})])
    index.export(tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    vectors = np.array(table.column("embedding").to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(vectors, embed_images(tiny_model, tiny_processor, tiny_images[:2]), atol=1e-6)
    assert table.column("geometry").to_pylist() == [to_wkb(SQUARE), None]
    assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"


def test_well_known_binary_is_that_of_the_standard():
    triangle = [[0, 0], [1, 0], [0, 1], [0, 0]]
    ring = "04000000" + "".join(np.array(triangle, dtype="<f8").tobytes().hex(" ").split())
    assert to_wkb({"type": "Polygon", "coordinates": [triangle]}).hex() == "0103000000" + "01000000" + ring
    two = to_wkb({"type": "MultiPolygon", "coordinates": [[triangle], [triangle]]}).hex()
    assert two == "0106000000" + "02000000" + 2 * ("0103000000" + "01000000" + ring)


@pytest.mark.slow
def test_real_archive(tmp_path, tiny_model, tiny_processor):
    scenes = Path(os.environ["PIR_DATA_DIR"]) / "geo_scenes"
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor)
    report = index.add(scenes, chips=ChipOptions(chip_size=128))
    assert not report.errors and report.added == len(index) > 200
    naip = index.search("a pond", k=500, where="sensor = 'NAIP aerial' AND minx > -100 AND maxx < -99")
    assert naip and all("naip" in hit.path for hit in naip)
    assert index.update(scenes).added == 0


def test_scan_without_work_needs_no_write(index, archive):
    index.add(archive)
    assert index.write([], index.scan(archive)).unchanged == 4
    assert index.write([], Scan()).added == 0
