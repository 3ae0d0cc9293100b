"""The page in headless Chromium: searched, opened, marked, filtered and saved, with nothing from elsewhere."""

import json
import shutil
import threading
import time

import pytest
from PIL import Image

from modeling_pir.serve.access import Access
from modeling_pir.serve.launch import take_port

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]


@pytest.fixture
def address(index):
    """Address of a running server that wants a token, the token with it."""
    import uvicorn

    from modeling_pir.serve.app import build_app
    from modeling_pir.serve.archive import Archive

    taken = take_port("127.0.0.1", 0)
    config = uvicorn.Config(build_app(Archive(index), Access("secret")), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def open_page(address):
    """Opens the page in a width and a colour scheme; afterwards nothing may have been asked of another machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    asked, faults = [], []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=QUIET)

        def open_it(width=1280, height=860, scheme="light", query=""):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(60_000)  # milliseconds; a busy machine is slow to draw
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(f"{address}?token=secret{query}")
            page.locator(".card").first.wait_for()
            return page

        yield open_it
        browser.close()
    assert not faults and all(url.startswith((address, "data:", "blob:")) for url in asked), (faults, asked)


def search(page, text):
    page.get_by_label("What you want to see").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".card .rank").first.wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_archive_is_there_before_the_first_question_and_a_search_is_kept_in_the_address(open_page, width, scheme):
    page = open_page(width, scheme=scheme)
    assert page.locator(".card").count() == 4 and page.locator("#examples .chip").count() > 0
    assert "token" not in page.url and "3 of 4 images have a place" in page.locator("#map-note").text_content()
    page.locator("#one-per-place").evaluate("box => box.checked")
    search(page, "a green square")
    assert "text=a+green+square" in page.url
    page.reload()
    page.locator(".card .rank").first.wait_for()
    assert page.get_by_label("What you want to see").input_value() == "a green square"
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, "nothing is cut off on the right"
    page.go_back()
    page.get_by_text("A sample of the archive").wait_for()


def test_image_opens_with_its_facts_and_what_the_model_looks_at(open_page):
    page = open_page(query="&text=a+green+square&group=none")
    page.locator(".card button").first.click()
    facts = page.locator("#detail-facts").inner_text()
    assert all(name in facts for name in ("Similarity", "Path", "Scene", "Date", "Part"))
    assert page.locator("#more-labels").is_hidden()  # the archive has none
    page.locator("#belief-toggle").click()
    page.get_by_text("bright ones count").wait_for()
    assert page.locator("#belief").is_visible()
    page.keyboard.press("ArrowRight")
    page.locator("#detail-title", has_text=".png").wait_for()
    page.get_by_text("Which sentence fits best?").click()
    page.get_by_label("Sentences, one per line").fill("a green square\nthe harbor")
    page.get_by_role("button", name="Rank sentences").click()
    page.locator("#ranked li", has_text="the harbor").wait_for()
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()


def test_any_other_model_shows_which_squares_matter_to_the_sentence(open_page, monkeypatch):
    monkeypatch.setattr("modeling_pir.serve.archive.Archive.has_belief", False)
    page = open_page()
    page.locator(".card button").first.click()
    assert not page.locator("#belief-toggle").is_visible()  # nothing was asked
    page.keyboard.press("Escape")
    search(page, "a green square")
    page.locator(".card button").first.click()
    page.locator("#belief-toggle").click()
    page.get_by_text("Each of 64 squares was covered in turn").wait_for()
    assert page.locator("#belief").is_visible()


def test_hits_are_marked_wrong_and_taken_as_the_question(open_page):
    page = open_page(query="&text=a+green+square&group=none")
    first = page.locator(".card").first.get_attribute("data-id")
    page.locator(".card button").first.click()
    page.get_by_role("button", name="Not like this").click()
    page.locator(".part.no").wait_for()
    page.locator(f".card[data-id='{first}']").wait_for(state="detached")
    assert f"unlike={first}" in page.url
    page.get_by_role("button", name="Remove: not like this").click()
    page.locator(f".card[data-id='{first}']").wait_for()
    page.locator(f".card[data-id='{first}'] button").click()
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url(lambda url: "like=" in url and "text=" not in url)
    page.get_by_text("The best 3 of").wait_for()


def test_filters_and_a_box_on_the_map_leave_what_they_name(open_page):
    page = open_page(query="&text=a+green+square&group=none")
    page.get_by_role("button", name="Filter").click()
    page.locator("#scenes .chip", has_text="o'hare").click()
    page.get_by_text("The best 2 of the 2 images that pass the filter").wait_for()
    page.get_by_role("button", name="Clear all filters").click()
    page.get_by_text("The best 4 of 4 images").wait_for()
    page.get_by_role("button", name="Draw a box on the map").click()
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 8, steps=4)
    page.mouse.up()
    page.locator(".part", has_text="inside the box").wait_for()
    assert "box=" in page.url


@pytest.mark.parametrize("name", ["geojson", "csv", "parquet"])
def test_results_are_saved(open_page, name):
    page = open_page(query="&text=a+green+square&group=none")
    page.locator(".card .rank").first.wait_for()
    page.get_by_text("Save results").click()
    with page.expect_download() as download:
        page.locator(f"#save [data-format={name}]").click()
    assert download.value.suggested_filename == f"hits.{name}"
    if name == "geojson":
        found = json.loads(open(download.value.path()).read())["features"]
        assert [item["properties"]["id"] for item in found] == [
            card.get_attribute("data-id") for card in page.locator(".card").all()
        ]


def test_image_of_ones_own_is_searched_with_and_a_bad_one_is_refused_in_a_sentence(open_page, tmp_path, tiny_images):
    page = open_page()
    (tmp_path / "text.jpg").write_text("a text that is called .jpg")
    page.locator("#file").set_input_files(tmp_path / "text.jpg")
    page.get_by_text("The picture is not a readable image").wait_for()
    assert page.locator(".card").count() == 4  # the page stays as it was
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    page.locator("#file").set_input_files(tmp_path / "large.png")
    page.get_by_text("make it smaller").wait_for()
    tiny_images[2].save(tmp_path / "good.png")
    page.locator("#file").set_input_files(tmp_path / "good.png")
    page.locator(".part", has_text="like your image").wait_for()
    page.locator(".card .rank").first.wait_for()


def test_names_of_files_are_text(open_page):
    page = open_page(query="&text=a&group=none")
    assert page.locator(".card button[title='<img src=x onerror=alert(1)>.png']").count() == 1
    page.locator(".card button[title*=onerror]").click()
    assert "onerror=alert(1)" in page.locator("#detail-title").inner_text()
    assert page.locator("img[src='x']").count() == 0


def test_empty_question_is_told_and_the_docs_work_offline(open_page, address):
    page = open_page()
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("Describe what you want to see, or choose an image.").wait_for()
    page.goto(f"{address}docs")
    page.get_by_text("/api/search").first.wait_for()
