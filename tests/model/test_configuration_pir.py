"""PIRConfig: the paper's sizes, the file it is written to, and the sentences bad values get."""

import math

import pytest
from transformers import AutoConfig, CLIPVisionConfig, SwinConfig, TimmWrapperConfig, ViTConfig

from modeling_pir import PIRConfig
from modeling_pir.configuration_pir import num_patches
from tests.support.tiny import build_tiny_config


def test_the_defaults_are_the_papers_sizes():
    config = PIRConfig()
    towers = (config.vision_config, config.text_config, config.instruction_config)
    assert [tower.model_type for tower in towers] == ["swin", "bert", "resnet"]
    assert (config.vision_config.embed_dim, *config.vision_config.depths) == (96, 2, 2, 6, 2)
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (12, 768)
    assert list(config.instruction_config.depths) == [3, 4, 6, 3]
    assert (config.projection_dim, config.num_instruction_layers, config.num_cycles, config.filter_size) == (
        512,
        2,
        3,
        40,
    )
    assert config.logit_scale_init_value == math.log(1 / 0.07)


@pytest.mark.parametrize(
    ("vision_config", "patches"),
    [
        (SwinConfig(), 49),
        (ViTConfig(image_size=224, patch_size=16), 196),
        (CLIPVisionConfig(image_size=224, patch_size=32), 49),
        (SwinConfig(image_size=100, patch_size=4, depths=[2, 2]), 13 * 13),  # 25 cells a side, padded to 26
        (SwinConfig(image_size=[64, 32], patch_size=4, depths=[2, 2]), 8 * 4),
        (TimmWrapperConfig(), None),
    ],
    ids=["swin", "vit", "clip", "odd grid", "oblong", "timm"],
)
def test_patches_are_counted(vision_config, patches):
    assert num_patches(vision_config) == patches


def test_a_configuration_survives_its_file(tiny_config, tmp_path):
    tiny_config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, PIRConfig)
    where_from = {"transformers_version": None, "_name_or_path": None}
    assert loaded.to_dict() | where_from == tiny_config.to_dict() | where_from


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, r"num_attention_heads \(3\) does not divide projection_dim \(16\): choose"),
        ({"filter_size": 66}, r"filter_size is 66, but the vision tower gives 65 tokens .* between 1 and 65\."),
        ({"filter_size": 0}, "filter_size is 0, but it has to be at least 1"),
        ({"projection_dim": 0}, "projection_dim is 0, but it has to be at least 1"),
        ({"num_cycles": -1}, r"num_cycles is -1, but it has to be 0 \(off\) or more"),
        ({"affiliation_weight": -0.5}, "affiliation_weight is -0.5"),
        ({"dropout": 1.0}, "dropout is 1.0, but it is a probability"),
    ],
)
def test_a_bad_value_gets_one_sentence(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build_tiny_config(**fields)


@pytest.mark.parametrize("fields", [{"norm_style": "pre"}, {"num_cycles": "3"}, {"affiliation_targets": "class"}])
def test_a_value_of_the_wrong_type_is_refused_by_name(fields):
    with pytest.raises(Exception, match=f"'{next(iter(fields))}'"):
        build_tiny_config(**fields)


def test_all_tokens_may_be_kept():
    assert build_tiny_config(filter_size=65).filter_size == 65


@pytest.mark.parametrize("fields", [{"num_instruction_layers": 0}, {"use_instruction": False}])
def test_without_instruction_no_filter_is_checked(fields):
    assert not build_tiny_config(filter_size=1000, **fields).has_instruction
