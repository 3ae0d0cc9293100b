"""The page: its functions without gradio, and, slow, the page itself in headless Chromium."""

import re
import shutil
import socket
import sqlite3
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from modeling_pir.demo.map import draw_map
from modeling_pir.demo.page import HIT_COLUMNS, MAX_HITS, build_page, explain_hit, find, hit_rows, launch
from modeling_pir.index.filters import filter_clause
from modeling_pir.index.hit_pictures import gallery_items, hit_image
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.classify import rank_sentences
from modeling_pir.inference.embed import embed_images, embed_texts
from modeling_pir.inference.encoder import PIREncoder

SVG = "{http://www.w3.org/2000/svg}"
CHROMIUM = shutil.which("chromium")


@dataclass
class FakeHit:
    """The fields of the index's Hit."""

    path: str
    similarity: float = 0.5
    id: str = "0"
    window: tuple | None = None
    bounds: tuple | None = None
    footprint: dict | None = None
    crs: str | None = None
    date: str | None = None
    sensor: str | None = None
    scene: str | None = None
    size: int = 0
    time: datetime | None = None


class FakeIndex:
    """Holds hits and remembers what was asked."""

    def __init__(self, hits):
        self.hits, self.asked = hits, None

    def __len__(self):
        return len(self.hits)

    def search(self, query, k=10, where=None):
        self.asked = (query, k, where)
        return [] if where and "nowhere" in where else self.hits[:k]


def rectangle(west, south, east, north):
    ring = [[west, north], [west, south], [east, south], [east, north], [west, north]]
    return {"type": "Polygon", "coordinates": [ring]}


def placed(bounds, path="a.png", **fields):
    return FakeHit(path, bounds=bounds, footprint=rectangle(*bounds), **fields)


@pytest.fixture
def hits(tmp_path, tiny_images):
    """Four pictures in a row on the ground, the last one without a place."""
    found = []
    for number, image in enumerate(tiny_images):
        path = tmp_path / f"picture_{number}.png"
        image.save(path)
        bounds = (10 + 0.02 * number, 50.0, 10.01 + 0.02 * number, 50.01)
        found.append(placed(bounds, str(path), similarity=0.9 - 0.1 * number, date=f"2019-09-0{number + 1}"))
    found[-1] = replace(found[-1], bounds=None, footprint=None, date=None)
    return found


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
        ({"date_from": "4 September"}, "'4 September' is no date: write it as 2019-09-04"),
        ({"date_to": "2019-02-30"}, "is no date"),
        ({"date_to": "2019-13"}, "is no date"),
        ({"box": "1, 2, 3"}, "'1, 2, 3' is no box: write west, south, east, north"),
        ({"box": "1, 2, x, 4"}, "is no box"),
        ({"box": "1, 5, 3, 4"}, "is not on the globe"),
        ({"box": "1, nan, 3, 4"}, "is not on the globe"),
    ],
)
def test_filter_that_cannot_be_read_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        filter_clause(**fields)


def test_search_hands_on_query_number_and_filter(hits):
    index = FakeIndex(hits)
    assert find(index, " an airport ", 2.0, "scene = 'airport'") == hits[:2]
    assert index.asked == ("an airport", 2, "scene = 'airport'")
    find(index, Image.new("L", (4, 4)), 1000)
    assert index.asked[0].mode == "RGB" and index.asked[1] == MAX_HITS


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
        found = find(index, "a field", 10, filter_clause("o'hare", box=box))
        assert {hit.path for hit in found} == set(expected), box
    assert [hit.path for hit in find(index, tiny_images[0], 10, filter_clause(date_to="2018"))] == ["b"]


@pytest.mark.parametrize("query", [None, "", "  "])
def test_empty_query_is_refused(query):
    with pytest.raises(ValueError, match="nothing to search for: write a sentence or choose an image"):
        find(FakeIndex([]), query)


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


def test_table_has_a_value_for_each_column(hits):
    rows = hit_rows([replace(hits[0], window=(0, 1, 2, 3), scene="airport"), hits[3]])
    assert rows[0] == [
        1,
        0.9,
        hits[0].path,
        "0 1 2 3",
        "2019-09-01",
        "",
        "airport",
        "10.000000, 50.000000, 10.010000, 50.010000",
    ]
    assert rows[1][3:] == [""] * 5 and {len(row) for row in rows} == {len(HIT_COLUMNS)}


