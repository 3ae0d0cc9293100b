"""What a run's configuration says reaches the optimiser, the schedule, the items, the tokenizer and the evaluation.

Seen from outside: from what torch, the model and the evaluation are handed in a run of `train`, not from our functions.
"""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from tests.support.tiny import build_tiny_config
from training import train as train_module
from training.data import rows
from training.data.loader import build_loader, load_splits
from training.data.rows import scene_names
from training.loop import grad_cache
from training.model import scene_classifier
from training.model.adapters import add_lora
from training.run.checkpoint import seed_step
from training.train import build_accelerator, build_model, train, validation_of

PLAIN_ITEMS = {"crop_scale": 1.0, "rand_augment": False, "flips_and_turns": False}
AUGMENTATIONS = [{"crop_scale": 0.3}, {"rand_augment": True}, {"flips_and_turns": True}]


class Enough(Exception):  # noqa: N818 - no error: the run ends where it was asked to
    """Ends a run that has shown what was asked for."""


@pytest.fixture
def run(tiny_run):
    """Configuration of a tiny run of 4 steps without augmentation."""
    return partial(tiny_run, **PLAIN_ITEMS)


@pytest.fixture
def spy(monkeypatch):
    """Record the calls of an attribute, which is still called."""

    def watch(owner, name):
        calls, original = [], getattr(owner, name)

        def spied(*arguments, **options):
            calls.append(SimpleNamespace(arguments=arguments, options=options))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, spied)
        return calls

    return watch


def batches_of(config, monkeypatch, num_batches):
    """What the model is shown in the first steps of a run, which ends there."""
    seen = []
    forward = PIRModel.forward

    def look(model, *arguments, **inputs):
        seen.append({name: value.clone() for name, value in inputs.items()})
        if len(seen) == num_batches:
            raise Enough
        return forward(model, *arguments, **inputs)

    monkeypatch.setattr(PIRModel, "forward", look)
    with pytest.raises(Enough):
        train(config)
    monkeypatch.setattr(PIRModel, "forward", forward)
    return seen


def records(config, key):
    lines = open(f"{config.output_dir}/metrics.jsonl").read().splitlines()
    return [json.loads(line)[key] for line in lines if key in json.loads(line)]


def test_adamw_gets_betas_rates_and_a_decay_for_matrices_alone(run, monkeypatch):
    seen, step = [], torch.optim.AdamW.step

    def look(optimizer, *arguments, **options):
        seen.extend(optimizer.param_groups if not seen else [])
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    train(run(epochs=1, adam_betas=(0.7, 0.8), weight_decay=0.3, learning_rate=2e-3))
    assert {(group["betas"], group["initial_lr"]) for group in seen} == {((0.7, 0.8), 2e-3)}
    for group in seen:
        assert group["weight_decay"] == 0 or all(weight.dim() > 1 for weight in group["params"])
        assert group["weight_decay"] in (0.0, 0.3)
    assert sum(len(group["params"]) for group in seen if group["weight_decay"]) > 50


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"module_learning_rates": {"text_model": 5e-3}}, {1e-3, 5e-3}),
        ({"layer_decay": 0.5}, {1e-3 / 2**depth for depth in range(6)}),  # Swin: blocks, their merging, the embedding
    ],
    ids=["module", "layer"],
)
def test_the_rates_of_modules_and_layers_reach_adamw(run, monkeypatch, fields, expected):
    rates, step = set(), torch.optim.AdamW.step

    def look(optimizer, *arguments, **options):
        rates.update(group["initial_lr"] for group in optimizer.param_groups)
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    train(run(epochs=1, **fields))
    assert sorted(rates) == pytest.approx(sorted(expected))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "linear", "warmup_ratio": 0.5}, [1.0, 1.0, 0.5, 0.0]),
        ({"schedule": "linear", "warmup_ratio": 0.0}, [0.75, 0.5, 0.25, 0.0]),
        ({"schedule": "cosine", "warmup_ratio": 0.0}, [(1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)]),
    ],
    ids=["warm-up", "linear", "cosine"],
)
def test_the_learning_rate_behind_each_update_is_the_schedules(run, fields, expected):
    config = run(**fields)
    train(config)
    assert records(config, "learning_rate") == pytest.approx([1e-3 * factor for factor in expected], abs=1e-9)


@pytest.mark.parametrize("chunk_size", [0, 1])
def test_gradients_are_clipped_to_the_norm_that_was_asked_for(run, monkeypatch, chunk_size):
    norms, step = [], torch.optim.AdamW.step

    def look(optimizer, *arguments, **options):
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    config = run(epochs=1, max_grad_norm=0.037, chunk_size=chunk_size)
    train(config)
    assert norms == pytest.approx([0.037] * 2, rel=1e-3) and min(records(config, "grad_norm")) > 0.1


