"""TrainConfig: files, overrides and the sentences bad values get."""

import pytest

from tests.support.paths import ROOT
from training.config import TrainConfig, build_config, load_config, parse_assignments, save_config

CONFIGS = sorted((ROOT / "training" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert load_config(path).epochs > 0


def test_a_configuration_survives_its_file(tmp_path):
    config = TrainConfig(data="rsicd", adam_betas=(0.8, 0.9), model={"num_cycles": 1})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_a_dotted_override_reaches_into_the_model(tmp_path):
    (tmp_path / "run.yaml").write_text("model: {projection_dim: 32, text_config: {hidden_size: 8}}\n")
    overrides = parse_assignments(["model.text_config.hidden_size=16", "epochs=3"])
    config = load_config(tmp_path / "run.yaml", overrides)
    assert config.model == {"projection_dim": 32, "text_config": {"hidden_size": 16}}
    assert config.epochs == 3


def test_an_unknown_field_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rates: 0.1\n")
    with pytest.raises(ValueError, match="no configuration field 'learning_rates'; did you mean 'learning_rate'"):
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.num_cycle=2", "'model.num_cycle'; did you mean 'num_cycles'"),
        ("model.vision_config.depth=[2]", "'model.vision_config.depth'; did you mean 'depths'"),
        ("model.text_config.model_type=brt", "model.text_config.model_type is 'brt'"),
    ],
)
def test_an_unknown_field_of_the_model_is_answered_too(tmp_path, assignment, message):
    (tmp_path / "run.yaml").write_text("model: {vision_config: {model_type: swin}, text_config: {}}\n")
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "run.yaml", parse_assignments([assignment]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no configuration file .*absent.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": "3"}, "Field 'epochs' expected int, got str"),
        ({"learning_rate": "1e-4"}, "write 1.0e-4"),
        ({"schedule": "step"}, "'schedule' expected one of .*linear.*cosine.*got step"),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0"),
        ({"captions_per_image": -1}, "captions_per_image is -1"),
        ({"batch_size": True}, "'batch_size' expected int, got bool"),
        ({"backbones": {"vision": "a"}}, "give vision and text"),
    ],
)
def test_a_bad_value_gets_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        build_config(fields)


def test_an_assignment_needs_an_equals_sign():
    with pytest.raises(ValueError, match="field=value, but got 'epochs'"):
        parse_assignments(["epochs"])
