"""A tower learns scenes: what is saved starts a run, and what is in the retrieval test split is left out or stated."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_pir import PIRModel
from modeling_pir.convert.backbones import load_instruction_weights
from modeling_pir.modeling_pir import load_tower
from tests.support.tiny import model_fields
from training.config import TrainConfig
from training.data.sources import load_image_captions, load_scene_rows
from training.model.build import build_model_and_processor
from training.model.provenance import describe_facts, describe_prior
from training.model.scene_classifier import scene_confusion
from training.pretrain_tower import main, pretrain


@pytest.fixture
def recipe(tiny_dataset, tiny_config, tmp_path):
    model = model_fields(tiny_config)

    def make(**fields):
        settings = {"output_dir": str(tmp_path / "tower"), "data": str(tiny_dataset), "model": model, "batch_size": 2}
        return TrainConfig(**settings | {"instruction_epochs": 2, "rand_augment": False} | fields)

    return make


def add_copy_of_test_image(dataset):
    """Put a test image, turned, among the training images; returns its file name there."""
    name = json.loads((dataset / "test" / "metadata.jsonl").read_text().splitlines()[0])["file_name"]
    with Image.open(dataset / "test" / name) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(dataset / "train" / "copy.png")
    row = {"file_name": "copy.png", "captions": ["a square ."], "scene": "airport"}
    with (dataset / "train" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return "copy.png"


@pytest.mark.parametrize("tower", ["instruction", "vision"])
def test_a_saved_tower_holds_the_trained_weights_and_says_on_what_it_was_trained(recipe, tower):
    config = recipe()
    facts = pretrain(config, tower, None, None, allow_overlap=False)
    folder = f"{config.output_dir}/"
    assert json.loads(open(folder + "instruction.json").read()) == facts
    assert facts["train_images"] == 4 and sum(map(sum, facts["confusion"])) == facts["validation_images"] == 4
    diagonal = sum(facts["confusion"][i][i] for i in range(4))
    assert facts["scene_accuracy"] == 25 * diagonal
    assert Image.open(folder + "confusion.png").size[0] > 300
    assert describe_facts(facts) in open(folder + "report.md").read()


def test_init_instruction_and_backbones_read_what_is_saved(recipe, tiny_config):
    config = recipe()
    pretrain(config, "instruction", None, None, allow_overlap=False)
    saved = load_file(f"{config.output_dir}/model.safetensors")
    model = PIRModel(tiny_config)
    load_instruction_weights(model, config.output_dir)
    loaded = model.instruction_model.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)
    run = recipe(init_instruction=config.output_dir, instruction_epochs=0)
    words = describe_prior(run, model, None)
    assert "loaded from tower" in words and "4 scenes of tiny_dataset" in words


def test_init_vision_starts_the_vision_tower_from_what_is_saved(recipe, tiny_dataset):
    config = recipe()
    pretrain(config, "vision", None, None, allow_overlap=False)
    run = recipe(init_vision=config.output_dir, vocab_size=200)
    model, _ = build_model_and_processor(run, load_image_captions(str(tiny_dataset), "train"))
    saved, loaded = load_tower(config.output_dir, "vision").state_dict(), model.vision_model.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)
    random_model, _ = build_model_and_processor(recipe(vocab_size=200), load_image_captions(str(tiny_dataset), "train"))
    assert not torch.equal(next(random_model.vision_model.parameters()), next(model.vision_model.parameters()))


def test_training_images_of_the_test_split_are_left_out_and_named(recipe, tiny_dataset, caplog):
    name = add_copy_of_test_image(tiny_dataset)
    facts = pretrain(recipe(), "instruction", None, None, allow_overlap=False)
    assert facts["overlap"] == [name] and facts["train_images"] == 4
    assert name in caplog.text and "left out" in describe_facts(facts)


def test_allow_overlap_trains_on_them_and_the_report_says_leak(recipe, tiny_dataset):
    name = add_copy_of_test_image(tiny_dataset)
    facts = pretrain(recipe(), "instruction", None, None, allow_overlap=True)
    assert facts["overlap"] == [name] and facts["train_images"] == 5
    assert "LEAK" in describe_facts(facts)


def test_scene_folders_without_captions_are_a_scene_data_set(recipe, tiny_dataset, tmp_path):
    for number in range(30):
        folder = tmp_path / "aid" / ("Airport", "Forest")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 255, (8, 8, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{number}.png")
    config = recipe(data=str(tmp_path / "aid"))
    rows = load_scene_rows(config)
    assert len(rows["train"]) + len(rows["validation"]) == 30 and len(rows["validation"]) < 8
    facts = pretrain(config, "instruction", str(tiny_dataset), None, allow_overlap=False)
    assert facts["scenes"] == ["Airport", "Forest"] and facts["overlap"] == []


def test_confusion_counts_true_scenes_by_row_and_passes_unknown_ones_over():
    class Fixed(torch.nn.Linear):
        def forward(self, pixels):
            return pixels

    batch = {"pixel_values": torch.eye(3)[[0, 1, 1, 2]], "scene_labels": torch.tensor([0, 2, 2, -1])}
    assert scene_confusion(Fixed(1, 1), [batch], 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 2, 0]]


def test_bad_input_stops_before_any_work_with_one_sentence(recipe, tiny_dataset, tmp_path, capsys):
    with pytest.raises(ValueError, match="instruction_epochs is 0"):
        pretrain(recipe(instruction_epochs=0), "instruction", None, None, allow_overlap=False)
    shutil.copytree(tiny_dataset, tmp_path / "full")
    with pytest.raises(ValueError, match="exists already"):
        pretrain(recipe(output_dir=str(tmp_path / "full")), "instruction", None, None, allow_overlap=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in folders of their scenes"):
        load_scene_rows(recipe(data=str(tmp_path / "empty")))
    with pytest.raises(SystemExit, match="no configuration file"):
        main(["--config", "none.yaml", "--output-dir", str(tmp_path / "new")])
    assert not (tmp_path / "tower").exists() and not (tmp_path / "new").exists()
