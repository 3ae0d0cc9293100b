"""Scene, dates and box as SQL."""

import sqlite3

import pytest

from modeling_pir.index.filters import filter_clause
from modeling_pir.index.pir_index import PIRIndex

ROWS = {  # name: scene, date, minx, miny, maxx, maxy
    "home": ("airport", "2019-09-04", 10.0, 50.0, 11.0, 51.0),
    "year": ("airport", "2019", 10.0, 50.0, 11.0, 51.0),
    "next": ("o'hare", "2020-01-01", 20.0, 50.0, 21.0, 51.0),
    "fiji": ("island", "2018-12-31", 179.0, -18.0, -179.0, -17.0),  # across the antimeridian
    "asia": ("island", None, 178.0, -18.0, 178.5, -17.0),
    "nowhere": (None, None, None, None, None, None),
}


def kept(**fields):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE rows (name, scene, date, minx, miny, maxx, maxy)")
    database.executemany("INSERT INTO rows VALUES (?,?,?,?,?,?,?)", [(name, *row) for name, row in ROWS.items()])
    return {name for (name,) in database.execute(f"SELECT name FROM rows WHERE {filter_clause(**fields) or 'true'}")}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, set(ROWS)),
        ({"scene": " airport "}, {"home", "year"}),
        ({"scene": "o'hare"}, {"next"}),
        ({"scene": "x' OR 'a' = 'a"}, set()),
        ({"date_from": "2019"}, {"home", "year", "next"}),
        ({"date_from": "2019-09-05"}, {"next"}),
        ({"date_to": "2019"}, {"home", "year", "fiji"}),
        ({"date_to": "2019-09"}, {"home", "year", "fiji"}),
        ({"date_to": "2019-09-03"}, {"year", "fiji"}),
        ({"date_from": "2019-09-04", "date_to": "2019-09-04"}, {"home"}),
        ({"box": "10.5, 50.5, 10.6, 50.6"}, {"home", "year"}),
        ({"box": "0 0 9.9 90"}, set()),
        ({"box": "-180, -90, 180, 90"}, {"home", "year", "next", "fiji", "asia"}),
        ({"box": "179.5, -90, 180, 90"}, {"fiji"}),
        ({"box": "-180, -90, -179.5, 90"}, {"fiji"}),
        ({"box": "-178, -90, 100, 90"}, {"home", "year", "next"}),
        ({"box": "178.2, -90, -170, 90"}, {"fiji", "asia"}),
        ({"box": "178.8, -90, -170, 90"}, {"fiji"}),
        ({"box": "20, -90, -170, 90", "scene": "island"}, {"fiji", "asia"}),
        ({"box": "10, 50, 11, 51", "date_from": "2019-09-01"}, {"home"}),
    ],
)
def test_filter_keeps_the_rows_it_names(fields, expected):
    assert kept(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"date_from": "4 September"}, "'4 September' is not a date: write it as 2019-09-04"),
        ({"date_to": "2019-02-30"}, "is not a date"),
        ({"date_to": "2019-13"}, "is not a date"),
        ({"box": "1, 2, 3"}, "'1, 2, 3' is not a box: write west, south, east, north"),
        ({"box": "1, 2, x, 4"}, "is not a box"),
        ({"box": "1, 5, 3, 4"}, "is not on the globe"),
        ({"box": "1, nan, 3, 4"}, "is not on the globe"),
    ],
)
def test_filter_that_cannot_be_read_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        filter_clause(**fields)


@pytest.mark.parametrize("engine", ["exact", pytest.param("lance", marks=pytest.mark.slow)])
def test_filter_is_understood_by_the_index(tmp_path, tiny_images, tiny_model, tiny_processor, engine):
    if engine == "lance":
        pytest.importorskip("lancedb")
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
    places = [(9, 49, 11, 51), (179, -18, -179, -17), None, (178, -18, 178.5, -17)]
    dates = ["2019-09-04", "2018", None, "2020-01-01"]
    labels = zip("abcd", places, dates, strict=True)
    metadata = [{"path": name, "bounds": place, "date": day, "scene": "o'hare"} for name, place, day in labels]
    index.add(list(zip(tiny_images, metadata, strict=True)))
    where = {"": "abcd", "179.5, -90, 180, 90": "b", "178.2, -90, -170, 90": "bd", "-180, -90, 180, 90": "abd"}
    for box, expected in where.items():
        found = index.search("a field", 10, filter_clause("o'hare", box=box))
        assert {hit.path for hit in found} == set(expected), box
    assert [hit.path for hit in index.search(tiny_images[0], 10, filter_clause(date_to="2018"))] == ["b"]
