"""Polygons as an area of search, and patterns of paths."""

import json

import pytest

from modeling_pir.index.questions.area import Area, is_excluded

TRIANGLE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [0, 10], [0, 0]]]}


def box(west, south, east, north):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def touches(area, footprint):
    return area.touches(json.dumps(footprint))


def test_a_footprint_in_the_box_of_a_polygon_but_not_in_it_is_outside():
    area = Area(TRIANGLE)
    assert area.bounds == (0, 0, 10, 10)
    assert touches(area, box(1, 1, 2, 2)) and touches(area, box(-1, -1, 0, 0))
    assert not touches(area, box(8, 8, 9, 9)) and not area.touches(None)


@pytest.mark.parametrize("wrap", [
    lambda polygon: polygon,
    lambda polygon: {"type": "Feature", "properties": None, "geometry": polygon},
    lambda polygon: {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": polygon}]},
    lambda polygon: {"type": "MultiPolygon", "coordinates": [polygon["coordinates"]]},
])  # fmt: skip
def test_polygons_are_found_in_any_geojson_file(tmp_path, wrap):
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps(wrap(TRIANGLE)), encoding="utf-8-sig")
    assert touches(Area(file), box(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "holds a LineString, not a polygon"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "broken polygon"),
        ({"type": "Polygon", "coordinates": "here"}, "broken polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}, "Self-intersection"),
        ({"type": "Polygon", "coordinates": []}, "invalid polygon"),
        (box(500000, 100, 500100, 200), "not degrees"),
        ({"coordinates": []}, "thing without a type"),
        ([1, 2], "a JSON list"),
    ],
)
def test_what_is_no_polygon_is_refused_in_one_sentence(tmp_path, content, message):
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Area(file)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Area(tmp_path / "area.geojson")
    (tmp_path / "b.geojson").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not GeoJSON"):
        Area(tmp_path / "b.geojson")


def test_patterns_match_a_whole_path_its_end_or_its_name():
    path = "/data/2019/north/a[1].png"
    assert is_excluded(path, ["*/2019/*"]) and is_excluded(path, ["north/*.png"]) and is_excluded(path, ["a*"])
    assert not is_excluded(path, ["*.PNG", "2020/*", "orth/*"]) and not is_excluded(path, [])