def test_click_shows_what_the_model_keeps(hits, tiny_model, tiny_processor):
    overlay, text = explain_hit(PIREncoder(tiny_model, tiny_processor), hits[0])
    num_kept = int(re.search(r"keeps (\d+) of 64 patches", text)[1])
    assert overlay.size == (512, 427) and num_kept in (39, 40)  # 40 tokens, of which the pooled one may be one
    untouched = Image.open(hits[0].path).resize(overlay.size, Image.Resampling.BICUBIC)
    changed = (np.asarray(overlay) != np.asarray(untouched)).any(axis=2).mean()
    assert changed == pytest.approx(1 - num_kept / 64, abs=0.05)


def test_sentences_are_ranked_by_similarity(tiny_images, tiny_model, tiny_processor):
    lines = "a green square\n\n  two airport \nthe harbor\na green square\n"
    ranked = rank_sentences(PIREncoder(tiny_model, tiny_processor), tiny_images[0].convert("RGBA"), lines)
    texts = ["a green square", "two airport", "the harbor"]
    expected = (
        embed_texts(tiny_model, tiny_processor, texts) @ embed_images(tiny_model, tiny_processor, tiny_images[:1]).T
    )
    assert [rank for rank, *_ in ranked] == [1, 2, 3]
    assert [text for *_, text in ranked] == [texts[row] for row in expected[:, 0].argsort(descending=True)]
    assert [value for _, value, _ in ranked] == sorted((round(float(value), 4) for value in expected), reverse=True)


def test_ranking_without_an_image_or_a_sentence_is_refused(tiny_images):
    with pytest.raises(ValueError, match="There is no image"):
        rank_sentences(None, None, "a field")
    with pytest.raises(ValueError, match="There is no sentence"):
        rank_sentences(None, tiny_images[0], " \n ")


def read_map(hits):
    """Centre of each marker by rank, and the SVG."""
    text = draw_map(hits)
    svg = ElementTree.fromstring(text[: text.index("</svg>") + 6])
    groups = {group.find(f"{SVG}text").text: group.find(f"{SVG}circle") for group in svg.iter(f"{SVG}g")}
    return {int(rank): (float(circle.get("cx")), float(circle.get("cy"))) for rank, circle in groups.items()}, svg, text


def test_map_has_north_up_and_true_proportions():
    centers, *_ = read_map(
        [placed((-0.1, 59.9, 0.1, 60.1)), placed((0.9, 59.9, 1.1, 60.1)), placed((-0.1, 60.9, 0.1, 61.1))]
    )
    east, north = centers[2][0] - centers[1][0], centers[1][1] - centers[3][1]
    assert centers[1][1] == centers[2][1] and centers[1][0] == centers[3][0]
    assert 0 < east == pytest.approx(north / 2, rel=0.05)  # at 60 degrees


def test_map_keeps_hits_on_both_sides_of_the_antimeridian_together():
    split = {"type": "MultiPolygon", "coordinates": [
        rectangle(179.9, 0, 180, 0.2)["coordinates"], rectangle(-180, 0, -179.9, 0.2)["coordinates"],
    ]}  # fmt: skip
    crossing = FakeHit("x.png", bounds=(179.9, 0, -179.9, 0.2), footprint=split)
    centers, svg, _ = read_map([placed((179.5, 0, 179.7, 0.2)), crossing, placed((-179.7, 0, -179.5, 0.2))])
    assert centers[1][0] < centers[2][0] < centers[3][0]
    assert centers[2][0] - centers[1][0] == pytest.approx(centers[3][0] - centers[2][0], abs=0.2)
    assert "180° W" in "".join(svg.itertext()) or "180° E" in "".join(svg.itertext())
    for path in svg.iter(f"{SVG}path"):
        assert all(0 <= float(x) <= 480 for x in re.findall(r"[ML]([-\d.]+) ", path.get("d")))


