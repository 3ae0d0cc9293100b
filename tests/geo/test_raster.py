"""Scenes into chips: rasters of a few kilobytes written on the spot, and, slow, the real ones of PIR_DATA_DIR."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_pir.geo.chips import iter_chips
from modeling_pir.geo.raster import Raster, is_georaster, read_window
from modeling_pir.geo.sensors import find_date, find_sensor

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

NORTH_UP = rasterio.Affine(0.01, 0, 10, 0, -0.01, 50)  # 0.01 degrees per pixel, west edge 10, north edge 50
METRES = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)  # 2 m per pixel, on UTM's central meridian


def write_raster(
    path, values, transform=NORTH_UP, crs="EPSG:4326", colors=None, descriptions=None, tags=None, **options
):
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **options) as dataset:
        if colors:
            dataset.colorinterp = [rasterio.enums.ColorInterp[color] for color in colors]
        dataset.write(values)
        dataset.descriptions = descriptions or (None,) * bands
        dataset.update_tags(**tags or {})
    return path


def noise(bands=3, height=40, width=60, dtype=np.uint8, low=1, high=255):
    return np.random.default_rng(0).integers(low, high, (bands, height, width)).astype(dtype)


def close(ring, expected):
    assert np.allclose(ring, expected, atol=1e-7), ring


def test_chips_cover_the_scene_and_overlap_as_asked(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(height=70, width=101))
    with Raster(path) as scene:
        windows, size = scene.windows(32, overlap=0.25)
    tall = windows[0][3]
    cols, rows = sorted({window[0] for window in windows}), sorted({window[1] for window in windows})
    assert size == 32 and len(windows) == len(cols) * len(rows)
    assert (cols[0], cols[-1] + windows[0][2]) == (0, 101) and (rows[0], rows[-1] + tall) == (0, 70)
    assert max(np.diff(cols)) <= 0.75 * windows[0][2] + 1 and max(np.diff(rows)) <= 0.75 * tall + 1


def test_scene_smaller_than_a_chip_gives_smaller_square_chips(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(height=20, width=50), METRES, "EPSG:32633")
    chips = list(iter_chips(path, chip_size=32, overlap=0))
    assert {chip.image.size for chip in chips} == {(20, 20)}
    assert [chip.window for chip in chips] == [(0, 0, 20, 20), (15, 0, 20, 20), (30, 0, 20, 20)]


def test_chip_pixels_of_8_bits_are_those_of_the_file(tmp_path):
    values = noise()
    path = write_raster(tmp_path / "scene.tif", values, METRES, "EPSG:32633")
    for chip in iter_chips(path, chip_size=16):
        col, row, width, height = chip.window
        expected = values[:, row : row + height, col : col + width].transpose(1, 2, 0)
        assert np.array_equal(np.asarray(chip.image), expected)


def test_footprint_is_the_window_on_the_ground_counter_clockwise(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise())
    with Raster(path) as scene:
        footprint, bounds = scene.footprint((10, 20, 30, 15))
    assert footprint["type"] == "Polygon" and bounds == pytest.approx((10.1, 49.65, 10.4, 49.8))
    close(footprint["coordinates"][0], [(10.1, 49.8), (10.1, 49.65), (10.4, 49.65), (10.4, 49.8), (10.1, 49.8)])


def test_footprint_agrees_with_gdal_in_a_projected_crs(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), METRES, "EPSG:32633")
    chip = list(iter_chips(path, chip_size=30))[-1]
    col, row, width, height = chip.window
    left, top = 500_000 + 2 * col, 5_000_000 - 2 * row
    right, bottom = left + 2 * width, top - 2 * height
    ring = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    expected = rasterio.warp.transform_geom("EPSG:32633", "EPSG:4326", geometry)
    close(chip.footprint["coordinates"][0], expected["coordinates"][0])
    assert chip.crs == "EPSG:32633" and chip.bounds[0] == pytest.approx(min(x for x, _ in expected["coordinates"][0]))


def test_footprint_of_a_rotated_scene_follows_its_corners(tmp_path):
    cos, sin = np.cos(np.pi / 6), 0.5
    turned = rasterio.Affine(0.01 * cos, 0.01 * sin, 10, 0.01 * sin, -0.01 * cos, 50)
    path = write_raster(tmp_path / "scene.tif", noise(), turned)
    with Raster(path) as scene:
        footprint, bounds = scene.footprint((0, 0, 60, 40))
    east, south = np.array([0.6 * cos, 0.6 * sin]), np.array([0.4 * sin, -0.4 * cos])
    corners = [(0, 0), south, south + east, east, (0, 0)]
    close(footprint["coordinates"][0], [(10 + x, 50 + y) for x, y in corners])
    assert bounds == pytest.approx((10, 50 + south[1], 10 + (south + east)[0], 50 + east[1]))


def test_footprint_of_a_scene_with_south_up_runs_counter_clockwise_too(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), rasterio.Affine(0.01, 0, 10, 0, 0.01, 50))
    with Raster(path) as scene:
        footprint, bounds = scene.footprint((0, 0, 60, 40))
    ring = np.array(footprint["coordinates"][0])
    area = (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum() / 2
    assert area == pytest.approx(0.6 * 0.4) and bounds == pytest.approx((10, 50, 10.6, 50.4))


def test_footprint_across_the_antimeridian_is_split_in_two(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), rasterio.Affine(0.05, 0, 179, 0, -0.05, 10))
    with Raster(path) as scene:
        footprint, bounds = scene.footprint((0, 0, 60, 40))  # longitudes 179 to 182
    assert footprint["type"] == "MultiPolygon" and bounds == pytest.approx((179, 8, -178, 10))
    (west,), (east,) = footprint["coordinates"]
    assert {tuple(point) for point in west} == {(179, 10), (179, 8), (180, 8), (180, 10)}
    assert {tuple(point) for point in east} == {(-180, 10), (-180, 8), (-178, 8), (-178, 10)}
    assert west[0] == west[-1] and east[0] == east[-1]


def test_footprint_across_the_antimeridian_in_utm_has_the_area_of_its_parts(tmp_path):
    transform = rasterio.Affine(1000, 0, 150_000, 0, -1000, 1_000_000)  # zone 1 begins at 180 degrees
    path = write_raster(tmp_path / "scene.tif", noise(), transform, "EPSG:32601")
    with Raster(path) as scene:
        footprint, (west, _, east, _) = scene.footprint((0, 0, 60, 40))
    assert footprint["type"] == "MultiPolygon" and 179 < west <= 180 and -180 <= east < -179
    for (ring,) in footprint["coordinates"]:
        assert all(-180 <= x <= 180 for x, _ in ring) and len({x > 0 for x, _ in ring}) == 1


@pytest.mark.parametrize(("west", "expected"), [(200, -160), (180, -180), (-180, -180), (179.4, 179.4)])
def test_longitudes_come_out_between_minus_180_and_180(tmp_path, west, expected):
    path = write_raster(tmp_path / "scene.tif", noise(), rasterio.Affine(0.01, 0, west, 0, -0.01, 10))
    with Raster(path) as scene:
        footprint, bounds = scene.footprint((0, 0, 60, 40))  # 0.6 degrees
    assert footprint["type"] == "Polygon" and bounds == pytest.approx((expected, 9.6, expected + 0.6, 10))


@pytest.mark.parametrize("transform", [rasterio.Affine.identity(), METRES])
def test_raster_without_crs_gives_chips_without_a_footprint(tmp_path, transform):
    path = write_raster(tmp_path / "scene.tif", noise(), transform, crs=None)
    chips = list(iter_chips(path, chip_size=20, ground_resolution=50))  # which is not known, so not applied
    assert chips[0].window == (0, 0, 20, 20)
    assert {(chip.footprint, chip.bounds, chip.crs) for chip in chips} == {(None, None, None)}


def test_chips_are_read_at_the_ground_resolution(tmp_path):
    values = noise(height=80, width=80)
    path = write_raster(tmp_path / "scene.tif", values, METRES, "EPSG:32633")
    chips = list(iter_chips(path, chip_size=10, ground_resolution=8, overlap=0))  # 4 pixels of 2 m each way
    assert [chip.window for chip in chips] == [(0, 0, 40, 40), (40, 0, 40, 40), (0, 40, 40, 40), (40, 40, 40, 40)]
    expected = values[:, :40, :40].reshape(3, 10, 4, 10, 4).mean(axis=(2, 4)).transpose(1, 2, 0)
    assert chips[0].image.size == (10, 10) and np.abs(np.asarray(chips[0].image) - expected).max() <= 1


def test_overviews_are_read_where_the_file_has_them(tmp_path):
    path = write_raster(tmp_path / "scene.tif", np.full((3, 256, 256), 200, np.uint8), METRES, "EPSG:32633")
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4], rasterio.enums.Resampling.nearest)
        dataset.write(np.full((3, 256, 256), 10, np.uint8))  # the overview keeps the old value
    (chip,) = iter_chips(path, chip_size=64, ground_resolution=8)
    assert np.asarray(chip.image).max() == 200


def test_file_coarser_than_asked_keeps_its_own_pixels(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(), METRES, "EPSG:32633")
    assert {chip.window[2:] for chip in iter_chips(path, chip_size=20, ground_resolution=0.5)} == {(20, 20)}


def test_chips_in_degrees_are_square_on_the_ground(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(height=80, width=100), rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 60))
    chip = next(iter_chips(path, chip_size=20))  # at 60 degrees north a degree of longitude is half one of latitude
    assert chip.window[2:] == (40, 20) and chip.image.size == (20, 20)


def test_chips_of_nodata_are_skipped(tmp_path):
    values = noise(height=20, width=60)
    values[:, :, :30] = 255
    path = write_raster(tmp_path / "scene.tif", values, METRES, "EPSG:32633", nodata=255)
    cols = [chip.window[0] for chip in iter_chips(path, chip_size=20, overlap=0)]
    assert cols == [20, 40]  # the middle one is half nodata, not more
    assert [chip.window[0] for chip in iter_chips(path, chip_size=20, overlap=0, max_nodata=0.4)] == [40]


def test_black_counts_as_nodata_only_where_none_is_declared(tmp_path):
    values = noise(height=20, width=40)
    values[:, :, :20] = 0
    undeclared = write_raster(tmp_path / "a.tif", values, METRES, "EPSG:32633")
    declared = write_raster(tmp_path / "b.tif", values, METRES, "EPSG:32633", nodata=255)
    assert len(list(iter_chips(undeclared, chip_size=20, overlap=0))) == 1
    assert len(list(iter_chips(declared, chip_size=20, overlap=0))) == 2


def test_scene_of_nothing_but_nodata_is_refused(tmp_path):
    path = write_raster(tmp_path / "empty.tif", np.zeros((3, 40, 40), np.uint16), nodata=0)
    with pytest.raises(
        ValueError, match=r"empty\.tif gives no chip: more than 50% of each of its \d+ windows is nodata"
    ):
        list(iter_chips(path, chip_size=20))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_stretch_is_one_for_the_scene_and_not_of_the_chip(tmp_path, dtype):
    ramp = np.broadcast_to(np.arange(100, 3300, 10), (3, 40, 320)).astype(dtype)
    path = write_raster(tmp_path / "scene.tif", ramp, METRES, "EPSG:32633")
    chips = list(iter_chips(path, chip_size=40, overlap=0))
    low, high = np.percentile(ramp[0], (2, 98))
    for chip in chips:
        part = ramp[0, :, chip.window[0] : chip.window[0] + 40]
        expected = ((part - low) / (high - low) * 255).clip(0, 255)
        assert np.abs(np.asarray(chip.image)[..., 1] - expected).max() <= 1
    assert np.asarray(chips[0].image).max() < np.asarray(chips[-1].image).min()


def test_stretch_ignores_nodata_and_nan(tmp_path):
    ramp = np.broadcast_to(np.linspace(0.1, 0.5, 40), (3, 40, 40)).astype(np.float32).copy()
    ramp[:, :8], ramp[:, 8:12] = -9999, np.nan
    path = write_raster(tmp_path / "scene.tif", ramp, METRES, "EPSG:32633", nodata=-9999)
    pixels = np.asarray(next(iter_chips(path, chip_size=40)).image)
    assert (pixels[:12] == 0).all() and pixels[20, 0, 0] == 0 and pixels[20, -1, 0] == 255
    assert 120 < pixels[20, 20, 0] < 136


RGBN = ("red", "green", "blue", "undefined")


@pytest.mark.parametrize(
    ("name", "num_bands", "colors", "descriptions", "expected"),
    [
        ("a", 1, None, None, (1, 1, 1)),
        ("a", 3, None, None, (1, 2, 3)),
        ("a", 4, ("gray", "undefined", "undefined", "undefined"), None, (1, 2, 3)),
        ("a", 4, ("blue", "green", "red", "undefined"), None, (3, 2, 1)),
        ("a", 4, None, ("nir", "red", "green", "blue"), (2, 3, 4)),
        ("a", 5, None, ("Blue", "Green", "Red", "Red Edge", "Near infrared"), (3, 2, 1)),
        ("a", 5, None, ("rededge", "red_edge_2", "Red 665 nm", "green", "blue"), (3, 4, 5)),
        ("a", 3, None, ("B02", "B03", "B04"), (3, 2, 1)),
        ("a", 4, None, ("SR_B5", "SR_B4", "SR_B3", "SR_B2"), (2, 3, 4)),
        ("landsat7_x", 3, None, ("B1", "B2", "B3"), (3, 2, 1)),
        ("landsat7_x", 6, None, None, (3, 2, 1)),
        ("landsat5_x", 7, None, None, (3, 2, 1)),
        ("LC08_L1TP_015034_20130611", 7, None, None, (4, 3, 2)),
        ("S2A_MSIL2A_20200102T101010", 12, None, None, (4, 3, 2)),
        ("S2A_MSIL2A_20200102T101010", 4, None, None, (3, 2, 1)),
        ("20200102_101010_3B_AnalyticMS", 4, None, None, (3, 2, 1)),
        ("a", 6, None, None, (3, 2, 1)),
        ("a", 4, RGBN, ("blue", "green", "red", "nir"), (3, 2, 1)),
        ("a", 4, RGBN, ("B02", "B03", "B04", "B08"), (3, 2, 1)),
        ("a", 4, RGBN, ("B02_10m", "B03_10m", "B04_10m", "B08_10m"), (3, 2, 1)),
        ("a", 4, RGBN, None, (1, 2, 3)),
        ("S2A_MSIL2A_20200102T101010", 4, RGBN, None, (3, 2, 1)),
        ("20200102_101010_3B_AnalyticMS", 4, RGBN, None, (3, 2, 1)),
        ("a", 4, ("blue", "green", "red", "undefined"), ("a", "b", "c", "d"), (3, 2, 1)),
    ],
)
def test_bands_are_found(tmp_path, name, num_bands, colors, descriptions, expected):
    undefined = ("gray", *["undefined"] * (num_bands - 1))
    path = write_raster(
        tmp_path / f"{name}.tif", noise(num_bands), colors=colors or undefined, descriptions=descriptions
    )
    with Raster(path) as scene:
        assert scene.bands == expected


def test_band_names_in_tags_count_as_descriptions(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise(4), colors=RGBN)
    with rasterio.open(path, "r+") as dataset:
        for band, name in enumerate(("blue", "green", "red", "nir"), start=1):
            dataset.update_tags(band, BandName=name)
    with Raster(path) as scene:
        assert scene.bands == (3, 2, 1)


def test_declared_bands_are_read(tmp_path):
    values = noise(9)
    path = write_raster(tmp_path / "scene.tif", values, METRES, "EPSG:32633")
    chip = next(iter_chips(path, chip_size=40, bands=(9, 1, 5)))
    assert np.array_equal(np.asarray(chip.image), values[[8, 0, 4], :40, :40].transpose(1, 2, 0))


def test_bands_that_nothing_tells_are_asked_for(tmp_path):
    path = write_raster(tmp_path / "cube.tif", noise(9))
    with pytest.raises(ValueError, match=r"cube\.tif has 9 bands and does not say which are red, green and blue"):
        list(iter_chips(path))


@pytest.mark.parametrize("bands", [(1, 2), (0, 1, 2), (1, 2, 4)])
def test_bands_the_file_does_not_have_are_refused(tmp_path, bands):
    path = write_raster(tmp_path / "scene.tif", noise())
    with pytest.raises(ValueError, match="has 3 bands: name three of them"):
        list(iter_chips(path, bands=bands))


def test_alpha_masks_pixels_unless_it_is_a_mislabelled_fourth_colour(tmp_path):
    values = noise(4, height=20, width=40)
    values[3] = np.where(np.arange(40) < 20, 0, 255)
    mask = write_raster(tmp_path / "a.tif", values, METRES, "EPSG:32633", colors=(*RGBN[:3], "alpha"))
    assert [chip.window[0] for chip in iter_chips(mask, chip_size=20, overlap=0)] == [20]
    values[3] = noise(1, 20, 40)[0]
    values[3, :, :15] = 0  # dark in the infrared: water
    infrared = write_raster(tmp_path / "b.tif", values, METRES, "EPSG:32633", colors=(*RGBN[:3], "alpha"))
    assert [chip.window[0] for chip in iter_chips(infrared, chip_size=20, overlap=0)] == [0, 20]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("naip5m_nd_20190904_rgb_jpeg", "2019-09-04"),
        ("m_3607717_sw_18_060_20201015_20210118", "2020-10-15"),
        ("LC08_L1TP_015034_20130611_20200912_02_T1", "2013-06-11"),
        ("LC80150342013162LGN00", "2013-06-11"),
        ("S2A_MSIL1C_20170105T013442_N0204_R031_T53NMJ_20170105T013443", "2017-01-05"),
        ("2021-03-04T10:11:12Z", "2021-03-04"),
        ("2021:03:04 10:11:12", "2021-03-04"),
        ("tile_20191399_12345678", None),
        ("scene_29990101", None),
        ("landsat_ucayali_1985", None),
        ("", None),
    ],
)
def test_date_is_found_in_a_text(name, expected):
    assert find_date(name) == expected


def test_year_alone_counts_where_the_text_speaks_of_a_scene():
    assert find_date("landsat_ucayali_1985", with_year=True) == "1985"
    assert find_date("landsat_tile_2999_12345", with_year=True) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LC08_L1TP_015034_20130611", "Landsat-8"),
        ("LANDSAT_9", "Landsat-9"),
        ("landsat_bahamas", "Landsat"),
        ("S2B_MSIL2A_2020", "Sentinel-2"),
        ("T53NMJ_20170105T013442_B04", "Sentinel-2"),
        ("sentinel-1a", "Sentinel-1"),
        ("m_3607717_sw_18_1_20160620", "NAIP"),
        ("lanes_and_schrom", None),
        ("anthropology", None),
    ],
)
def test_sensor_is_found_in_a_text(text, expected):
    assert find_sensor(text) == expected


def test_tags_tell_date_and_sensor_before_the_file_name(tmp_path):
    tags = {"SPACECRAFT_ID": "LANDSAT_8", "DATE_ACQUIRED": "2013-06-11", "TIFFTAG_DATETIME": "2020:01:01 00:00:00"}
    chip = next(iter_chips(write_raster(tmp_path / "naip_20190904.tif", noise(), tags=tags)))
    assert (chip.date, chip.sensor) == ("2013-06-11", "Landsat-8")


def test_file_name_tells_the_date_before_the_time_of_writing(tmp_path):
    tags = {"TIFFTAG_DATETIME": "2020:01:01 00:00:00", "SATELLITEID": "WV03"}
    named, nameless = (write_raster(tmp_path / name, noise(), tags=tags) for name in ("x_20190904.tif", "x.tif"))
    chip, other = next(iter_chips(named)), next(iter_chips(nameless))
    assert (chip.date, chip.sensor, other.date) == ("2019-09-04", "WV03", "2020-01-01")


def test_georasters_are_told_from_plain_images(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.tif")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("I;16", (8, 8)).save(tmp_path / "grey16.tif")
    write_raster(tmp_path / "placed.tif", noise())
    write_raster(tmp_path / "big.tif", noise(), BIGTIFF="YES")
    write_raster(tmp_path / "rgb16.tif", noise(dtype=np.uint16), rasterio.Affine.identity(), crs=None)
    write_raster(tmp_path / "six.tif", noise(6), rasterio.Affine.identity(), crs=None)
    (tmp_path / "broken.tif").write_bytes((tmp_path / "placed.tif").read_bytes()[:20])
    (tmp_path / "zero.tif").touch()
    for name in ("placed.tif", "big.tif", "rgb16.tif", "six.tif", "not_opened.jp2", "not_opened.vrt"):
        assert is_georaster(tmp_path / name), name
    for name in ("plain.tif", "plain.png", "grey16.tif", "broken.tif", "zero.tif", "missing.tif"):
        assert not is_georaster(tmp_path / name), name


def test_world_file_makes_a_plain_tiff_a_georaster(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.tif")
    (tmp_path / "plain.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    assert is_georaster(tmp_path / "plain.tif")


def test_broken_files_are_refused_in_one_sentence(tmp_path):
    good = write_raster(tmp_path / "good.tif", noise(height=400, width=400), compress="deflate").read_bytes()
    (tmp_path / "truncated.tif").write_bytes(good[: len(good) // 2])
    (tmp_path / "zero.tif").touch()
    (tmp_path / "text.tif").write_text("no raster")
    for name in ("truncated.tif", "zero.tif", "text.tif", "missing.tif"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read \(.*\): remove it or replace it\.") as caught:
            list(iter_chips(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_complex_numbers_are_refused(tmp_path):
    radar = write_raster(tmp_path / "radar.tif", noise(1, dtype=np.complex64))
    with pytest.raises(ValueError, match="holds complex numbers"):
        list(iter_chips(radar))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("chip_size", 0),
        ("ground_resolution", 0),
        ("ground_resolution", float("nan")),
        ("overlap", 1),
        ("max_nodata", 2),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_read(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}, but it"):
        iter_chips("missing.tif", **{option: value})


def test_missing_rasterio_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-pir\[geo\]'"):
        iter_chips("missing.tif")


def test_window_to_look_at_has_the_colours_of_its_chip(tmp_path):
    path = write_raster(tmp_path / "scene.tif", noise(dtype=np.uint16, high=4000), METRES, "EPSG:32633")
    chip = list(iter_chips(path, chip_size=20))[-1]
    assert np.array_equal(np.asarray(read_window(path, chip.window)), np.asarray(chip.image))
    assert read_window(path, max_size=30).size == (30, 20)


@pytest.fixture(scope="module")
def real_scenes():
    root = os.environ.get("PIR_DATA_DIR")
    if root is None:
        pytest.skip("PIR_DATA_DIR is not set, so there are no real scenes")
    folder = Path(root) / "geo_scenes"
    return folder, [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_real_scenes_lie_where_their_metadata_says(real_scenes):
    folder, rows = real_scenes
    for row in rows:
        with Raster(folder / row["file_name"]) as scene:
            _, bounds = scene.footprint((0, 0, scene.width, scene.height))
        assert scene.crs == row["crs"] and bounds == pytest.approx(row["bounds_wgs84"], abs=2e-5), row["file_name"]


@pytest.mark.slow
def test_real_scenes_tell_date_and_sensor(real_scenes):
    folder, rows = real_scenes
    for row in rows:
        chip = next(iter_chips(folder / row["file_name"]))
        digits = "".join(filter(str.isdigit, chip.date or ""))
        has_date = any(part.isdigit() and len(part) in (4, 8) for part in Path(row["file_name"]).stem.split("_"))
        assert (chip.date is not None) == has_date and digits in row["file_name"], row["file_name"]
        assert chip.sensor is None if row["sensor"] == "drone" else row["sensor"].startswith(chip.sensor)


@pytest.mark.slow
def test_real_scenes_have_the_band_order_of_their_metadata(real_scenes):
    folder, rows = real_scenes
    for row in rows:
        with Raster(folder / row["file_name"]) as scene:
            assert scene.bands == ((3, 2, 1) if row["bands"] == 6 else (1, 2, 3)), row["file_name"]
    for day in ("20120731", "20200831"):  # the same picture, once with infrared and once as JPEG
        raw, jpeg = (read_window(folder / f"naip5m_nd_{day}_{kind}.tif") for kind in ("rgbn", "rgb_jpeg"))
        assert np.abs(np.asarray(raw, float) - np.asarray(jpeg, float)).mean() < 3
