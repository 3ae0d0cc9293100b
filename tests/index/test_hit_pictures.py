"""Hits as pictures."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from modeling_pir.index.hit_pictures import gallery_items, hit_image, write_sheet


@dataclass
class FakeHit:
    """The fields of a hit that pictures need."""

    path: str
    similarity: float = 0.5
    window: tuple | None = None
    bands: tuple | None = None
    date: str | None = None


@pytest.fixture
def hits(tmp_path, tiny_images):
    """Four pictures."""
    found = []
    for number, image in enumerate(tiny_images):
        path = tmp_path / f"picture_{number}.png"
        image.save(path)
        found.append(FakeHit(str(path), similarity=0.9 - 0.1 * number, date=f"2019-09-0{number + 1}"))
    return found


def test_gallery_shows_rank_similarity_and_file(hits):
    items = gallery_items(hits)
    assert [text for _, text in items][:2] == [
        "1 · 0.900 · 2019-09-01 · picture_0.png",
        "2 · 0.800 · 2019-09-02 · picture_1.png",
    ]
    assert np.array_equal(np.asarray(items[0][0]), np.asarray(Image.open(hits[0].path)))


def test_file_that_is_gone_becomes_a_tile_and_spares_the_others(hits):
    hits[1] = replace(hits[1], path="/gone/picture.png")
    items = gallery_items(hits)
    assert len(items) == 4 and items[1][0].size == (256, 256) and items[2][0].size == (48, 40)


def test_picture_of_a_scene_is_the_window_of_the_hit(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(1, 255, (3, 40, 60)).astype(np.uint8)
    options = {"driver": "GTiff", "count": 3, "height": 40, "width": 60, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "s.tif", "w", transform=rasterio.Affine(0.1, 0, 9, 0, -0.1, 9), **options) as dataset:
        dataset.write(values)
    image = hit_image(FakeHit(str(tmp_path / "s.tif"), window=(10, 5, 20, 20)))
    assert np.array_equal(np.asarray(image), values[:, 5:25, 10:30].transpose(1, 2, 0))


def test_sheet_that_cannot_be_written_whole_leaves_the_one_that_is_there(hits, tmp_path, monkeypatch):
    def full_disk(image, path):
        path.write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    write_sheet(tmp_path / "sheet.png", hits)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_sheet(tmp_path / "sheet.png", hits[:1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
