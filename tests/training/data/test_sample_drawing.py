"""The drawn sample: true captions, boxes on the things, the same for the same seed, splits apart."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import Image

from training.data.augment import names_direction
from training.data.sample import draw as sample
from training.data.sample.canvas import PAINT
from training.data.sample.draw import SCENES, draw_scene, load_sample
from training.data.sample.layouts import NUMBERS, ROOFS

COLOURS = "|".join(PAINT)


def drawings(scene, count=12):
    return [draw_scene(np.random.default_rng([5, i]), scene) for i in range(count)]


def middle_colour(drawing, box):
    """The name in PAINT nearest to the median pixel of a ring around the box's middle."""
    left, top, right, bottom = (edge * drawing.image.width for edge in box)
    x, y, dx, dy = (left + right) / 2, (top + bottom) / 2, (right - left) * 0.3, (bottom - top) * 0.3
    pixels = np.asarray(drawing.image.crop((round(x - dx), round(y - dy), round(x + dx), round(y + dy))))
    median = np.median(pixels.reshape(-1, 3), axis=0)
    return min(PAINT, key=lambda name: np.abs(np.array(PAINT[name]) - median).sum())


@pytest.fixture(scope="module")
def validation():
    return load_sample("validation")


def test_sample_holds_its_pixels_and_names_no_file(validation):
    (image, *_) = validation.cast_column("image", ImageFeature(decode=False))["image"]
    assert image["path"] is None and image["bytes"].startswith(b"\x89PNG")


@pytest.mark.parametrize("scene", SCENES)
def test_same_seed_gives_same_pixels_and_captions_and_another_seed_others(scene):
    first, again, other = (draw_scene(np.random.default_rng(seed), scene) for seed in (3, 3, 4))
    assert first.image.tobytes() == again.image.tobytes() and first.captions == again.captions
    assert first.boxes == again.boxes
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("scene", SCENES)
def test_five_different_captions_of_6_to_20_words(scene):
    for drawing in drawings(scene):
        assert len(drawing.captions) == 5 == len(set(drawing.captions))
        assert all(6 <= len(caption.split()) <= 20 for caption in drawing.captions), drawing.captions
        assert all(caption[0].isupper() and caption.endswith(".") for caption in drawing.captions)
        assert not any("{" in caption for caption in drawing.captions)


@pytest.mark.parametrize("scene", SCENES)
def test_counts_in_captions_are_the_numbers_of_boxes(scene):
    num_checked = 0
    for drawing in drawings(scene):
        nouns = "|".join(set(drawing.names))
        pattern = rf"\b({'|'.join(NUMBERS[1:])}) (?:(?:{COLOURS}) )?({nouns})(s?)\b"
        for number, noun, plural in re.findall(pattern, " ".join(drawing.captions).lower()):
            assert NUMBERS.index(number) == drawing.names.count(noun), drawing.captions
            assert bool(plural) == (number != "one")
            num_checked += 1
    assert num_checked or scene in ("dense_residential", "stadium", "parking_lot")  # these count no boxed things


