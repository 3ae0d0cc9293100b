"""A hostile archive reads nothing outside itself and asks no one: each file here tries to."""

import os
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from modeling_pir.geo.chips import iter_chips
from modeling_pir.geo.raster import Raster, is_georaster, read_window
from tests.geo.test_raster import METRES, noise, write_raster

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SECRET = bytes(range(1, 251)) * 40
RAW = """<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"
subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">{secret}</SourceFilename><ImageOffset>0</ImageOffset>
<PixelOffset>1</PixelOffset><LineOffset>64</LineOffset></VRTRasterBand></VRTDataset>"""
SOURCE = """<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="0">{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}/${{x}}/${{y}}</ServerUrl></Service>
<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY>
<SizeX>256</SizeX><SizeY>256</SizeY></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>"""
SRS = "<PAMDataset><SRS>{file}</SRS><GeoTransform>9, 0.1, 0, 50, 0, -0.1</GeoTransform></PAMDataset>"
OTHER_DRIVERS = {  # by their first bytes; each can name other files or addresses, or is a program of its own
    "gpkg.tif": b"SQLite format 3\0" + bytes(84), "pdf.jp2": b"%PDF-1.7\n1 0 obj <</F (/etc/passwd)>> endobj",
    "nitf.tif": b"NITF02.10" + bytes(400), "envi.tif": b"ENVI\nsamples = 8\nlines = 8\nbands = 1\n",
    "kmz.tif": b"PK\x03\x04",
    "gti.tif": b"<GDALTileIndexDataset><IndexDataset>{secret}</IndexDataset></GDALTileIndexDataset>",
    "wcs.jp2": b"<WCS_GDAL><ServiceURL>http://127.0.0.1:{port}/</ServiceURL></WCS_GDAL>",
}  # fmt: skip
OVERVIEW = '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{file}</MDI></Metadata></PAMDataset>'


@pytest.fixture
def listener():
    """A port of this machine, and the list of those who called."""
    server = socket.create_server(("127.0.0.1", 0))
    calls = []

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            calls.append(connection.recv(200))
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], calls
    server.close()


def hostile_files(folder, secret, port):
    """Files, and those beside them, that lead to a secret or to the port."""
    raw = RAW.format(secret=secret)
    address = f"/vsicurl/http://127.0.0.1:{port}/scene.tif"
    texts = {
        "raw.vrt": raw, "raw.tif": raw, "raw.jp2": raw, "curl.vrt": SOURCE.format(source=address),
        "wms.vrt": WMS.format(port=port), "wms.jp2": WMS.format(port=port),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name in ("ovr", "msk", "aux", "inside"):
        tags = {"OVERVIEW_FILE": str(folder / "raw.vrt")} if name == "inside" else {}
        path = write_raster(folder / f"{name}.tif", np.full((1, 128, 128), 255, np.uint8), METRES, "EPSG:32633")
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="OVERVIEWS", **tags)
    (folder / "ovr.tif.OVR").write_text(raw)
    (folder / "msk.tif.msk").write_text(SOURCE.format(source=address))
    (folder / "aux.tif.aux.xml").write_text(OVERVIEW.format(file=address))
    for name, content in OTHER_DRIVERS.items():
        (folder / name).write_bytes(
            content.replace(b"{secret}", str(secret).encode()).replace(b"{port}", str(port).encode())
        )
    for name, suffix in (("srs.png", "png"), ("place.jpg", "jpg")):
        lead = f"http://127.0.0.1:{port}/crs" if suffix == "png" else str(secret)
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li rdf:resource="{lead}"/></x:xmpmeta>'
        options = {"xmp": xmp.encode()} if suffix == "jpg" else {}
        Image.new("RGB", (128, 128), "white").save(folder / name, **options)
        (folder / f"{name}.aux.xml").write_text(SRS.format(file=lead))
        (folder / name).with_suffix(".prj").write_text(lead)
        (folder / name).with_suffix(f".{suffix[0]}gw").write_text("0.1\n0\n0\n-0.1\n9\n50\n")
    names = [*texts, *OTHER_DRIVERS, "ovr.tif", "msk.tif", "aux.tif", "inside.tif", "srs.png", "place.jpg"]
    return names


def test_hostile_files_read_no_secret_and_send_no_packet(tmp_path, listener):
    port, calls = listener
    secret, archive = tmp_path / "secret.txt", tmp_path / "archive"
    secret.write_bytes(SECRET)
    archive.mkdir()
    names = hostile_files(archive, secret, port)
    assert len(names) == 19
    for name in names:
        if not is_georaster(archive / name):  # opened as a plain image, by no reader of GDAL's
            continue
        try:
            images = [chip.image for chip in iter_chips(archive / name, chip_size=64, ground_resolution=8)]
            images.append(read_window(archive / name, max_size=32))
        except ValueError as error:
            assert name in str(error)
            continue
        assert all(set(np.unique(np.asarray(image))) <= {0, 255} for image in images), name
    assert not calls and secret.read_bytes() == SECRET


def test_pipe_beside_a_scene_is_not_waited_for(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), METRES, "EPSG:32633")
    for name in ("scene.tif.aux.xml", "scene.tif.ovr", "scene.tfw"):
        os.mkfifo(tmp_path / name)
    assert is_georaster(path) and all(chip.footprint for chip in iter_chips(path, chip_size=40))


def test_overview_beside_a_scene_is_read_where_it_is_one(tmp_path):
    path = write_raster(tmp_path / "scene.tif", np.full((3, 256, 256), 200, np.uint8), METRES, "EPSG:32633")
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4], rasterio.enums.Resampling.nearest)
    assert (tmp_path / "scene.tif.ovr").exists()
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.full((3, 256, 256), 10, np.uint8))  # the overview keeps the old value
    (chip,) = iter_chips(path, chip_size=64, ground_resolution=8)
    assert np.asarray(chip.image).max() == 200


def test_vrt_and_addresses_are_opened_where_references_are_allowed(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), METRES, "EPSG:32633")
    pytest.importorskip("rasterio.shutil").copy(path, tmp_path / "scene.vrt", driver="VRT")
    with pytest.raises(ValueError, match=r"scene\.vrt is made of other files \(VRT\): allow references"):
        Raster(tmp_path / "scene.vrt")
    with Raster(tmp_path / "scene.vrt", allow_references=True) as scene:
        assert (scene.width, scene.height) == (60, 40)
    addresses = ("s3://bucket/scene.tif", "zip:///a.zip!raw.vrt", "tar:///a.tar!raw.vrt", "/vsizip/a.zip/raw.vrt")
    for address in (*addresses, "/vsicurl/http://127.0.0.1:9/scene.tif"):
        with pytest.raises(ValueError, match="is an address, not a local file: allow references"):
            Raster(address)


def test_file_that_claims_more_pixels_than_it_can_hold_is_refused(tmp_path):
    path = tmp_path / "bomb.tif"
    shape = {"count": 1, "height": 60_000, "width": 60_000, "dtype": "uint8"}
    with rasterio.open(
        path, "w", driver="GTiff", sparse_ok=True, tiled=True, blockxsize=4096, blockysize=4096, **shape
    ):
        pass
    with pytest.raises(ValueError, match="claims 60000 x 60000 pixels in"):
        Raster(path)
