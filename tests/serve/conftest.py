import json

import pytest

from modeling_pir.index.pir_index import PIRIndex

pytest.importorskip("fastapi_offline")

PLACES = [(10, 50, 11, 51), (10.5, 50.5, 11, 51), (179.5, -18, -179.5, -17), None]


@pytest.fixture
def folder(tmp_path, tiny_images):
    """Four images of four scenes, three of them with a place; one has a name that is HTML."""
    folder = tmp_path / "archive" / "inner"
    folder.mkdir(parents=True)
    names = ["0.png", "<img src=x onerror=alert(1)>.png", "2.png", "3.png"]
    for image, name in zip(tiny_images, names, strict=True):
        image.save(folder / name)
    return folder


@pytest.fixture
def index(folder, tmp_path, tiny_images, tiny_model, tiny_processor):
    """An index of them."""
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine="exact")
    paths = sorted(folder.iterdir())
    facts = []
    for number, (path, bounds) in enumerate(zip(paths, PLACES, strict=True)):
        fields = {
            "path": str(path),
            "scene": ["airport", "o'hare"][number % 2],
            "date": f"201{number}-05-0{number + 1}",
        }
        if bounds is not None:
            west, south, east, north = bounds
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            fields |= {"bounds": bounds, "footprint": {"type": "Polygon", "coordinates": [ring]}, "sensor": "NAIP"}
        facts.append(fields)
    index.add([(image, json.loads(json.dumps(fields))) for image, fields in zip(tiny_images, facts, strict=True)])
    return index