def test_without_clipping_the_gradient_is_left_alone(run, spy):
    calls = spy(Accelerator, "clip_grad_norm_")
    train(run(epochs=1, max_grad_norm=0.0))
    assert not calls


def sorted_pixels(batches):
    rows = torch.cat([batch["pixel_values"] for batch in batches])
    return rows[rows.flatten(1).sum(dim=1).argsort()]


def test_each_augmentation_changes_what_the_model_is_shown(run, monkeypatch, tmp_path):
    shown = {}
    for number, fields in enumerate([{}, *AUGMENTATIONS]):
        config = run(output_dir=str(tmp_path / str(number)), **PLAIN_ITEMS | fields)
        shown[str(fields)] = sorted_pixels(batches_of(config, monkeypatch, 2))
    plain = shown.pop("{}")
    for fields, pixels in shown.items():
        assert not torch.allclose(pixels, plain, atol=0.05), fields


def test_without_augmentation_the_model_is_shown_the_resized_images(run, monkeypatch):
    config = run()
    shown = sorted_pixels(batches_of(config, monkeypatch, 2))
    images = [row["image"] for row in load_splits(config)["train"]]
    expected = build_image_processor(32)(images, return_tensors="pt")["pixel_values"]
    expected = expected[expected.flatten(1).sum(dim=1).argsort()]
    assert (shown - expected).abs().mean() < 0.02


def test_each_augmentation_changes_streamed_items(tiny_parquet_dataset, tiny_processor, run):
    shown = []
    for fields in ({}, *AUGMENTATIONS):
        settings = PLAIN_ITEMS | fields
        config = run(data=str(tiny_parquet_dataset), streaming=True, tokenizer="given", shuffle_buffer=1, **settings)
        splits = load_splits(config)
        loader = build_loader(
            config, splits["train"], scene_names(splits["validation"]), tiny_processor, build_accelerator(config)
        )
        shown.append(sorted_pixels(loader.epoch(0, 0)))
    plain, *augmented = shown
    assert not any(torch.allclose(pixels, plain, atol=0.05) for pixels in augmented)


def test_items_come_in_another_order_each_epoch_and_all_of_them(run, monkeypatch):
    config = run(captions_per_image=0, batch_size=4)
    batches = batches_of(config, monkeypatch, 10)
    texts = [tuple(ids.tolist()) for batch in batches for ids in batch["input_ids"][:, 1:9]]
    first, second = texts[:20], texts[20:]
    images = torch.cat([batch["pixel_values"] for batch in batches[:5]]).flatten(1).sum(dim=1).round(decimals=3)
    assert first != second and len(set(images.tolist())) == 4
    assert images.tolist() != sorted(images.tolist()) and images.tolist() != sorted(images.tolist(), reverse=True)
    assert len(set(images[:5].tolist())) > 1  # not image by image, as the rows are


def test_the_tokenizer_learns_from_training_captions_alone(run, tiny_dataset):
    for split, word in (("train", "zq"), ("validation", "жv"), ("test", "жt")):
        path = tiny_dataset / split / "metadata.jsonl"
        path.write_text(path.read_text().replace("square", word))
    config = run(epochs=1)
    train(config)
    pieces = PIRProcessor.from_pretrained(f"{config.output_dir}/last").tokenizer.get_vocab()
    assert "zq" in pieces and not any("ж" in piece for piece in pieces)


def test_dropout_is_drawn_by_seed_step_and_process(run, monkeypatch):
    drawn = {}
    for place in ((1, 5, 0), (1, 5, 1), (1, 6, 0), (2, 5, 0)):
        seed_step(*place)
        drawn[place] = torch.rand(4)
    assert len({tuple(values.tolist()) for values in drawn.values()}) == 4
    seeds = []
    monkeypatch.setattr(train_module, "seed_step", lambda *place: seeds.append(place))
    monkeypatch.setattr(Accelerator, "process_index", property(lambda _: 3))
    batches_of(run(seed=9), monkeypatch, 2)
    assert seeds == [(9, 0, 3), (9, 1, 3)]


