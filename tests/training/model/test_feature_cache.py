"""A run over stored outputs of its frozen towers is the run over the towers themselves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from tests.support.tiny import build_tiny_config, model_fields
from training.config import TrainConfig, load_config
from training.model.feature_cache import FeatureProcessor, FeatureStore, with_features
from training.report.sweep_report import SweepRun, split_ranks
from training.train import train

KEPT_AS_IT_IS = {"crop_scale": 1.0, "rand_augment": False, "flips_and_turns": False}
FROZEN = KEPT_AS_IT_IS | {"freeze": ["vision_model", "text_model"]}


@pytest.fixture
def run(tiny_dataset, tiny_config, tmp_path, monkeypatch):
    """Train a tiny PIR with frozen towers for three epochs; its weights, losses and test result."""
    monkeypatch.setattr("training.report.run_report.draw_pictures", lambda *_: None)

    def make(name, **fields):
        settings = {
            "output_dir": str(tmp_path / name), "data": str(tiny_dataset), "model": model_fields(tiny_config),
            "vocab_size": 200, "captions_per_image": 2, "epochs": 3, "batch_size": 2, "learning_rate": 1e-3,
            "log_every": 1, "evaluation_batch_size": 4, **FROZEN,
        }  # fmt: skip
        folder = train(TrainConfig(**settings | fields))
        records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses = [record["loss"] for record in records if "loss" in record]
        test = json.loads((folder / "test.json").read_text())
        return load_file(folder / "best" / "model.safetensors"), losses, test

    return make


def count_runs(monkeypatch):
    """How many images and texts go through the towers from now on."""
    seen, run_tower = [], FeatureStore.run

    def count(store, **inputs):
        seen.append(len(next(iter(inputs.values()))))
        return run_tower(store, **inputs)

    monkeypatch.setattr(FeatureStore, "run", count)
    return seen


def test_losses_weights_and_metrics_are_those_without_it(run, tmp_path, monkeypatch):
    weights, losses, test = run("plain")
    for name in ("first", "second"):  # the second finds everything stored
        seen = count_runs(monkeypatch)
        cached_weights, cached_losses, cached_test = run(name, feature_cache=str(tmp_path / "features"))
        assert (sum(seen) > 2 * 12) if name == "first" else not seen  # twelve images by two towers, and captions
        assert cached_losses == pytest.approx(losses, abs=1e-6)
        assert cached_weights.keys() == weights.keys()
        for key, values in weights.items():
            torch.testing.assert_close(cached_weights[key], values, rtol=0, atol=1e-6)
        assert cached_test["mR"] == test["mR"]


def test_other_towers_do_not_read_what_these_stored(run, tmp_path, monkeypatch):
    run("first", feature_cache=str(tmp_path / "features"))
    seen = count_runs(monkeypatch)
    run("other", feature_cache=str(tmp_path / "features"), seed=7)  # random towers, so another seed is another tower
    assert sum(seen) > 2 * 12


@pytest.mark.parametrize(
    ("mean", "precision", "is_known"),
    [(0.4, "no", True), (0.5, "no", False), (0.4, "bf16", False)],
    ids=["the same", "other pixels", "another precision"],
)
def test_features_of_other_pixels_or_another_precision_are_computed_anew(
    tiny_config, tiny_tokenizer, tiny_images, tmp_path, monkeypatch, mean, precision, is_known
):
    def show(mean, precision):
        torch.manual_seed(0)
        processor = PIRProcessor(build_image_processor(32, [mean] * 3), tiny_tokenizer)
        return FeatureProcessor(PIRModel(tiny_config).eval(), processor, tmp_path, precision)(images=tiny_images)

    show(0.4, "no")
    seen = count_runs(monkeypatch)
    show(mean, precision)
    assert bool(seen) is not is_known


def test_a_sweep_reads_what_its_runs_have_stored(run, tmp_path, monkeypatch):
    run("plain")
    run("cached", feature_cache=str(tmp_path / "features"))
    seen = count_runs(monkeypatch)
    ranks = [split_ranks(SweepRun(name, load_config(tmp_path / name / "config.yaml"))) for name in ("plain", "cached")]
    assert seen == []
    for one, other in zip(*(vars(of_run).values() for of_run in ranks), strict=True):
        assert torch.equal(one, other)


def test_an_image_itself_still_goes_through_the_tower(tiny_config, tiny_processor, tmp_path):
    model = PIRModel(tiny_config).eval().requires_grad_(False)
    pixel_values = torch.rand(2, 3, 32, 32)
    expected = model.get_image_features(pixel_values).pooler_output
    with_features(model, tiny_processor, TrainConfig(feature_cache=str(tmp_path), **FROZEN), "no")
    torch.testing.assert_close(model.get_image_features(pixel_values).pooler_output, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": ["vision_model"]}, "freeze does not name vision_model and text_model"),
        ({"crop_scale": 0.5}, "crop_scale is 0.5: set it to 1.0"),
        ({"rand_augment": True}, "rand_augment is on"),
        ({"flips_and_turns": True}, "flips_and_turns is on"),
        ({"num_workers": 1}, "num_workers is not 0"),
        ({"instruction_epochs": 1}, "train the prior with training.pretrain_tower"),
        ({"lora_rank": 1}, "lora_rank is not 0"),
        ({"images_on_device": True, "captions_per_image": 1}, "images_on_device is on"),
        ({"streaming": True}, "streaming is on"),
    ],
)
def test_what_would_make_features_differ_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**FROZEN | {"feature_cache": "features"} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze_instruction_encoder": False}, "is not frozen .*is trained"),
        ({"freeze_instruction_batch_norm": False}, "is not frozen .*live"),
        ({"mask_padding": False}, "mask_padding=false"),
    ],
)
def test_a_model_whose_towers_are_not_the_same_at_every_call_is_refused(tiny_processor, fields, message):
    model = PIRModel(build_tiny_config(**fields))
    model.vision_model.requires_grad_(False)
    model.text_model.requires_grad_(False)
    model.train()
    with pytest.raises(ValueError, match=message):
        with_features(model, tiny_processor, TrainConfig(feature_cache="features", **FROZEN), "no")