def test_rows_and_fullness_of_the_parking_lot_are_as_drawn():
    for drawing in drawings("parking_lot"):
        cars = [box for box, name in zip(drawing.boxes, drawing.names, strict=True) if name == "car"]
        middles = np.array([((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in cars])
        num_rows = min(len(set(np.round(middles[:, axis] / 0.02))) for axis in (0, 1))
        text = " ".join(drawing.captions)
        assert re.search(rf"\b{NUMBERS[num_rows]} rows?\b", text, re.IGNORECASE), text
        assert len(cars) == num_rows * (5 if "half empty" in text else 11)


@pytest.mark.parametrize(
    ("scene", "sentence", "name"),
    [
        ("airport", 1, "terminal"),
        ("storage_tanks", 0, "tank"),
        ("storage_tanks", 2, "building"),
        ("baseball_field", 0, "baseball field"),
        ("baseball_field", 3, "building"),
        ("tennis_courts", 0, "tennis court"),
        ("dense_residential", 3, "school"),
        ("farmland", 0, "round field"),
        ("farmland", 2, "barn"),
        ("forest", 0, "pond"),
        ("forest", 2, "cabin"),
        ("harbor", 1, "warehouse"),
        ("parking_lot", 1, "building"),
        ("beach", 4, "boat"),
    ],
)
def test_places_in_captions_are_where_the_boxes_are(scene, sentence, name):
    seen = set()
    for drawing in drawings(scene):
        boxes = np.array([box for box, named in zip(drawing.boxes, drawing.names, strict=True) if named == name])
        x, y = (boxes[:, 0] + boxes[:, 2]).mean() / 2, (boxes[:, 1] + boxes[:, 3]).mean() / 2
        true = {
            "left": x < 0.4,
            "right": x > 0.6,
            "upper": y < 0.4,
            "top": y < 0.4,
            "lower": y > 0.6,
            "bottom": y > 0.6,
        }
        true["middle"] = 0.3 < x < 0.7 and 0.3 < y < 0.7
        words = set(re.findall(r"\w+", drawing.captions[sentence])) & set(true)
        assert words and all(true[word] for word in words), (drawing.captions[sentence], x, y)
        assert names_direction([drawing.captions[sentence]]) or words == {"middle"}
        seen |= words
    assert len(seen) >= 4


def test_sides_without_a_road_are_grass_at_the_roundabout():
    for drawing in drawings("roundabout"):
        pixels = np.asarray(drawing.image).astype(int)
        edges = {
            "left": pixels[66:79, :6],
            "right": pixels[66:79, -6:],
            "top": pixels[:6, 66:79],
            "bottom": pixels[-6:, 66:79],
        }
        roads = {side for side, edge in edges.items() if np.ptp(np.median(edge.reshape(-1, 3), axis=0)) < 20}
        without = re.search(r"all sides but the (\w+)", drawing.captions[2])
        assert set(edges) - roads == ({without[1]} if without else set())


@pytest.mark.parametrize(
    ("scene", "name"),
    [("storage_tanks", "tank"), ("beach", "umbrella"), ("stadium", "building"), ("dense_residential", "house")],
)
def test_colours_in_captions_are_the_colours_of_the_pixels(scene, name):
    for drawing in drawings(scene):
        pattern = (
            rf"({COLOURS}) {name}s?\b" if name in ("tank", "umbrella") else rf"{name}s? with (?:an? )?({COLOURS}) roof"
        )
        said = set(re.findall(pattern, " ".join(drawing.captions).lower()))
        drawn = Counter(
            middle_colour(drawing, box)
            for box, named in zip(drawing.boxes, drawing.names, strict=True)
            if named == name
        )
        assert not said or said == {drawn.most_common(1)[0][0]}, (drawing.captions, drawn)


def test_colours_with_different_names_are_far_apart():
    paints = np.array(list(PAINT.values()))
    distances = np.abs(paints[:, None] - paints[None]).sum(axis=2)
    assert distances[~np.eye(len(paints), dtype=bool)].min() > 75
    assert set(ROOFS) <= set(PAINT)


@pytest.mark.parametrize("scene", SCENES)
def test_boxes_lie_within_the_image_and_leave_some_of_it_to_the_surroundings(scene):
    shares = []
    for drawing in drawings(scene):
        assert drawing.image.mode == "RGB" and drawing.image.size == (144, 144)
        assert len(drawing.boxes) == len(drawing.names) > 0
        covered = np.zeros((144, 144), dtype=bool)
        for left, top, right, bottom in drawing.boxes:
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
            covered[round(top * 144) : round(bottom * 144), round(left * 144) : round(right * 144)] = True
        grid = covered.reshape(4, 36, 4, 36).any(axis=(1, 3))
        assert not grid.all(), "no cell of a 4 x 4 grid is background"
        shares.append(covered.mean())
    assert 0.08 < np.mean(shares) < 0.4


def test_rows_have_the_stated_columns_and_balanced_scenes(validation):
    assert list(validation.features) == ["filename", "image", "captions", "scene", "boxes"]
    assert Counter(validation["scene"]) == {scene: 10 for scene in SCENES}
    row = validation[1]
    assert row["filename"] == f"{SCENES[1]}_701.png" and row["scene"] == SCENES[1]
    drawing = draw_scene(np.random.default_rng([0, 1, 1]), SCENES[1])
    assert np.array_equal(np.asarray(row["image"]), np.asarray(drawing.image))
    assert row["captions"] == drawing.captions and row["boxes"] == [list(box) for box in drawing.boxes]


def test_captions_hardly_repeat_within_a_split(validation):
    captions = [caption for row in validation["captions"] for caption in row]
    assert len(captions) == 700
    assert len(set(captions)) > 0.9 * len(captions)


def test_splits_and_seeds_share_no_image(validation, monkeypatch):
    for split in sample.NUM_IMAGES:
        monkeypatch.setitem(sample.NUM_IMAGES, split, 42)
    splits = [validation, load_sample("test"), load_sample("train"), load_sample("validation", seed=1)]
    pixels = [row["image"].tobytes() for rows in splits for row in rows]
    assert len(set(pixels)) == len(pixels) == 140 + 3 * 42


def test_unknown_scene_and_split_are_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no scene 'volcano' to draw: choose one of airport, .*tennis_courts\.$"):
        draw_scene(np.random.default_rng(0), "volcano")
    with pytest.raises(ValueError, match=r"no split 'dev': choose one of train, validation, test\.$"):
        load_sample("dev")


def test_command_writes_image_folders_with_metadata(tmp_path, monkeypatch):
    for split in sample.NUM_IMAGES:
        monkeypatch.setitem(sample.NUM_IMAGES, split, 14)
    sample.main([str(tmp_path)])
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tmp_path / split / "metadata.jsonl").read_text().splitlines()]
        assert [set(row) for row in rows] == [{"file_name", "captions", "scene"}] * 14
        assert {path.name for path in (tmp_path / split).glob("*.png")} == {row["file_name"] for row in rows}
        assert Image.open(tmp_path / split / rows[0]["file_name"]).size == (144, 144)
