"""Drills on whole archives: hundreds of mutated files beside good ones, and photos that are large."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_pir.cli.options import SHIPPED_MODEL
from modeling_pir.index.pir_index import PIRIndex
from tests.geo.test_raster import METRES, noise, write_raster
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # of PIL, of mutated tags

FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}
NUM_GOOD_IMAGES, NUM_GOOD_SCENES, NUM_BAD_IMAGES, NUM_BAD_SCENES = 50, 13, 500, 100
PHOTOS, PHOTO_SIZE = 200, (5472, 3648)  # 20 megapixels each, as of a drone; the peak is that of 500
MAX_MEGABYTES = 2500
MEASURE = """
import sys
from modeling_pir.cli.main import main
code = main(["index", *sys.argv[1:], "--json"])
# Not ru_maxrss, which a process takes over from the one that started it.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) // 1024)
sys.exit(code)
"""


def good_images():
    """One small picture in each format, JPEG and WebP with EXIF of a camera that was held upright."""
    picture = Image.fromarray(noise(height=32, width=40).transpose(1, 2, 0))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x8769: {0x9003: "2019:09:04 10:00:00", 0xA002: 40}, 0x8825: {1: "N"}})
    for suffix, name in FORMATS.items():
        file = io.BytesIO()
        picture.save(file, name, **({"exif": exif} if name in ("JPEG", "WEBP") else {}))
        yield suffix, file.getvalue()


def mutated(content, random):
    """A file with some bytes changed, most of them near its beginning, or cut off."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 9)):
        limit = min(len(changed), 200) if random.random() < 0.7 else len(changed)
        changed[random.integers(limit)] = random.integers(256)
    return bytes(changed[: random.integers(len(changed))] if random.random() < 0.1 else changed)


@pytest.fixture
def archive(tmp_path):
    """63 good files and 600 mutated ones."""
    folder = tmp_path / "archive"
    folder.mkdir()
    random = np.random.default_rng(18)
    images = list(good_images())
    scene = write_raster(tmp_path / "scene.tif", noise(height=32, width=32), METRES, "EPSG:32633").read_bytes()
    for number in range(NUM_GOOD_IMAGES):
        suffix, content = images[number % len(images)]
        (folder / f"good{number}.{suffix}").write_bytes(content)
    for number in range(NUM_GOOD_SCENES):
        (folder / f"good_scene{number}.tif").write_bytes(scene)
    for number in range(NUM_BAD_IMAGES):
        suffix, content = images[number % len(images)]
        (folder / f"mutated{number}.{suffix}").write_bytes(mutated(content, random))
    for number in range(NUM_BAD_SCENES):
        (folder / f"mutated_scene{number}.tif").write_bytes(mutated(scene, random))
    return folder


@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_mutated_files_cost_no_good_one(archive, tmp_path, tiny_model, tiny_processor, engine):
    if engine == "lance":
        pytest.importorskip("lancedb")
    index = PIRIndex.create(tmp_path / "index", tiny_model, tiny_processor, engine=engine)
    report = index.add(archive)
    known = {path.rpartition("/")[2] for path in index.store.files()}
    good = {path.name for path in archive.iterdir() if path.name.startswith("good")}
    assert len(good) == 63 and good <= known
    failed = {path.rpartition("/")[2] for path, _ in report.errors}
    assert len(known | failed) == 663 and not known & failed
    assert failed and all("\n" not in sentence for _, sentence in report.errors)
    assert index.add(archive).added == 0 and len(index) == report.added


@pytest.mark.skipif(not SHIPPED_MODEL.is_dir(), reason="the shipped model is part of a checkout")
def test_memory_does_not_grow_with_size_and_number_of_photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rows, cols = np.mgrid[: PHOTO_SIZE[1], : PHOTO_SIZE[0]]
    values = np.stack([rows // 16, cols // 22, (rows + cols) // 40], axis=-1).astype(np.uint8)
    for number in range(4):
        Image.fromarray(values + np.uint8(number)).save(folder / f"{number}.jpg", quality=80)
    for number in range(4, PHOTOS):
        (folder / f"{number}.jpg").hardlink_to(folder / f"{number % 4}.jpg")
    paths = [str(folder), "--index", str(tmp_path / "index"), "--model", str(SHIPPED_MODEL)]
    run = subprocess.run([sys.executable, "-c", MEASURE, *paths], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *_, result, megabytes = run.stdout.split("\n")[:-1]
    print(f"{PHOTOS} photos of 20 megapixels: {megabytes} MB")
    assert json.loads(result)["added"] == PHOTOS and int(megabytes) < MAX_MEGABYTES
