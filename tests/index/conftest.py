"""Fixtures of the index's tests: a folder of four images, and an empty index of either kind."""

import pytest

from modeling_pir.index.pir_index import PIRIndex


@pytest.fixture
def archive(tmp_path, tiny_images):
    """A folder of four images, whose names are airport.png, forest.png, harbor.png, parking.png."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for name, image in zip(("airport", "forest", "harbor", "parking"), tiny_images, strict=True):
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture(params=["exact", "lance"])
def index(request, tmp_path, tiny_model, tiny_processor):
    """An empty index of either kind."""
    return PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=request.param)
