"""Localizing a sentence in scenes drawn on the spot; towers are replaced by colours where the place matters."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pir.geo.heat_map import Place, heat_map
from modeling_pir.geo.localize import best_places, localize
from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.encoder import PIREncoder

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

METRES = rasterio.Affine(2, 0, 500_000, 0, -2, 5_000_000)
COLORS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class ColorEncoder:
    """An image's embedding is its mean colour, a text's the colour that it names."""

    ground_resolution = None

    def embed_images(self, images, batch_size, progress):
        means = torch.tensor(np.array([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images]))
        return torch.nn.functional.normalize(means, dim=-1)

    def embed_texts(self, texts):
        return torch.tensor([COLORS[texts[0]]])


def green_field():
    """Blue, 160 x 120 pixels, with a green square at columns 100-139 and rows 20-59."""
    values = np.zeros((3, 120, 160), np.uint8)
    values[2] = 200
    values[:, 20:60, 100:140] = np.array([0, 220, 20], np.uint8)[:, None, None]
    return values


def write_scene(path, values, transform=METRES, **options):
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=transform, **shape, **options) as dataset:
        dataset.write(values)
    return path


def place(similarity, window):
    return Place(similarity, window, None, None)


def test_best_place_and_hottest_cell_are_where_the_sentence_applies(tmp_path):
    found = localize(ColorEncoder(), write_scene(tmp_path / "a.tif", green_field()), "green", tmp_path, chip_size=40)
    col, row, width, height = found.places[0].window
    assert abs(col + width / 2 - 120) <= 10 and abs(row + height / 2 - 40) <= 10
    row, col = np.unravel_index(np.nanargmax(found.heat), found.heat.shape)
    assert 100 <= col < 140 and 20 <= row < 60
    assert found.places[0].similarity > 0.7 > found.places[-1].similarity
    assert found.places[0].footprint["type"] == "Polygon" and found.num_chips > 20


def test_geotiff_lies_over_its_scene(tmp_path):
    turned = rasterio.Affine(1.6, 1.2, 500_000, 1.2, -1.6, 5_000_000)
    for name, transform in (("north_up", METRES), ("turned", turned)):
        path = write_scene(tmp_path / f"{name}.tif", green_field(), transform)
        found = localize(ColorEncoder(), path, "green", tmp_path / "out", chip_size=40)
        with rasterio.open(found.geotiff) as heat, rasterio.open(path) as scene:
            assert (heat.crs, heat.count, heat.dtypes[0]) == (scene.crs, 1, "float32") and np.isnan(heat.nodata)
            for share_x, share_y in ((0, 0), (1, 0), (0, 1), (1, 1)):
                corners = [
                    rasterio.transform.xy(
                        dataset.transform, share_y * dataset.height, share_x * dataset.width, offset="ul"
                    )
                    for dataset in (heat, scene)
                ]
                assert corners[0] == pytest.approx(corners[1])
            assert np.array_equal(heat.read(1), found.heat, equal_nan=True)
            assert heat.descriptions == ("green",)


@pytest.mark.parametrize("shape", [(120, 160), (1600, 2000)])
def test_geotiff_is_cloud_optimized(tmp_path, shape):
    cogeo = pytest.importorskip("rio_cogeo")
    values = np.full((3, *shape), 90, np.uint8)
    found = localize(ColorEncoder(), write_scene(tmp_path / "a.tif", values), "green", tmp_path, chip_size=shape[0])
    is_valid, errors, warnings = cogeo.cog_validate(found.geotiff, strict=True)
    assert is_valid and not errors and not warnings
    with rasterio.open(found.geotiff) as heat:
        assert heat.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and heat.tags()["SENTENCE"] == "green"
        assert bool(heat.overviews(1)) == (max(heat.shape) > 512)
    assert not list(tmp_path.glob(".*")), "a part is left"


def test_heat_map_takes_the_place_of_a_file_and_leaves_alone_what_its_side_files_name(tmp_path):
    """GDAL's own way to overwrite removes all files of the old one, an overview's sources among them."""
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"x" * 4096)
    old = write_scene(tmp_path / "a.heat.tif", green_field())
    (tmp_path / "a.heat.tif.ovr").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename relativeToVRT="0">{precious}</SourceFilename>'
        "<PixelOffset>1</PixelOffset><LineOffset>64</LineOffset></VRTRasterBand></VRTDataset>"
    )
    found = localize(ColorEncoder(), write_scene(tmp_path / "a.tif", green_field()), "green", tmp_path, chip_size=40)
    assert found.geotiff == old and precious.exists()


def test_chips_are_cut_at_the_resolution_of_the_model_where_the_scene_is_finer(tmp_path):
    path = write_scene(tmp_path / "a.tif", green_field())  # 2 m per pixel
    encoder = ColorEncoder()
    encoder.ground_resolution = 4.0
    assert localize(encoder, path, "green", tmp_path, chip_size=20).places[0].window[2:] == (40, 40)
    assert localize(encoder, path, "green", tmp_path, 20, ground_resolution=0.01).places[0].window[2:] == (20, 20)
    encoder.ground_resolution = 1.0
    assert localize(encoder, path, "green", tmp_path, chip_size=20).places[0].window[2:] == (20, 20)


def test_heat_map_of_a_scene_with_control_points_lies_over_it(tmp_path):
    point = rasterio.control.GroundControlPoint
    corners = [point(0, 0, 10, 50), point(0, 160, 10.6, 50), point(120, 0, 10, 49.6), point(120, 160, 10.6, 49.6)]
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=3, height=120, width=160, dtype="uint8") as dataset:
        dataset.write(green_field())
        dataset.gcps = (corners, rasterio.crs.CRS.from_epsg(4326))
    found = localize(ColorEncoder(), path, "green", tmp_path / "out", chip_size=40)
    with rasterio.open(found.geotiff) as heat:
        points, crs = heat.gcps
        assert crs.to_epsg() == 4326 and found.crs == "EPSG:4326"
        assert {(p.col, p.row, p.x, p.y) for p in points} == {(p.col, p.row, p.x, p.y) for p in corners}


def test_large_scene_gets_a_heat_map_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_pir.geo.localize.HEAT_SIZE", 40)
    path = write_scene(tmp_path / "a.tif", green_field())
    found = localize(ColorEncoder(), path, "green", tmp_path, chip_size=40)
    with rasterio.open(found.geotiff) as heat, rasterio.open(path) as scene:
        assert found.heat.shape == (30, 40) and heat.bounds == pytest.approx(scene.bounds)
    row, col = np.unravel_index(np.nanargmax(found.heat), found.heat.shape)
    assert 25 <= col < 35 and 5 <= row < 15


def test_nodata_has_no_heat(tmp_path):
    values = green_field()
    values[:, :, :50] = 255
    path = write_scene(tmp_path / "a.tif", values, nodata=255)
    found = localize(ColorEncoder(), path, "green", tmp_path, chip_size=40)
    assert np.isnan(found.heat[:, :50]).all() and not np.isnan(found.heat[:, 50:]).any()


def test_plain_image_gives_a_geotiff_without_a_place_and_says_so(tmp_path):
    Image.fromarray(green_field().transpose(1, 2, 0)).save(tmp_path / "photo.png")
    found = localize(ColorEncoder(), tmp_path / "photo.png", "green", tmp_path, chip_size=40)
    assert found.crs is None and found.places[0].footprint is None and found.places[0].bounds is None
    with rasterio.open(found.geotiff) as heat:
        assert heat.crs is None and heat.shape == (120, 160)


def test_picture_shows_the_sentence_over_a_coloured_map(tmp_path):
    path = write_scene(tmp_path / "a.tif", green_field())
    found = localize(ColorEncoder(), path, "green", tmp_path, chip_size=40)
    pixels = np.asarray(Image.open(found.picture).convert("RGB"), dtype=int)
    blueness = pixels[..., 2] - pixels[..., 0]
    assert found.picture == tmp_path / "a.heat.png" and min(pixels.shape[:2]) > 300
    assert (blueness > 20).mean() > 0.2 and (blueness < -20).mean() > 0.02  # both ends of cividis


def test_heat_of_equal_similarities_is_that_similarity():
    places = [place(0.25, (col, row, 40, 40)) for col in (0, 20, 40) for row in (0, 20)]
    assert np.allclose(heat_map(places, (80, 60), (80, 60)), 0.25)


def test_heat_is_the_weighted_mean_of_the_windows_over_a_cell():
    places = [place(1.0, (0, 0, 4, 2)), place(-1.0, (2, 0, 4, 2))]
    heat = heat_map(places, (8, 2), (8, 2))
    # middles at 2 and 4, half widths 2: weights of the cells at 2.5 are 3/4 and 1/4, at 3.5 the other way round
    assert heat[0, :6] == pytest.approx([1, 1, 0.5, -0.5, -1, -1]) and np.isnan(heat[:, 6:]).all()


def test_window_smaller_than_a_cell_still_has_heat():
    assert heat_map([place(0.5, (9, 9, 1, 1))], (10, 10), (3, 3))[2, 2] == pytest.approx(0.5)


def test_places_that_overlap_a_better_one_are_left_out():
    places = [place(0.9, (10, 0, 20, 20)), place(1.0, (0, 0, 20, 20)), place(0.8, (19, 0, 20, 20)),
              place(0.7, (40, 0, 20, 20)), place(0.6, (100, 0, 20, 20))]  # fmt: skip
    assert [kept.similarity for kept in best_places(places, 3)] == [1.0, 0.8, 0.7]
    assert [kept.similarity for kept in best_places(places, 9)] == [1.0, 0.8, 0.7, 0.6]


def test_real_model_agrees_with_its_own_embeddings(tmp_path, tiny_model, tiny_processor):
    path = write_scene(tmp_path / "a.tif", green_field())
    found = localize(
        PIREncoder(tiny_model, tiny_processor), path, "a green square", tmp_path, chip_size=64, batch_size=2
    )
    col, row, width, height = found.places[0].window
    image = Image.fromarray(green_field()[:, row : row + height, col : col + width].transpose(1, 2, 0))
    image_embed = embed_images(tiny_model, tiny_processor, [image])
    text_embed = embed_texts(tiny_model, tiny_processor, ["a green square"])
    assert found.places[0].similarity == pytest.approx(float(image_embed @ text_embed.T), abs=1e-5)
    assert len(found.places) <= 5 and found.num_chips == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence": " "}, "The sentence is empty"),
        ({"num_places": 0}, "num_places is 0"),
        ({"overlap": 1}, "overlap is"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        localize(ColorEncoder(), "missing.tif", output_dir=tmp_path / "out", **({"sentence": "green"} | arguments))
    assert not (tmp_path / "out").exists()


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-pir\[geo\]'"):
        localize(ColorEncoder(), "missing.tif", "green", tmp_path)


@pytest.mark.slow
def test_water_is_found_in_a_real_scene_by_its_colour(tmp_path):
    root = os.environ.get("PIR_DATA_DIR")
    if root is None:
        pytest.skip("PIR_DATA_DIR is not set, so there are no real scenes")
    found = localize(ColorEncoder(), Path(root) / "geo_scenes" / "landsat_bahamas_RGB.byte.tif", "blue", tmp_path, 112)
    assert found.places[0].similarity > 0.7 and np.isnan(found.heat[0, 0]) and found.crs == "EPSG:32618"
