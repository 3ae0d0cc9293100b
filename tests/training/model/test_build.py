"""Model and processor of a run: what a pretrained tower brings with it."""

import pytest
from transformers import TimmWrapperConfig, TimmWrapperModel
from transformers.image_utils import OPENAI_CLIP_MEAN

from modeling_pir import PIRModel
from training.config import TrainConfig
from training.model.build import build_model_and_processor

RESNET = {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}}


@pytest.fixture
def make_run(tmp_path, tiny_model, tiny_tokenizer):
    """A function that writes a timm tower with some facts, a text tower, and gives the run that starts from them."""

    def make(**facts):
        TimmWrapperModel(TimmWrapperConfig(**RESNET, **facts)).save_pretrained(tmp_path / "vision")
        tiny_model.text_model.save_pretrained(tmp_path / "text")
        tiny_tokenizer.save_pretrained(tmp_path / "text")
        towers = {"vision": str(tmp_path / "vision"), "text": str(tmp_path / "text")}
        model = {"num_instruction_layers": 0, "projection_dim": 16, "num_attention_heads": 2}
        return TrainConfig(backbones=towers, tokenizer=towers["text"], model=model, image_size=64)

    return make


def test_the_processor_normalises_as_the_timm_tower_wants(make_run, tmp_path):
    config = make_run(pretrained_cfg={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]})
    model, processor = build_model_and_processor(config, None)
    assert list(processor.image_processor.image_mean) == [0.5, 0.4, 0.3]
    assert list(processor.image_processor.image_std) == [0.2, 0.2, 0.1]
    assert processor.image_processor.size["height"] == 64
    model.save_pretrained(tmp_path / "pir")  # what the tower says of its images is kept with it
    assert PIRModel.from_pretrained(tmp_path / "pir").config.vision_config.pretrained_cfg["std"] == [0.2, 0.2, 0.1]


@pytest.mark.parametrize("facts", [{}, {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}])
def test_a_timm_tower_that_does_not_say_how_images_were_normalised_is_refused(make_run, facts):
    with pytest.raises(ValueError, match="vision' does not say how its images were normalised: add `mean` and `std`"):
        build_model_and_processor(make_run(**facts), None)


def test_other_towers_keep_the_official_normalisation(make_run, tmp_path, tiny_model):
    config = make_run()
    tiny_model.vision_model.save_pretrained(tmp_path / "swin")
    config.backbones["vision"] = str(tmp_path / "swin")
    _, processor = build_model_and_processor(config, None)
    assert list(processor.image_processor.image_mean) == list(OPENAI_CLIP_MEAN)


def test_fields_of_the_model_beside_a_start_change_it(tiny_model, tiny_processor, tmp_path):
    for part in (tiny_model, tiny_processor):
        part.save_pretrained(tmp_path)
    fields = {"init_from": str(tmp_path), "caption_cleaning": False, "model": {"affiliation_weight": 0.25}}
    model, _ = build_model_and_processor(TrainConfig(**fields), None)
    assert model.config.affiliation_weight == 0.25 != tiny_model.config.affiliation_weight
