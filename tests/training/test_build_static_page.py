"""The search page without a server: in Chromium, from a disk, it ranks as the model does in Python."""

import os
import shutil
import time

import numpy as np
import pytest
import torch

from modeling_pir.cli.options import SHIPPED_MODEL
from modeling_pir.convert.export_encoders import export
from modeling_pir.hub.pretrained import load_pretrained
from modeling_pir.index.exchange.geoparquet import write_geoparquet
from modeling_pir.index.stores.columns import COLUMNS
from modeling_pir.inference.embed import embed_images, embed_texts
from training.build_static_page import build, main
from training.data.rows import decoded_images
from training.data.sources import load_image_captions

NUM_IMAGES = 10_000
SEARCH = """
const [sentence, done] = arguments;
const before = performance.now();
const paths = (hits) => hits.map((hit) => hit.row.path);
search(sentence).then((hits) => done([paths(hits), performance.now() - before]), (error) => done(String(error)));
"""


def write_collection(path, vectors):
    rows = [dict.fromkeys(COLUMNS) | {"path": f"{index}.png"} for index in range(len(vectors))]
    facts = {"dim": vectors.shape[1], "model_id": "org/pir", "revision": None, "weights": "0" * 64}
    write_geoparquet(path, [(rows, vectors)], facts)


def test_a_missing_part_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="^error: .*tokenizer.json is missing: export the model"):
        main(["--exported", str(tmp_path), "--images", "images.parquet", "--output", str(tmp_path / "page")])


def test_a_missing_npm_is_named(tmp_path, monkeypatch):
    (tmp_path / "onnx").mkdir()
    parts = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "images.parquet"]
    for name in [*parts, "onnx/text_model.onnx", "onnx/vision_model.onnx"]:
        (tmp_path / name).touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=r"npm is missing.*install Node\.js"):
        build(tmp_path, tmp_path / "images.parquet", tmp_path / "page", ["fp32"])
    assert not (tmp_path / "page").exists()


@pytest.fixture(scope="module")
def model_and_processor():
    return load_pretrained(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def rows():
    return load_image_captions("sample", "test")


@pytest.fixture(scope="module")
def vectors(model_and_processor, rows):
    """The sample's images, and as many more vectors near them as make 10,000."""
    own = embed_images(*model_and_processor, decoded_images(rows))
    generator = torch.Generator().manual_seed(0)
    near = own[torch.randint(len(own), (NUM_IMAGES - len(own),), generator=generator)]
    near = near + 0.02 * torch.randn(near.shape, generator=generator)
    return torch.cat([own, torch.nn.functional.normalize(near, dim=-1)]).numpy()


@pytest.fixture(scope="module")
def page(tmp_path_factory, vectors):
    folder = tmp_path_factory.mktemp("static")
    export(SHIPPED_MODEL, folder / "exported")
    write_collection(folder / "images.parquet", vectors)
    build(folder / "exported", folder / "images.parquet", folder / "page", ["quantized", "fp32"])
    return folder / "page"


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver") and shutil.which("npm")):
        pytest.skip("chromium, chromedriver or npm is missing")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def wait_for(browser, text):
    """Wait until the page's status has a text, at most a minute; the status."""
    for _ in range(300):
        status = browser.find_element("id", "status").text
        if text in status:
            return status
        time.sleep(0.2)
    raise AssertionError(f"the page says {status!r}")


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "least"), [("quantized", 0.95), ("fp32", 1.0)])
def test_the_page_ranks_as_python(browser, page, model_and_processor, rows, vectors, weights, least):
    browser.get(f"{page.as_uri()}/index.html?weights={weights}")
    assert wait_for(browser, "images") == "10,000 images"
    sentences = sorted({captions[0] for captions in rows["captions"]})[:50]
    assert len(sentences) == 50
    similarity = embed_texts(*model_and_processor, sentences).numpy() @ vectors.T
    expected = [{f"{index}.png" for index in order[:10]} for order in np.argsort(-similarity, axis=1, kind="stable")]
    found = [browser.execute_async_script(SEARCH, sentence) for sentence in sentences]
    overlap = np.mean([len(own & set(paths)) / 10 for own, (paths, _) in zip(expected, found, strict=True)])
    median = np.median([milliseconds for _, milliseconds in found])
    print(f"{weights}: top-10 overlap {overlap:.3f}, median {median:.0f} ms a query")  # shown with -s
    assert overlap >= least and median < 300


@pytest.mark.slow
def test_a_dropped_image_finds_itself_and_an_own_index_can_be_opened(browser, page, rows, tmp_path, vectors):
    browser.get(f"{page.as_uri()}/index.html")
    wait_for(browser, "images")
    next(decoded_images(rows)).save(tmp_path / "query.png")
    browser.find_element("id", "file").send_keys(os.fspath(tmp_path / "query.png"))
    wait_for(browser, "searched")
    best = browser.find_elements("css selector", "#hits li")[0].text
    assert best.startswith(("1.000", "0.999")) and best.endswith("0.png")
    write_collection(tmp_path / "own.parquet", vectors[:7])
    browser.find_element("id", "file").send_keys(os.fspath(tmp_path / "own.parquet"))
    assert wait_for(browser, "own.parquet") == "7 images of own.parquet"
    browser.find_element("id", "sentence").send_keys("...")
    browser.find_element("css selector", "#search button").click()
    assert wait_for(browser, "word") == "Write a sentence with at least one word."