def share_scenes_and_captions(folder):
    """Give two training images each a scene and captions, of half of validation's: neither says which image it is."""
    path = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        row | {name: rows[2 + place // 2][name] for name in ("scene", "captions")} for place, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("chunk_size", [0, 1])
def test_the_loss_is_told_images_scenes_and_captions_apart(run, tiny_dataset, monkeypatch, chunk_size):
    share_scenes_and_captions(tiny_dataset)
    module, seen = grad_cache if chunk_size else train_module, []
    joint_losses = module.joint_losses

    def look(model, image_embeds, text_embeds, image_ids, scene_labels, process_index, captions):
        seen.extend(zip(image_ids.tolist(), scene_labels.tolist(), captions.view(2, -1).tolist(), strict=True))
        return joint_losses(model, image_embeds, text_embeds, image_ids, scene_labels, process_index, captions)

    monkeypatch.setattr(module, "joint_losses", look)
    train(run(chunk_size=chunk_size, captions_per_image=5))
    assert {image for image, _, _ in seen} == {0, 1, 2, 3}
    assert {image: scene for image, scene, _ in seen} == {0: 0, 1: 0, 2: 1, 3: 1}
    captions = {image: frozenset(keys) for image, _, keys in seen}
    assert captions[0] == captions[1] != captions[2] == captions[3] and len(captions[0]) == 5


def test_the_step_takes_the_gradient_of_the_loss_of_its_batch_alone(run, monkeypatch):
    expected, found = [], []
    joint_losses, step = train_module.joint_losses, torch.optim.AdamW.step

    def look(model, *arguments):
        losses = joint_losses(model, *arguments)
        scale = torch.autograd.grad(losses.loss, model.logit_scale, retain_graph=True)[0]
        expected.append(scale.item())
        return losses

    def watch(optimizer, *arguments, **options):
        scales = [weight for group in optimizer.param_groups for weight in group["params"] if weight.dim() == 0]
        found.append([scale.grad.item() for scale in scales])
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(train_module, "joint_losses", look)
    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    train(run(max_grad_norm=0.0))
    assert len(expected) == len(found) == 4
    for one, scales in zip(expected, found, strict=True):
        assert min(abs(one - scale) for scale in scales) < 1e-6 < abs(one)


@pytest.mark.parametrize(("raw_temperatures", "times"), [(False, 4), (True, 0)])
def test_the_scales_are_brought_back_behind_each_step_but_in_official_mode(run, spy, raw_temperatures, times):
    calls = spy(PIRModel, "clamp_logit_scales")
    train(run(raw_temperatures=raw_temperatures))
    assert len(calls) == times


def test_of_equal_epochs_the_first_is_kept(run, monkeypatch):
    monkeypatch.setattr(train_module, "evaluate_split", lambda *_, **__: {"mR": 50.0})
    config = run(epochs=3)
    train(config)
    best = json.loads((train_module.Path(config.output_dir) / "test.json").read_text())  # of `without_report`
    assert best["epoch"] == 0


def test_a_resumed_run_remembers_which_epoch_was_the_best(run, monkeypatch):
    measured, told = iter([90.0, 10.0, 20.0]), iter(range(1, 99))
    monkeypatch.setattr(train_module, "evaluate_split", lambda *_, **__: {"mR": next(measured)})
    monkeypatch.setattr(train_module, "is_told_to_stop", lambda *_: next(told) == 3)  # in the second epoch
    config = run(epochs=3)
    with pytest.raises(train_module.Preempted):
        train(config)
    train(config, resume=True)
    assert json.loads((train_module.Path(config.output_dir) / "test.json").read_text())["mR"] == 90


def test_the_tokenizer_has_as_many_pieces_as_configured(run):
    config = run(vocab_size=90)
    _, processor = build_model(config, load_splits(config), "no")
    assert len(processor.tokenizer) == 90


def test_scenes_are_learnt_at_their_own_rate_on_images_drawn_anew_each_epoch(run, spy, monkeypatch):
    rates, shown, step = [], [], scene_classifier.scene_step
    calls = spy(scene_classifier, "train_on_scenes")

    def look(classifier, batch, optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["max_lr"])
        shown.append(batch["pixel_values"])
        return step(classifier, batch, optimizer, *arguments)

    monkeypatch.setattr(scene_classifier, "scene_step", look)
    config = run(epochs=1, instruction_epochs=2, instruction_learning_rate=3e-5, batch_size=4, rand_augment=True)
    train(config)
    assert rates == [3e-5, 3e-5]
    _, items, validation_items, *_ = calls[0].arguments
    assert items.augmentation is not None and validation_items.augmentation is None
    first, second = (sorted_pixels([{"pixel_values": pixels}]) for pixels in shown)
    assert not torch.allclose(first, second, atol=0.05)


def test_adapters_have_the_rank_that_was_asked_for(run):
    config = run(lora_rank=3)
    model, _ = build_model(config, load_splits(config), "no")
    assert {module.r["default"] for module in model.modules() if hasattr(module, "lora_A")} == {3}


def test_the_model_is_chosen_on_validation_as_often_as_was_asked_for(run, spy):
    calls = spy(train_module, "evaluate_split")
    config = run(epochs=5, evaluate_every=2, evaluation_batch_size=3)
    train(config)
    names = load_splits(config)["validation"]["filename"]
    assert [call.options["rows"]["filename"] for call in calls] == [names] * 3  # epochs 1, 3 and the last
    assert all(call.options["batch_size"] == 3 for call in calls)
    epochs = [json.loads(line)["epoch"] for line in open(f"{config.output_dir}/metrics.jsonl") if "mR" in line]
    assert epochs == [1, 3, 4]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_validation_computes_in_the_precision_of_the_run(run, monkeypatch, precision):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    AcceleratorState._reset_state(reset_partial_state=True)
    seen, embed = set(), PIRModel.get_text_features

    def look(model, *arguments, **inputs):
        seen.add(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return embed(model, *arguments, **inputs)

    monkeypatch.setattr(PIRModel, "get_text_features", look)
    config = run()
    accelerator = build_accelerator(config)
    model, processor = build_model(config, load_splits(config), accelerator.mixed_precision)
    validation_of(config, load_splits(config)["validation"], accelerator)(model, processor)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert seen == {torch.bfloat16 if precision == "bf16" else False}


@pytest.mark.parametrize(("cache_images", "times"), [(False, 1 + 3), (True, 1 + 1)])
def test_validation_images_are_decoded_once_where_images_are_kept(run, monkeypatch, cache_images, times):
    opened, open_image = [], rows.open_image
    monkeypatch.setattr(rows, "open_image", lambda source, name: opened.append(name) or open_image(source, name))
    config = run(epochs=3, cache_images=cache_images)
    train(config)
    names = load_splits(config)["validation"]["filename"]
    assert [opened.count(name) for name in names] == [times + 1] * len(names)  # the last to see their names


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"captions_per_image": 3}, lambda batch: len(batch["input_ids"]) == 6),
        ({"batch_size": 4}, lambda batch: len(batch["pixel_values"]) == 4),
        ({"image_size": 16}, lambda batch: batch["pixel_values"].shape[-2:] == (16, 16)),
    ],
    ids=["captions_per_image", "batch_size", "image_size"],
)
def test_a_batch_is_made_as_configured(run, monkeypatch, fields, check):
    assert check(batches_of(run(**fields), monkeypatch, 1)[0])


