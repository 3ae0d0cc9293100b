"""Sources of captioned images become checked rows; rows become items; items become batches."""

import json
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from training.data import rows as rows_module
from training.data.catalog import NAMES, known_dataset
from training.data.items import TrainCollator, TrainItems
from training.data.rows import check_images, fingerprint, scene_names
from training.data.sources import load_image_captions

COLUMNS = ["filename", "image", "captions", "scene"]


def write_folder(root, rows, name="metadata.jsonl"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, row in enumerate(rows):
        if row["file_name"].endswith(".png"):
            Image.new("RGB", (20, 16), (number, 0, 0)).save(root / row["file_name"])
    return root


def numbered_rows(count):
    return [{"file_name": f"{index}.png", "captions": [f"scene {index}"]} for index in range(count)]


def same_rows(left, right):
    return left["filename"] == right["filename"] and left["captions"] == right["captions"]


def test_folder_parquet_and_csv_give_the_same_rows(tiny_dataset, tiny_parquet_dataset, tmp_path):
    folder = load_image_captions(str(tiny_dataset), "train")
    parquet = load_image_captions(str(tiny_parquet_dataset), "train")
    lines = ["path,caption,scene,split"]
    for row in folder:
        lines += [f'train/{row["filename"]},"{caption}",{row["scene"]},train' for caption in row["captions"]]
    (tiny_dataset / "captions.csv").write_text("\n".join(lines))
    table = load_image_captions(str(tiny_dataset / "captions.csv"), "train")
    assert folder.column_names == parquet.column_names == table.column_names == COLUMNS
    assert folder["captions"] == parquet["captions"] == table["captions"]
    assert folder["scene"] == table["scene"] == ["airport", "forest", "harbor", "parking"]
    for row, other in zip(folder, parquet, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(other["image"]))


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev"])
def test_the_names_of_the_validation_split_are_one_split(tiny_dataset, name):
    rows = load_image_captions(str(tiny_dataset), name)
    assert same_rows(rows, load_image_captions(str(tiny_dataset), "validation"))


def test_a_folder_without_splits_is_split_by_file_name_and_says_so(tmp_path, caplog):
    rows = numbered_rows(60)
    folder = write_folder(tmp_path / "own", rows)
    with caplog.at_level(logging.WARNING):
        parts = {split: set(load_image_captions(str(folder), split)["filename"]) for split in ("train", "val", "test")}
    assert "knows no splits" in caplog.text
    assert set.union(*parts.values()) == {row["file_name"] for row in rows}
    assert sum(map(len, parts.values())) == 60 and len(parts["train"]) > 35
    more = write_folder(tmp_path / "more", numbered_rows(80))
    assert parts["test"] <= set(load_image_captions(str(more), "test")["filename"])


def test_a_published_split_and_its_scenes_are_assigned_by_file_name(tmp_path):
    facts = known_dataset("rsicd")
    names = [f"{facts.test[0]}.png", f"{facts.validation[0]}.png", "00001.png", "airport_9999.png"]
    folder = write_folder(tmp_path / "rsicd", [{"file_name": name, "captions": ["a place"]} for name in names])
    test = load_image_captions(str(folder), "test", split_list="rsicd")
    train = load_image_captions(str(folder), "train", split_list="rsicd")
    assert test["filename"] == names[:1]
    assert train["filename"] == names[2:]
    assert train["scene"] == ["playfields", "airport"]


@pytest.mark.parametrize("name", NAMES)
def test_published_lists_have_the_published_counts(name):
    facts = known_dataset(name)
    assert len(set(facts.test)) == facts.counts["test"] == facts.official_counts["test"]
    assert len(set(facts.validation)) == facts.counts["validation"]
    assert not set(facts.test) & set(facts.validation)
    assert sum(facts.counts.values()) == sum(facts.official_counts.values())
    assert len(facts.scenes) == {"rsicd": 31, "rsitmd": 33, "ucm": 21}[name]
    assert {facts.scene_of(stem) for stem in facts.test} <= {*facts.scenes}


def test_all_numbered_images_of_rsicd_have_a_scene():
    facts = known_dataset("rsicd")
    assert sum(map(len, facts.numbered_scenes.values())) == 921
    assert facts.scene_of("00006.jpg") == "bridge"
    assert facts.scene_of("99999.jpg") is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file_name": "a.png", "captions": []}], "'a.png' has no caption"),
        ([{"file_name": "a.png", "captions": ["a field", "  "]}], r"'a.png' has an empty caption \('  '\)"),
        ([{"file_name": "a.png", "captions": [""]}], "'a.png' has an empty caption"),
        ([{"file_name": "a.png", "captions": [" ."]}], "No caption of the image 'a.png' has a word"),
        ([{"file_name": "a.jpg", "captions": ["a field"]}], "a.jpg', which does not exist"),
        ([{"file_name": "a.png", "words": "a field"}], "it needs file_name .* and captions"),
    ],
)
def test_a_bad_line_is_named_before_work_starts(tmp_path, rows, message):
    rows = [row | {"split": "train"} for row in rows]
    folder = write_folder(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=message):
        load_image_captions(str(folder), "train")


def test_a_caption_without_a_word_is_left_out_where_others_remain(tmp_path, caplog):
    folder = write_folder(tmp_path / "data", [{"file_name": "a.png", "captions": [" .", "a field"], "split": "train"}])
    with caplog.at_level(logging.WARNING):
        assert load_image_captions(str(folder), "train")["captions"] == [["a field"]]
    assert "a.png" in caplog.text


