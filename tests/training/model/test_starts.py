"""Settings that another one would make void are refused, with both named."""

import pytest

from modeling_pir import PIRProcessor
from training.config import TrainConfig
from training.model.starts import check_parts, check_processor, check_starts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_from": "model", "backbones": {"vision": "a", "text": "b"}}, "backbones is .* init_from brings"),
        ({"init_from": "model", "init_vision": "tower"}, "init_vision is 'tower', but init_from brings"),
        ({"init_from": "model", "init_instruction": "tower"}, "init_instruction is 'tower', but init_from brings"),
        ({"init_from": "model", "tokenizer": "words"}, "tokenizer is 'words', but init_from brings"),
        ({"init_vision": "c", "backbones": {"vision": "a", "text": "b"}}, "backbones names a vision tower"),
        (
            {"init_instruction": "c", "backbones": {"vision": "a", "text": "b", "instruction": "d"}},
            "backbones names an instruction tower",
        ),
        ({"instruction_epochs": 3, "model": {"num_instruction_layers": 0}}, "instruction_epochs is 3, but the model"),
        ({"init_instruction": "c", "model": {"use_instruction": False}}, "init_instruction is 'c', but the model"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        check_starts(TrainConfig(**fields))


def test_fields_that_go_together_are_taken():
    check_starts(TrainConfig(init_from="model"))
    check_starts(TrainConfig(init_vision="a", init_instruction="b", instruction_epochs=2))
    check_starts(TrainConfig(backbones={"vision": "a", "text": "b"}, init_instruction="c"))


def test_the_processor_of_a_model_decides_sizes_and_cleaning(tiny_processor):
    check_processor(TrainConfig(init_from="m", caption_cleaning=False, image_size=32), tiny_processor)
    with pytest.raises(ValueError, match="image_size is 64, but the processor of 'm' makes images of 32"):
        check_processor(TrainConfig(init_from="m", caption_cleaning=False, image_size=64), tiny_processor)
    with pytest.raises(ValueError, match="set caption_cleaning to false"):
        check_processor(TrainConfig(init_from="m"), tiny_processor)
    cleaning = PIRProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, caption_cleaning=True)
    check_processor(TrainConfig(init_from="m"), cleaning)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_vision": "towers/none"}, "init_vision is 'towers/none', which is neither a folder here nor available"),
        ({"init_instruction": "none.pth"}, "init_instruction is 'none.pth', which is neither a folder here"),
        ({"init_from": "runs/none/best"}, "init_from is 'runs/none/best', which is neither a folder"),
        ({"tokenizer": "towers/words"}, "tokenizer is 'towers/words', which is neither a folder here"),
        (
            {"backbones": {"vision": ".", "text": "towers/text"}},
            "backbones.vision is .*, but that folder has no config",
        ),
    ],
)
def test_a_part_that_is_not_there_is_refused(fields, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        check_parts(TrainConfig(**fields))


def test_parts_that_are_there_are_taken(tmp_path):
    for name in ("config.json", "tokenizer_config.json", "prior.pth"):
        (tmp_path / name).write_text("{}")
    folder = str(tmp_path)
    check_parts(TrainConfig(init_vision=folder, init_instruction=str(tmp_path / "prior.pth"), tokenizer=folder))
    check_parts(TrainConfig(backbones={"vision": folder, "text": folder}))