def test_another_seed_gives_other_weights_to_start_from(run, tmp_path):
    states = []
    for seed in (1, 2, 1):
        config = run(epochs=1, seed=seed, learning_rate=1e-9, output_dir=str(tmp_path / f"{len(states)}"))
        train(config)
        states.append(load_file(f"{config.output_dir}/last/model.safetensors"))
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    weights = [name for name in states[0] if name.endswith("projection.weight")]
    assert weights and all((states[0][name] - states[1][name]).abs().max() > 1e-2 for name in weights)


def test_another_seed_gives_another_order(run, monkeypatch, tmp_path):
    orders = []
    for seed in (1, 2, 1):
        config = run(captions_per_image=0, batch_size=4, seed=seed, output_dir=str(tmp_path / f"{len(orders)}"))
        orders.append([batch["input_ids"].tolist() for batch in batches_of(config, monkeypatch, 3)])
    assert orders[0] == orders[2] != orders[1]


def test_log_lines_come_as_often_as_was_asked_for(run):
    config = run(epochs=3, log_every=4)
    train(config)
    assert records(config, "loss") and len(records(config, "loss")) == 1


def test_adapters_are_scaled_by_two():
    model = PIRModel(build_tiny_config())
    add_lora(model, 4)
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert adapted and all(module.scaling["default"] == 2 and module.r["default"] == 4 for module in adapted)


def test_scenes_are_learnt_with_the_documented_smoothing(run, monkeypatch):
    tower = torch.nn.Flatten()
    scores = torch.eye(4) * 20  # sure and right

    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(scores.clone())

        def forward(self, pixel_values):
            return self.scores[pixel_values[:, 0, 0, 0].long()]

    monkeypatch.setattr(scene_classifier, "SceneClassifier", lambda *_: Sure())
    monkeypatch.setattr(scene_classifier, "tower_width", lambda _: 4)
    items = [{"pixels": index, "scene_label": index} for index in range(4)]

    class Items(list):
        labels = range(4)

        def set_epoch(self, epoch):
            pass

    def collate(rows):
        labels = torch.tensor([row["scene_label"] for row in rows])
        return {"pixel_values": labels.float()[:, None, None, None].expand(-1, 3, 1, 1), "scene_labels": labels}

    config = run(instruction_epochs=1, instruction_learning_rate=1e-6, batch_size=4)
    measured = scene_classifier.train_on_scenes(
        tower, Items(items), Items(items), collate, list("abcd"), config, Accelerator(cpu=True)
    )
    # smoothing s moves s * 3 / 4 of the weight to the three classes that are 20 below: s * 15
    assert measured["scene_loss"] == pytest.approx(0.1 * 15, abs=1e-3)
