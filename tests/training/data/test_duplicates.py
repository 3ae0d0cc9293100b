"""The leak check finds copies that were turned, scaled or compressed, and nothing else."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw, ImageEnhance

from training import leakcheck
from training.data.duplicates import ORIENTATIONS, detail_correlation, find_pairs, fingerprints
from training.leakcheck import check_leaks, shared_captions

FEATURES = Features(
    {"filename": Value("string"), "image": ImageFeature(), "captions": List(Value("string")), "scene": Value("string")}
)


def picture(seed, size=224):
    """A drawn overhead scene with coarse and fine structure and no symmetry."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 200, (7, 7, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(coarse)
    for x, y, width, height, *color in rng.integers(0, 256, (60, 7)):
        left, top = int(x) * size // 256, int(y) * size // 256
        draw.rectangle([left, top, left + int(width) // 9, top + int(height) // 9], fill=tuple(map(int, color)))
    return coarse


def beach(seed):
    """Sand beside water with fine noise: any two are alike in the coarse."""
    noise = np.random.default_rng(seed).normal(0, 12, (224, 224, 1))
    ground = np.where(np.arange(224)[None, :, None] < 90 + 4 * seed, [60, 110, 120], [220, 210, 180])
    return Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))


def compressed(image, quality=40):
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality)
    return Image.open(buffer).convert("RGB")


def split(images, captions=None):
    columns = {
        "filename": list(images),
        "image": list(images.values()),
        "captions": captions or [["a caption"]] * len(images),
        "scene": [None] * len(images),
    }
    return Dataset.from_dict(columns, features=FEATURES)


def pairs_of(train, test):
    return find_pairs(
        fingerprints({"a/train": split(train)}, ["as it is"]), fingerprints({"b/test": split(test)}, list(ORIENTATIONS))
    )


CHANGES = {
    "saved again": lambda image: image.copy(),
    "compressed": compressed,
    "half the size": lambda image: compressed(image.resize((112, 112)), 60),
    "brighter": lambda image: ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(1.2)).enhance(0.8),
    "a little shifted": lambda image: image.crop((6, 4, 224, 222)),
} | {
    name: (lambda image, turn=turn: compressed(image.transpose(turn), 70))
    for name, turn in ORIENTATIONS.items()
    if turn
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change):
    train = {f"{seed}.png": picture(seed) for seed in range(4)}
    (pair,) = pairs_of(train, {"copy.png": CHANGES[change](picture(2))})
    assert (pair.train, pair.test) == ("a/train/2.png", "b/test/copy.png")
    assert pair.is_same
    assert pair.identical == (change == "saved again")
    if change in ("turned 180", "mirrored", "upside down", "transposed", "transversed"):
        assert pair.orientation == change


def test_other_pictures_are_not_found():
    train, test = ({f"{seed}.png": picture(seed) for seed in seeds} for seeds in (range(5), range(5, 10)))
    assert pairs_of(train, test) == []


def test_two_beaches_are_not_one():
    first, second = (np.asarray(beach(seed).convert("L").resize((64, 64))) for seed in (0, 1))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.9
    assert pairs_of({"a.png": beach(0)}, {"b.png": beach(1)}) == []
    assert detail_correlation(first, first) == pytest.approx(1)


def test_flat_images_are_no_pair_unless_they_are_identical():
    flat = Image.new("RGB", (64, 64), "gray")
    assert pairs_of({"a.png": flat}, {"b.png": Image.new("RGB", (64, 64), "black")}) == []
    assert pairs_of({"a.png": flat}, {"b.png": flat})[0].identical


def test_shared_captions_are_counted():
    train = {"a/train": split({"1.png": picture(1), "2.png": picture(2)}, [["many trees", "a port"], ["many trees"]])}
    test = {
        "b/test": split(
            {"3.png": picture(3), "4.png": picture(4)}, [["many trees", "many trees"], ["a ship", "a port"]]
        )
    }
    shared = shared_captions(train, test)
    assert {name: shared[name] for name in ("captions", "shared", "distinct", "images")} == {
        "captions": 4, "shared": 3, "distinct": 2, "images": 1,
    }  # fmt: skip
    assert shared["most_common"][0] == {"caption": "many trees", "train": 2, "test": 2}


def test_the_removal_list_names_training_images_only(tmp_path):
    train = {"a/train": split({"1.png": picture(1), "2.png": picture(2), "sub/3.png": picture(3)})}
    test = {"b/test": split({"x.png": compressed(picture(3)), "y.png": picture(9), "z.png": compressed(picture(9))})}
    result = check_leaks(train, test, tmp_path)
    assert (tmp_path / "removal.txt").read_text() == "sub/3.png\n"
    assert [(pair["train"], pair["test"]) for pair in result["pairs_within_test"]] == [("b/test/y.png", "b/test/z.png")]
    assert json.loads((tmp_path / "leaks.json").read_text()) == result
    report = (tmp_path / "report.md").read_text()
    assert "Pairs of a training and a test image taken for one picture: 1, of which 0 pixel by pixel" in report
    assert "a/train/sub/3.png" in report and Image.open(tmp_path / "pairs.png").width > 500


def test_nothing_found_is_said_and_nothing_drawn(tmp_path):
    check_leaks({"a/train": split({"1.png": picture(1)})}, {"b/test": split({"2.png": picture(2)})}, tmp_path)
    assert (tmp_path / "removal.txt").read_text() == ""
    assert not (tmp_path / "pairs.png").exists()


def test_the_command_compares_splits_of_one_folder(tiny_dataset, tmp_path, capsys):
    out = tmp_path / "leaks"
    leakcheck.main(["--train", str(tiny_dataset), "--test", str(tiny_dataset), "--output-dir", str(out)])
    assert f"see {out / 'report.md'}" in capsys.readouterr().out
    assert json.loads((out / "leaks.json").read_text())["train"] == {"tiny_dataset/train": 4}
    with pytest.raises(SystemExit, match="'tiny_dataset/test' is on both sides"):
        leakcheck.main(["--train", str(tiny_dataset), "--test", str(tiny_dataset), "--train-splits", "train", "test"])


@pytest.mark.slow
def test_the_two_equal_airplanes_of_ucm_are_found(tmp_path):
    import os

    folder = f"{os.environ['PIR_DATA_DIR']}/ucm"
    leakcheck.main(["--train", folder, "--test", folder, "--train-splits", "test", "--test-splits", "train",
                    "--output-dir", str(tmp_path)])  # fmt: skip
    within = json.loads((tmp_path / "leaks.json").read_text())["pairs_within_test"]
    assert any(
        {"ucm/train/airplane01.jpg", "ucm/train/airplane02.jpg"} == {pair["train"], pair["test"]} for pair in within
    )
