"""Official archives become the parquet that everything reads."""

import json

import pytest
from PIL import Image

from training.data.prepare import prepare
from training.data.sources import load_image_captions


@pytest.fixture
def archive(tmp_path):
    images = []
    for split, name in (
        ("train", "airport_1.jpg"),
        ("train", "00006.jpg"),
        ("val", "bridge_2.jpg"),
        ("test", "00001.jpg"),
    ):
        Image.new("RGB", (24, 24), "green").save(tmp_path / name)
        images.append({"filename": name, "split": split, "sentences": [{"raw": f"{name} {n} ."} for n in range(5)]})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    return tmp_path


def test_the_parquet_has_splits_captions_scenes_and_the_files_themselves(archive):
    counts = prepare("rsicd", archive / "dataset.json", archive, archive / "out", any_counts=True)
    assert counts == {"train": 2, "validation": 1, "test": 1}
    train = load_image_captions(str(archive / "out"), "train")
    assert train["filename"] == ["airport_1.jpg", "00006.jpg"]
    assert train["scene"] == ["airport", "bridge"]
    assert train[0]["captions"] == [f"airport_1.jpg {n} ." for n in range(5)]
    assert train[0]["image"].size == (24, 24)


def test_an_incomplete_archive_is_noticed(archive):
    with pytest.raises(ValueError, match=r"should have .*8734.* but the annotations have .*2"):
        prepare("rsicd", archive / "dataset.json", archive, archive / "out")
    assert not (archive / "out").exists()


def test_a_missing_image_is_named(archive):
    (archive / "bridge_2.jpg").unlink()
    with pytest.raises(ValueError, match="bridge_2.jpg"):
        prepare("rsicd", archive / "dataset.json", archive, archive / "out", any_counts=True)


def test_another_file_is_not_taken_for_the_annotations(archive):
    (archive / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match="not the archive's annotation file"):
        prepare("rsicd", archive / "other.json", archive, archive / "out")


def test_it_may_run_in_the_folder_of_the_images(archive, monkeypatch):
    monkeypatch.chdir(archive)
    prepare("rsicd", archive / "dataset.json", archive, archive / "out", any_counts=True)
    for image in archive.glob("*.jpg"):
        image.unlink()
    assert load_image_captions(str(archive / "out"), "train")[0]["image"].size == (24, 24)


@pytest.mark.parametrize("name", ["../private.jpg", "/etc/private.jpg"])
def test_a_file_outside_of_the_images_is_not_packed(archive, name):
    annotations = json.loads((archive / "dataset.json").read_text())
    annotations["images"][0]["filename"] = name
    (archive / "images").mkdir()
    Image.new("RGB", (24, 24)).save(archive / "private.jpg")
    (archive / "dataset.json").write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match="private.jpg', which is not below"):
        prepare("rsicd", archive / "dataset.json", archive / "images", archive / "out", any_counts=True)
