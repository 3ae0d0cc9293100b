"""Scenes on the command line: as a query, to classify, at the model's own resolution, and what a name may not do."""

import json

import numpy as np
import pytest
from PIL import Image

rasterio = pytest.importorskip("rasterio")


@pytest.fixture
def model_folder(tmp_path, tiny_model, tiny_processor):
    """A folder that --model can name, whose model was trained at 4 m per pixel."""
    folder = tmp_path / "model"
    tiny_model.config.ground_resolution = 4.0
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def archive(tmp_path):
    """A 16-bit scene of four bands, 2 m per pixel, and a picture."""
    folder = tmp_path / "archive"
    folder.mkdir()
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 5.5e6)}
    shape = {"driver": "GTiff", "count": 4, "height": 64, "width": 96, "dtype": "uint16"}
    with rasterio.open(folder / "scene16.tif", "w", **shape, **place) as file:
        file.write(np.random.default_rng(0).integers(300, 2800, (4, 64, 96), dtype=np.uint16))
    Image.new("RGB", (40, 40), "green").save(folder / "field.png")
    return folder


def test_scene_is_a_query_and_is_classified(run, archive, model_folder, tmp_path):
    index = tmp_path / "index"
    assert run("index", archive, "--index", index, "--model", model_folder)[0] == 0
    code, out, _ = run("search", "--image", archive / "scene16.tif", "--index", index, "--json")
    best = json.loads(out)["hits"][0]
    assert code == 0 and best["path"].endswith("scene16.tif") and best["similarity"] > 0.5
    labels = ("--labels", "forest,harbor", "--model", model_folder)
    assert run("classify", archive / "scene16.tif", archive / "field.png", *labels)[0] == 0


def test_a_scene_that_names_no_colours_is_a_query_in_the_bands_of_its_index(run, tmp_path, model_folder):
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(4, 0, 5e5, 0, -4, 5.5e6)}
    scene, index = tmp_path / "scene.tif", tmp_path / "index"
    with rasterio.open(scene, "w", driver="GTiff", count=9, height=32, width=32, dtype="uint8", **place) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (9, 32, 32), dtype=np.uint8))
    bands = ("--bands", 4, 3, 2)
    options = ("--model", model_folder, "--chip-size", 32)
    assert run("index", scene, "--index", index, *options, *bands)[0] == 0
    question = ("search", "--image", scene, "--index", index, "--json")
    same, other = (json.loads(run(*question, *more)[1])["hits"][0]["similarity"] for more in ((), ("--bands", 7, 8, 9)))
    assert same > 0.999 > other
    labels = ("classify", scene, "--labels", "forest,harbor", "--model", model_folder)
    assert "bands" in run(*labels)[2] and run(*labels, *bands)[0] == 0


def test_index_says_the_resolution_of_the_model_and_cuts_finer_scenes_to_it(run, archive, model_folder, tmp_path):
    options = ("--model", model_folder, "--chip-size", 16, "--overlap", 0, "--json")
    code, out, messages = run("index", archive, "--index", tmp_path / "a", *options)
    assert code == 0 and json.loads(out)["added"] == 2 * 3 + 1  # windows of 32 x 32 pixels, 16 chips of 4 m
    assert "The model was trained at about 4 m per pixel" in messages
    _, out, messages = run("index", archive, "--index", tmp_path / "b", *options, "--ground-resolution", 0.01)
    assert json.loads(out)["added"] == 4 * 6 + 1 and "trained at" not in messages


def test_chips_are_left_out_from_the_share_of_nodata_that_is_asked_for(run, archive, model_folder, tmp_path):
    with rasterio.open(archive / "scene16.tif", "r+") as file:
        values = file.read()
        values[:, :, :20] = 0
        file.write(values)
        file.nodata = 0
    options = ("--model", model_folder, "--chip-size", 32, "--ground-resolution", 0.01, "--overlap", 0, "--json")
    for share, expected in ((0.5, 4 + 1), (0.7, 6 + 1)):  # 20 of the first 32 columns are empty
        index = tmp_path / f"index{share}"
        _, out, _ = run("index", archive, "--index", index, *options, "--max-nodata", share)
        assert json.loads(out)["added"] == expected


def test_reference_is_opened_only_if_asked_for(run, archive, model_folder, tmp_path):
    shutil = pytest.importorskip("rasterio.shutil")
    shutil.copy(archive / "scene16.tif", archive / "link.vrt", driver="VRT")
    options = ("--model", model_folder, "--chip-size", 64, "--json")
    code, out, _ = run("index", archive, "--index", tmp_path / "a", *options)
    ((path, sentence),) = json.loads(out)["errors"]
    assert code == 1 and path.endswith("link.vrt") and "made of other files (VRT)" in sentence
    code, out, _ = run("index", archive, "--index", tmp_path / "b", *options, "--allow-references")
    assert code == 0 and json.loads(out)["errors"] == []


def test_name_of_a_broken_file_does_not_steer_the_terminal(run, archive, model_folder, tmp_path):
    (archive / "a\x1b[2Jb.jpg").write_bytes(b"broken")
    code, out, messages = run("index", archive, "--index", tmp_path / "a", "--model", model_folder)
    assert code == 1 and r"a\x1b[2Jb.jpg" in out and "\x1b[2J" not in out + messages
    code, _, messages = run("search", "--image", archive / "a\x1b[2Jb.jpg", "--index", tmp_path / "a")
    assert code == 2 and r"a\x1b[2Jb.jpg" in messages and "\x1b[2J" not in messages