@pytest.mark.parametrize("bounds", [[(10, 50, 10.0001, 50.0001)], [(-180, -80, -179, -79), (179, 79, 180, 80)]])
def test_map_of_a_point_and_of_the_world_has_a_grid_that_can_be_read(bounds):
    _, svg, _ = read_map([placed(box) for box in bounds])
    assert 4 <= len(list(svg.iter(f"{SVG}line"))) <= 60


def test_map_counts_hits_without_a_place(hits):
    assert draw_map(hits).endswith("<p>1 of 4 images have no place on the ground.</p>")
    assert draw_map(hits[3:]) == "<p>None of these images has a place on the ground.</p>"


def test_map_escapes_file_names():
    hostile = placed((0, 0, 1, 1), path='<script>alert("x")</script>.png')
    assert "<script>" not in draw_map([hostile])


def test_map_asks_for_nothing_from_elsewhere(hits):
    assert re.findall(r"https?://[^\"]+", draw_map(hits)) == ["http://www.w3.org/2000/svg"]


def test_missing_gradio_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-pir\[demo\]'"):
        launch(None)


@pytest.fixture
def served(hits, tiny_model, tiny_processor, monkeypatch):
    """Address of a running page, its index, and the names of other machines that the server looked up."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("gradio")
    looked_up, resolve = [], socket.getaddrinfo

    def guarded(host, *arguments, **options):
        looked_up.append(host.decode() if isinstance(host, bytes) else host)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    index = FakeIndex(hits)
    page = build_page(index)
    _, address, _ = page.launch(server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True)
    yield address, index, looked_up
    page.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_page_in_a_browser_searches_explains_filters_and_ranks_offline(served, tmp_path, hits):
    playwright = pytest.importorskip("playwright.sync_api")
    address, index, looked_up = served
    requested = []
    with playwright.sync_playwright() as engine:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=quiet)
        page = browser.new_page(viewport={"width": 1400, "height": 1150})
        page.set_default_timeout(120_000)  # milliseconds; a busy machine is slow to draw
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        page.get_by_label("Sentence", exact=True).fill("a green square")
        page.get_by_role("button", name="Search by sentence").click()
        page.get_by_text("4 images found.").wait_for()
        assert index.asked == ("a green square", 12, None)
        page.get_by_text("1 · 0.900 · 2019-09-01 · picture_0.png").wait_for()
        assert page.locator("svg[aria-label='map of the hits'] circle").count() == 3

        page.get_by_role("button", name="Thumbnail 2 of 4").click()
        page.get_by_text("of 64 patches; those it believes least").wait_for()
        assert "picture_1.png" in page.locator("p", has_text="the model keeps").inner_text()
        page.screenshot(path=tmp_path / "search.png")

        page.get_by_role("button", name="Filter").click()
        page.get_by_label("Scene", exact=True).fill("nowhere")
        page.get_by_role("button", name="Search by sentence").click()
        page.get_by_text("No image passes the filter.").wait_for()
        page.get_by_label("Box: west, south, east, north").fill("1, 2")
        page.get_by_role("button", name="Search by sentence").click()
        page.get_by_text("'1, 2' is no box: write west, south, east, north in degrees.").wait_for()
        page.screenshot(path=tmp_path / "refused.png")
        assert page.get_by_text("No image passes the filter.").is_visible()  # the page stays as it was
        for label in ("Scene", "Box: west, south, east, north"):
            page.get_by_label(label, exact=True).fill("")

        page.locator("input[type=file]").first.set_input_files(hits[2].path)
        page.locator("img[src*='picture_2']").first.wait_for()
        page.get_by_role("button", name="Search by image").click()
        page.get_by_text("4 images found.").wait_for()
        assert index.asked[0].size == (48, 40)

        page.get_by_role("tab", name="Rank sentences for an image").click()
        page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(
            hits[0].path
        )
        page.get_by_label("Sentences, one per line").fill("a green square\nthe harbor")
        page.locator("[role=tabpanel]:visible img").first.wait_for()
        page.get_by_role("button", name="Rank sentences", exact=True).click()
        page.get_by_role("gridcell", name="the harbor").first.wait_for()
        page.screenshot(path=tmp_path / "rank.png")
        browser.close()
    assert requested and all(url.startswith((address, "data:", "blob:")) for url in requested), requested
    assert set(looked_up) <= {"127.0.0.1", "localhost", None}, looked_up