def test_a_missing_split_lists_those_that_exist(tiny_dataset):
    with pytest.raises(ValueError, match="no split 'night' .* it has test, train, validation"):
        load_image_captions(str(tiny_dataset), "night")


def test_a_folder_without_images_and_one_without_captions_are_told_apart(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        load_image_captions(str(tmp_path / "empty"), "train")
    Image.new("RGB", (4, 4)).save(tmp_path / "empty" / "a.png")
    with pytest.raises(ValueError, match="images but no captions"):
        load_image_captions(str(tmp_path / "empty"), "train")


def test_a_source_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no data at"):
        load_image_captions(str(tmp_path / "absent.csv"), "train")
    with pytest.raises(ValueError, match="RSITMD is not on the Hub"):
        load_image_captions("rsitmd", "train")


def test_a_broken_image_is_named_or_left_out_on_request(tiny_dataset, caplog):
    broken = tiny_dataset / "train" / "forest_2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"forest_2.png cannot be read .* --skip-bad-images"):
        load_image_captions(str(tiny_dataset), "train")
    with caplog.at_level(logging.WARNING):
        rows = load_image_captions(str(tiny_dataset), "train", skip_bad_images=True)
    assert len(rows) == 3 and "1 unreadable images" in caplog.text and "forest_2.png" in caplog.text


def test_the_fingerprint_changes_with_a_caption(tiny_dataset):
    rows = load_image_captions(str(tiny_dataset), "train")
    changed = Dataset.from_dict({"filename": rows["filename"], "captions": [["other"], *rows["captions"][1:]]})
    assert fingerprint(rows) == fingerprint(rows) != fingerprint(changed)


def items_of(folder, captions_per_image=2, **options):
    rows = load_image_captions(str(folder), "train")
    return TrainItems(rows, scene_names(rows), captions_per_image, image_size=32, **options)


def test_an_item_depends_on_seed_epoch_and_index_alone(tiny_dataset):
    items = items_of(tiny_dataset)
    first = [items[index] for index in range(4)]
    torch.manual_seed(123)
    again = [items[index] for index in reversed(range(4))][::-1]
    cached = items_of(tiny_dataset, cache_images=True)
    for left, right, kept in zip(first, again, (cached[index] for index in range(4)), strict=True):
        assert torch.equal(left["pixels"], right["pixels"]) and left["captions"] == right["captions"]
        assert torch.equal(left["pixels"], kept["pixels"])
    items.set_epoch(1)
    assert any(not torch.equal(items[index]["pixels"], first[index]["pixels"]) for index in range(4))


def test_drawing_an_item_leaves_the_global_randomness_alone(tiny_dataset):
    items = items_of(tiny_dataset)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    items[0]
    assert torch.equal(torch.rand(1), expected)


def test_one_item_a_caption_or_one_an_image(tiny_dataset):
    by_caption = items_of(tiny_dataset, captions_per_image=0)
    assert len(by_caption) == 20
    assert [by_caption[index]["image_id"] for index in (0, 4, 5)] == [0, 0, 1]
    by_image = items_of(tiny_dataset, captions_per_image=3)
    assert len(by_image) == 4
    assert len(set(by_image[2]["captions"])) == 3
    assert len(items_of(tiny_dataset, captions_per_image=7)[0]["captions"]) == 7


def test_a_batch_keeps_captions_beside_their_image(tiny_dataset, tiny_processor):
    items = items_of(tiny_dataset)
    drawn = [items[index] for index in (2, 0)]
    batch = TrainCollator(tiny_processor, return_loss=True)(drawn)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["input_ids"].shape[0] == 4
    assert batch["image_ids"].tolist() == [2, 0] and batch["scene_labels"].tolist() == [2, 0]
    assert batch["return_loss"] is True
    texts = tiny_processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert "harbor" in texts[0] + texts[1] and "airport" in texts[2] + texts[3]


def test_items_that_lost_their_captions_to_the_trainer_of_transformers_say_what_to_set(tiny_processor):
    item = {"image_id": 0, "scene_label": -1}
    with pytest.raises(ValueError, match=r"remove_unused_columns=False"):
        TrainCollator(tiny_processor, return_loss=True)([item])


def test_an_unknown_scene_gets_the_label_minus_one(tiny_dataset):
    rows = load_image_captions(str(tiny_dataset), "train")
    items = TrainItems(rows, ["forest"], 1, image_size=32)
    assert items.labels == [-1, 0, -1, -1]


def test_processes_decode_a_part_each_and_learn_of_the_others_bad_images(tiny_dataset, monkeypatch):
    sound = load_image_captions(str(tiny_dataset), "train")
    broken = sound.to_list()
    for place in (1, 2):
        broken[place]["image"] = {"bytes": b"no image", "path": None}
    broken = Dataset.from_list(broken, features=sound.features)
    told, decoded = [], []
    open_image = rows_module.open_image
    monkeypatch.setattr(
        rows_module, "open_image", lambda source, name: decoded.append(name) or open_image(source, name)
    )
    monkeypatch.setattr(rows_module, "gather_object", lambda found: told.extend(found) or [*told])
    check_images(sound, "train", True, 0, 2)
    names = list(sound["filename"])
    assert sorted(decoded) == sorted(names[0::2])
    told.clear()
    with pytest.raises(ValueError, match="1 such images"):  # the first process alone has told of its own
        check_images(broken, "train", False, 0, 2)
    assert list(check_images(broken, "train", True, 1, 2)["filename"]) == [names[0], names[3]]
