"""Colours of scenes: palettes, few bits, fill values that no tag declares."""

import os

import numpy as np
import pytest

from modeling_pir.geo.chips import iter_chips
from modeling_pir.geo.raster import Raster, open_as_image, open_content_as_image
from modeling_pir.geo.values import find_fill_values
from tests.geo.test_raster import METRES, noise, write_raster

rasterio = pytest.importorskip("rasterio")


def land(dtype, fill, columns=15, bands=3, low=300, high=2800):
    """Noise whose first columns are a fill value that the file does not declare."""
    values = noise(bands, 40, 60, dtype, low, high)
    values[:, :, :columns] = fill
    return values


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        (np.int16, -9999), (np.int16, -32768), (np.uint16, 65535), (np.float32, -9999), (np.float32, -3.4028235e38),
        (np.float32, 1e20), (np.float64, -999), (np.int32, -2147483648), (np.int32, 99999),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bands", [1, 3])
def test_fill_value_that_is_not_declared_changes_nothing(tmp_path, dtype, fill, bands):
    low, high = (1, 200) if fill == -999 else (300, 2800)
    values = land(dtype, fill, bands=bands, low=low, high=high)
    declared = write_raster(tmp_path / "a.tif", values, METRES, "EPSG:32633", nodata=fill)
    undeclared = write_raster(tmp_path / "b.tif", values, METRES, "EPSG:32633")
    with Raster(declared) as expected, Raster(undeclared) as scene:
        assert np.allclose(scene.stretch, expected.stretch)
        image, valid = scene.read()
        assert np.array_equal(valid, expected.read()[1]) and not valid[:, :15].any() and valid[:, 15:].all()
        assert np.array_equal(np.asarray(image), np.asarray(expected.read()[0]))


def test_chips_of_fill_are_left_out_by_their_share(tmp_path):
    path = write_raster(tmp_path / "a.tif", land(np.int16, -9999, columns=32), METRES, "EPSG:32633")
    assert [chip.window[0] for chip in iter_chips(path, chip_size=20, overlap=0)][:2] == [40, 40]
    cols = {chip.window[0] for chip in iter_chips(path, chip_size=20, overlap=0, max_nodata=0.6)}
    assert cols == {20, 40}


@pytest.mark.parametrize(
    "values",
    [
        noise(3, dtype=np.int16, low=-500, high=900),  # lowest and highest are nothing special
        np.tile(np.arange(100, 2500).reshape(1, 40, 60), (3, 1, 1)),
        np.where(noise(3) > 120, 1, 1000)[:1],  # two classes
        np.full((3, 40, 60), 7),
    ],
)
def test_data_are_not_taken_for_a_fill_value(values):
    assert find_fill_values(values, np.ones((40, 60), bool)) == []


def test_saturated_pixels_of_one_band_are_data():
    values = noise(3, dtype=np.uint16, low=300, high=2800)
    values[0, :, :5] = 65535
    assert find_fill_values(values, np.ones((40, 60), bool)) == []


def test_palette_shows_its_colours(tmp_path):
    values = np.zeros((1, 40, 60), np.uint8)
    values[:, :, 30:] = 1
    path = write_raster(tmp_path / "map.tif", values, METRES, "EPSG:32633", photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (10, 120, 30, 255), 1: (0, 40, 200, 255)})
    with Raster(path) as scene:
        _, valid = scene.read()
    pixels = np.asarray(open_as_image(path))
    assert tuple(pixels[0, 0]) == (10, 120, 30) and tuple(pixels[0, -1]) == (0, 40, 200) and valid.all()
    assert len(list(iter_chips(path, chip_size=20))) > 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_from_black_to_white_and_zero_is_data(tmp_path, bits):
    values = np.zeros((1, 40, 60), np.uint8)
    values[:, :, 45:] = 2**bits - 1
    path = write_raster(tmp_path / "mask.tif", values, METRES, "EPSG:32633", nbits=bits)
    with Raster(path) as scene:
        image, valid = scene.read()
    assert np.asarray(image)[0, 0].tolist() == [0, 0, 0] and np.asarray(image)[0, -1].tolist() == [255, 255, 255]
    assert valid.all() and len(list(iter_chips(path, chip_size=20, overlap=0))) == 6


def test_scene_that_has_changed_is_looked_at_anew(tmp_path):
    path = tmp_path / "scene.tif"
    write_raster(path, noise(3), METRES, "EPSG:32633")
    open_as_image(path)
    write_raster(path, noise(3, dtype=np.uint16, low=300, high=2800), METRES, "EPSG:32633")
    os.utime(path, (1, 1))
    pixels = np.asarray(open_as_image(path))
    assert pixels.min() == 0 and pixels.max() == 255 and 100 < pixels.mean() < 155


def test_scene_that_is_sent_is_read_as_the_file_is(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(5, dtype=np.uint16, low=300, high=2800), METRES, "EPSG:32633")
    sent = open_content_as_image(path.read_bytes(), "The picture", 10_000)
    assert np.array_equal(np.asarray(sent), np.asarray(open_as_image(path)))
    with pytest.raises(ValueError, match=r"^The picture has 60 x 40 pixels, more than the 1,000 that are read here"):
        open_content_as_image(path.read_bytes(), "The picture", 1000)
    with pytest.raises(ValueError, match=r"^The picture is not a readable image"):
        open_content_as_image(path.read_bytes()[:-9000], "The picture", 10_000)


@pytest.mark.parametrize(
    ("count", "names", "taken"),
    [
        (9, None, (4, 3, 2)),
        (3, None, (1, 2, 3)),  # there is no band 4
        (4, ("blue", "green", "red", "nir"), (3, 2, 1)),
    ],
)
def test_usual_bands_are_taken_where_a_scene_has_them_and_names_none(tmp_path, count, names, taken):
    path = write_raster(tmp_path / "a.tif", noise(count), METRES, "EPSG:32633", descriptions=names)
    expected = np.asarray(open_as_image(path, bands=taken))
    assert np.array_equal(np.asarray(open_as_image(path, usual_bands=(4, 3, 2))), expected)
    sent = open_content_as_image(path.read_bytes(), "The picture", 10_000, (4, 3, 2))
    assert np.array_equal(np.asarray(sent), expected)
