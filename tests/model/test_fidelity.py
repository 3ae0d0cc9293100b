"""The official numbers: recorded outputs, a literal transcription, and the flags that tell paper, code and us apart.

The recorded outputs in reference/ come from the official code (see reference/official_checkpoint.py). The transcription
is modeling_pir/convert/official_forward.py; the losses, the optimiser and the training loop of the official recipe are
below.
"""

import contextlib
import copy
import functools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from modeling_pir import PIRConfig, PIRModel
from modeling_pir.convert.convert_pir_checkpoint_to_hf import Flags, convert_weights, infer_config, official_to_ours
from modeling_pir.convert.official_forward import Numbers, attention_block, image_embeds, linear, swin, text_embeds
from modeling_pir.loss_pir import affiliation_loss
from modeling_pir.processing_pir import build_image_processor, clean_caption
from tests.reference.official_checkpoint import load_reference, official_checkpoint
from tests.reference.official_layout import TINY, Sizes, draw, drawn_checkpoint, official_layout
from tests.support.paths import ROOT
from training import train as train_module
from training.config import build_config, load_config
from training.evaluation.metrics import retrieval_metrics

REFERENCE = ROOT / "tests" / "reference"
SMALL = Sizes(
    swin_width=24, swin_depths=(2, 2, 2, 2), swin_heads=(1, 2, 4, 8), vocab_size=1000, positions=64, text_width=64,
    text_layers=2, text_inner=128, dim=64, inner=128,
)  # fmt: skip
NUMBERS = Numbers(heads=8, text_heads=4, filter_size=30)
TINY_NUMBERS = Numbers(heads=2, text_heads=1, filter_size=30)
TOLERANCE = 1e-5
PLANNED_STEPS = 20


def convert_reference(name, **overrides):
    """The recorded checkpoint as a model; `overrides` are fields of its configuration."""
    checkpoint = official_checkpoint(name)
    config = infer_config(checkpoint["model"], checkpoint["config"], Flags(text_heads=4))
    fields = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    return convert_weights(checkpoint["model"], PIRConfig(**fields | overrides), name)


@functools.cache
def tiny_checkpoint():
    """A drawn official state dict, and the configuration fields of its conversion."""
    checkpoint = drawn_checkpoint(TINY)
    fields = infer_config(checkpoint["model"], checkpoint["config"], Flags()).to_dict()
    fields.pop("model_type")
    return checkpoint["model"], fields


def tiny_pair(**overrides):
    """The drawn state dict and the model made of it; parts that `overrides` switches off are left out of both."""
    state, fields = tiny_checkpoint()
    config = PIRConfig(**copy.deepcopy(fields) | overrides)
    off = ("img_", "mapping_img", "head_img") if config.num_instruction_layers == 0 else ()
    off += ("txt_", "mapping_txt", "head_txt") if config.num_cycles == 0 else ()
    off += () if config.has_instruction else ("conv_",)
    state = {key: value.clone() for key, value in state.items() if not key.startswith(off)}
    return state, convert_weights(state, config, "drawn")


def tiny_batch(seed=0, batch=6):
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(batch, 3, 56, 56, generator=generator)
    input_ids = torch.randint(1, 100, (batch, 12), generator=generator)
    for row in range(1, batch):
        input_ids[row, 12 - row :] = 0
    image_ids = torch.randint(0, 4, (batch,), generator=generator)
    return pixel_values, input_ids, image_ids, image_ids % 3  # one scene an image


# Recorded outputs of the official code


BOTH = pytest.mark.parametrize("name", ["pir_small", "vse_small"])


@functools.cache
def run_reference(name):
    """One reference, the converted model, and what it makes of the inputs (with gradients)."""
    reference = load_reference(name, REFERENCE)
    # The recorded gradients include the instruction encoder's.
    model = convert_reference(name, freeze_instruction_encoder=False)
    outputs = model(
        input_ids=reference["input_ids"],
        pixel_values=reference["pixel_values"],
        image_ids=torch.tensor(reference["idx"]),
        scene_labels=torch.tensor(reference["label"]),
        return_loss=True,
    )
    return reference, model, outputs


@BOTH
def test_embeddings_are_the_official_ones(name):
    reference, _, outputs = run_reference(name)
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(outputs[name], reference["outputs"][name], atol=TOLERANCE, rtol=0)


@BOTH
def test_tower_outputs_are_the_official_ones(name):
    reference, _, outputs = run_reference(name)
    expected = reference["outputs"]
    tokens = outputs.vision_model_output.last_hidden_state
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    torch.testing.assert_close(tokens.mean(dim=-1), expected["vision_tokens_mean"], atol=TOLERANCE, rtol=0)
    states = outputs.text_model_output.last_hidden_state
    torch.testing.assert_close(states.mean(dim=-1), expected["text_tokens_mean"], atol=TOLERANCE, rtol=0)
    if name == "pir_small":
        features = outputs.instruction_model_output.pooler_output.flatten(1)[:, :8]
        torch.testing.assert_close(features, expected["instruction_features_first8"], atol=TOLERANCE, rtol=0)


def test_belief_scores_and_kept_tokens_are_the_official_ones():
    reference, _, outputs = run_reference("pir_small")
    expected = reference["outputs"]["belief_scores"]
    torch.testing.assert_close(outputs.belief_scores, expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(outputs.filtered_indices, expected.argsort(dim=-1, descending=True)[:, :30])


def test_losses_are_the_official_ones():
    reference, model, outputs = run_reference("pir_small")
    expected = reference["outputs"]
    assert outputs.contrastive_loss.item() == pytest.approx(expected["loss_contrastive"].item(), abs=TOLERANCE)
    assert outputs.affiliation_loss.item() == pytest.approx(expected["loss_affiliation"].item(), abs=TOLERANCE)
    without_ids = model.compute_loss(outputs.image_embeds, outputs.text_embeds).contrastive_loss.item()
    assert without_ids == pytest.approx(expected["loss_contrastive_no_idx"].item(), abs=TOLERANCE)


def test_triplet_loss_is_the_official_one_where_every_image_has_one_caption():
    reference, _, outputs = run_reference("pir_small")
    model = PIRModel(tiny_pair(contrastive_objective="triplet")[1].config)
    # Summed over 112 hinges, so the tolerance is relative to the sum.
    loss = model.compute_loss(outputs.image_embeds, outputs.text_embeds).loss.item()
    assert loss == pytest.approx(reference["outputs"]["loss_triplet"].item(), rel=1e-6)


def test_gradient_norms_are_the_official_ones():
    reference, model, outputs = run_reference("pir_small")
    (outputs.contrastive_loss + outputs.affiliation_loss).backward(retain_graph=True)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for key, expected in reference["grad_norms"].items():
        name = official_to_ours(key)
        if ".qkv." in name:
            parts = [gradients.pop(name.replace(".qkv.", f".{part}_proj.")) for part in "qkv"]
            norm = torch.cat(parts).norm().item()
        elif key in ("temp", "temp2"):  # dL/dt = -dL/ds / t with s = -log t
            norm = gradients.pop(name).norm().item() / 0.07
        else:
            norm = gradients.pop(name).norm().item()
        # The key biases' gradients are 0 but for rounding: a softmax does not feel a constant.
        assert norm == pytest.approx(expected, rel=1e-3, abs=1e-6), key
    assert not gradients


@BOTH
def test_transcription_gives_the_recorded_numbers(name):
    reference, _, _ = run_reference(name)
    state, expected = official_checkpoint(name)["model"], reference["outputs"]
    with torch.no_grad():
        embeds, belief, _ = image_embeds(state, reference["pixel_values"], NUMBERS)
        texts = text_embeds(state, reference["input_ids"], NUMBERS)
    torch.testing.assert_close(embeds, expected["image_embeds"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(texts, expected["text_embeds"], atol=TOLERANCE, rtol=0)
    if belief is not None:
        torch.testing.assert_close(belief, expected["belief_scores"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "layers", "cycles"), [("pir_small", 2, 3), ("vse_small", 0, 0)])
def test_generated_layout_is_the_recorded_one(name, layers, cycles):
    recorded_layout = json.loads((REFERENCE / f"{name}.json").read_text())["state_dict"]
    sizes = Sizes(**vars(SMALL) | {"num_instruction_layers": layers, "num_cycles": cycles})
    assert official_layout(sizes) == {key: (tuple(shape), dtype) for key, (shape, dtype) in recorded_layout.items()}


def test_caption_cleaning_is_the_official_one():
    cases = json.loads((REFERENCE / "protocol.json").read_text())["captions"]
    assert [clean_caption(case["caption"], case["max_words"]) for case in cases] == [case["cleaned"] for case in cases]


def test_retrieval_metrics_are_the_official_ones():
    names = {"txt_r1": "i2t_R@1", "txt_r5": "i2t_R@5", "txt_r10": "i2t_R@10", "img_r1": "t2i_R@1", "img_r5": "t2i_R@5",
             "img_r10": "t2i_R@10", "r_mean": "mR"}  # fmt: skip
    for case in json.loads((REFERENCE / "protocol.json").read_text())["retrieval"]:
        metrics = retrieval_metrics(torch.tensor(case["scores"]), torch.tensor(case["text_to_image"]))
        for official, ours in names.items():
            assert metrics[ours] == pytest.approx(case["metrics"][official], abs=0.0051), official  # rounded to 2


# The official training, transcribed


def literal_contrastive_loss(images, texts, image_ids, temperature):
    logits = images @ texts.T / temperature
    total = 0.0
    for scores in (logits, logits.T):
        for row, own in enumerate(image_ids):
            same = [column for column, other in enumerate(image_ids) if other == own]
            log_probability = scores[row] - scores[row].logsumexp(0)
            total = total - sum(log_probability[column] for column in same) / len(same)
    return total / (2 * len(image_ids))


def literal_affiliation_loss(images, texts, labels, temperature, process_ids=None):
    """`process_ids`: centres are taken over the samples of the same process, targets are the samples themselves."""
    process_ids = [0] * len(labels) if process_ids is None else process_ids
    groups = [
        [j for j in range(len(labels)) if labels[j] == labels[i] and process_ids[j] == process_ids[i]]
        for i in range(len(labels))
    ]
    image_centers = torch.stack([images[group].mean(dim=0) for group in groups])
    text_centers = torch.stack([texts[group].mean(dim=0) for group in groups])
    by_image = images @ text_centers.T / temperature
    by_center = image_centers @ texts.T / temperature  # the official second term normalises over the texts
    total = 0.0
    for scores in (by_image, by_center):
        for row in range(len(labels)):
            total = total - (scores[row, row] - scores[row].logsumexp(0))
    return total / (2 * len(labels))


class LiteralAdamW:
    """Bias-corrected Adam with the decay behind the step, grouped by parts of names as the official recipe does."""

    NO_DECAY = ("bias", "LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight")

    def __init__(self, weights):
        self.weights = weights
        self.first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.steps = 0

    @torch.no_grad()
    def step(self, learning_rate):
        self.steps += 1
        correction = math.sqrt(1 - 0.98**self.steps) / (1 - 0.9**self.steps)
        for name, weight in self.weights.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * weight.grad
            self.second[name] = 0.98 * self.second[name] + 0.02 * weight.grad**2
            weight -= learning_rate * correction * self.first[name] / (self.second[name].sqrt() + 1e-8)
            if not any(part in name for part in self.NO_DECAY):
                weight -= learning_rate * 0.01 * weight
            weight.grad = None


def official_factor(step, warmup=2):
    """The official schedule without its first update at rate 0, which docs/fidelity.md lists as not reproduced."""
    return (step + 1) / warmup if step < warmup else (PLANNED_STEPS - step) / (PLANNED_STEPS - warmup)


def literal_trajectory(state, num_steps, learning_rate):
    """Losses of the official training loop on `tiny_batch`es."""
    frozen = ("conv_encoder", "relative_position_index", "attn_mask")
    state = {key: value.clone() for key, value in state.items()}
    weights = {key: value.requires_grad_() for key, value in state.items() if not any(part in key for part in frozen)}
    optimizer, losses = LiteralAdamW(weights), []
    numbers = Numbers(**vars(TINY_NUMBERS) | {"live_batch_norm": True})
    for step in range(num_steps):
        pixel_values, input_ids, image_ids, labels = tiny_batch(step)
        images, _, _ = image_embeds(state, pixel_values, numbers)
        texts = text_embeds(state, input_ids, numbers)
        loss = literal_contrastive_loss(images, texts, image_ids.tolist(), state["temp"])
        loss = loss + literal_affiliation_loss(images, texts, labels.tolist(), state["temp2"])
        loss.backward()
        optimizer.step(learning_rate * official_factor(step))
        losses.append(loss.item())
    return losses, state


class DrawnBatches:
    """Stands for the loader of a run: `tiny_batch`es in the order of the steps."""

    def __len__(self):
        return PLANNED_STEPS

    def __iter__(self):
        names = ("pixel_values", "input_ids", "image_ids", "scene_labels")
        for step in range(PLANNED_STEPS):
            batch = dict(zip(names, tiny_batch(step), strict=True))
            yield batch | {"attention_mask": (batch["input_ids"] != 0).long()}


class EnoughSteps(Exception):  # noqa: N818 - no error: the run ends where it was asked to
    """Ends a run whose first losses are all that is asked for."""


def our_trajectory(folder, model, num_steps, **fields):
    """Losses of `train` itself on the same batches, with the official recipe's fields."""
    recipe = yaml.safe_load((ROOT / "training" / "configs" / "rsicd_official.yaml").read_text())
    names = ("weight_decay", "adam_betas", "warmup_ratio", "schedule", "raw_temperatures", "max_grad_norm")
    settings = {name: recipe[name] for name in names} | {"learning_rate": 1e-3, "log_every": 1, "epochs": 1} | fields
    config = build_config({"output_dir": str(folder / "run"), **settings})
    losses = []

    def record(unchecked, step, _):
        losses.extend(loss.item() for loss in unchecked)
        unchecked.clear()
        if len(losses) == num_steps < PLANNED_STEPS:
            raise EnoughSteps

    with pytest.MonkeyPatch.context() as patch:
        splits = dict.fromkeys(("train", "validation", "test"), {"scene": []})
        patch.setattr(train_module, "load_splits", lambda *_: splits)
        patch.setattr(train_module, "build_model", lambda *_: (model, None))
        patch.setattr(train_module, "build_loader", lambda *_: DrawnBatches())
        patch.setattr(train_module, "epoch_batches", lambda _, loader, *__: loader)
        patch.setattr(train_module, "check_losses", record)
        for name in ("open_run", "keep_records", "save_checkpoint", "write_record", "close_epoch", "finish_run"):
            patch.setattr(train_module, name, lambda *_: None)
        with contextlib.suppress(EnoughSteps):
            train_module.train(config)
    return losses


def deterministic_pair(**overrides):
    """`tiny_pair` without dropout and stochastic depth."""
    _, fields = tiny_checkpoint()
    vision = fields["vision_config"] | {"drop_path_rate": 0.0}
    text = fields["text_config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny_pair(dropout=0.0, vision_config=vision, text_config=text, **overrides)


@pytest.fixture(scope="module")
def official_trajectory():
    return literal_trajectory(tiny_pair()[0], num_steps=PLANNED_STEPS, learning_rate=1e-3)


def test_twenty_steps_of_train_in_official_mode_follow_the_transcription(official_trajectory, tmp_path):
    expected, final_state = official_trajectory
    _, model = deterministic_pair()
    losses = our_trajectory(tmp_path, model, num_steps=PLANNED_STEPS)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4
    assert max(expected) - min(expected) > 0.5  # it does go somewhere
    assert torch.exp(-model.logit_scale).item() == pytest.approx(final_state["temp"].item(), abs=1e-5)
    assert abs(final_state["temp"].item() - 0.07) > 1e-3
    mean = model.instruction_model.embedder.embedder.normalization.running_mean
    torch.testing.assert_close(mean, final_state["conv_encoder.1.running_mean"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"freeze_instruction_batch_norm": True},
        {"mask_padding": True},
        {"affiliation_targets": "scene"},
        {"norm_style": "branch"},
    ],
)
def test_every_official_flag_is_needed_for_the_trajectory(official_trajectory, overrides, tmp_path):
    _, model = deterministic_pair(**overrides)
    losses = our_trajectory(tmp_path, model, num_steps=2)
    assert max(abs(a - b) for a, b in zip(losses, official_trajectory[0][:2], strict=True)) > 1e-4


@pytest.mark.parametrize(
    "fields",
    [{"adam_betas": (0.9, 0.999)}, {"warmup_ratio": 0.0}, {"schedule": "cosine"}, {"max_grad_norm": 0.1}],
    ids=lambda fields: next(iter(fields)),
)
def test_every_field_of_the_official_recipe_is_needed_for_the_trajectory(official_trajectory, fields, tmp_path):
    _, model = deterministic_pair()
    losses = our_trajectory(tmp_path, model, num_steps=6, **fields)
    assert max(abs(a - b) for a, b in zip(losses, official_trajectory[0][:6], strict=True)) > 1e-4


def test_log_temperatures_move_differently_from_raw_ones(tmp_path):
    _, model = deterministic_pair()
    our_trajectory(tmp_path, model, num_steps=5, raw_temperatures=False)
    assert abs(torch.exp(-model.logit_scale).item() - 0.07) < 1e-3  # a step of lr on the log is 7 % of one on the raw


# Flags, one by one


def test_local_centers_are_each_process_own():
    images, texts = (F.normalize(torch.randn(8, 16), dim=-1) for _ in range(2))
    labels, processes = torch.tensor([0, 0, 1, 2, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    loss = affiliation_loss(images, texts, labels, torch.tensor(1 / 0.07), "identity", processes)
    expected = literal_affiliation_loss(images, texts, labels.tolist(), 0.07, processes.tolist())
    assert loss.item() == pytest.approx(expected.item(), abs=TOLERANCE)
    joint = affiliation_loss(images, texts, labels, torch.tensor(1 / 0.07), "identity")
    assert abs(joint - expected) > 1e-2


def test_perfect_clusters_cost_nothing_with_scene_targets_and_log_of_their_size_with_identity_targets():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    embeds = F.one_hot(labels, 3).float()
    assert affiliation_loss(embeds, embeds, labels, torch.tensor(100.0)).item() == pytest.approx(0, abs=TOLERANCE)
    expected = sum(math.log(size) for size in (3, 3, 3, 2, 2, 1)) / 6
    identity = affiliation_loss(embeds, embeds, labels, torch.tensor(100.0), "identity")
    assert identity.item() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("norm_style", ["post", "branch"])
def test_norm_styles_are_those_of_code_and_paper(norm_style):
    state, model = tiny_pair(norm_style=norm_style)
    pixel_values, input_ids, _, _ = tiny_batch()
    with torch.no_grad():
        outputs = model(input_ids, pixel_values)
        expected = image_embeds(state, pixel_values, TINY_NUMBERS, norm_style)[0]
        torch.testing.assert_close(outputs.image_embeds, expected, atol=TOLERANCE, rtol=0)
        expected = text_embeds(state, input_ids, TINY_NUMBERS, norm_style)
        torch.testing.assert_close(outputs.text_embeds, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "has_vir", "has_lca"),
    [
        ({"num_instruction_layers": 0, "num_cycles": 0}, False, False),
        ({"num_cycles": 0}, True, False),
        ({"num_instruction_layers": 0}, False, True),
    ],
)
def test_baselines_leave_out_one_part_each(overrides, has_vir, has_lca):
    state, model = tiny_pair(**overrides)
    assert ("conv_proj.weight" in state, "head_txt.weight" in state) == (has_vir, has_lca)
    pixel_values, input_ids, _, _ = tiny_batch()
    with torch.no_grad():
        outputs = model(input_ids, pixel_values)
        images, texts = image_embeds(state, pixel_values, TINY_NUMBERS)[0], text_embeds(state, input_ids, TINY_NUMBERS)
    torch.testing.assert_close(outputs.image_embeds, images, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(outputs.text_embeds, texts, atol=TOLERANCE, rtol=0)
    assert (model.instruction_model is not None) == has_vir


def test_tel_without_instruction_reads_all_tokens_each_asking_for_itself():
    state, model = tiny_pair(use_instruction=False)
    assert model.instruction_model is None and "conv_proj.weight" not in state
    pixel_values, _, _, _ = tiny_batch()
    with torch.no_grad():
        tokens = linear(state, "vision_proj", swin(state, pixel_values))
        x = tokens
        for layer in range(2):
            memory = attention_block(state, f"img_sa.{layer}", x, x, heads=2)
            x = attention_block(state, f"img_ca.{layer}", linear(state, f"mapping_img.{layer}", x), memory, heads=2)
        expected = F.normalize(tokens[:, 0] + linear(state, "head_img", x[:, 0]), dim=-1)
        embeds = F.normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
    torch.testing.assert_close(embeds, expected, atol=TOLERANCE, rtol=0)


def embed_alone_and_beside_a_long_caption(mask_padding):
    _, model = tiny_pair(mask_padding=mask_padding)
    short = torch.randint(1, 100, (1, 5))
    both = torch.zeros(2, 30, dtype=torch.long)
    both[0, :5], both[1] = short[0], torch.randint(1, 100, (30,))
    with torch.no_grad():
        alone = model.get_text_features(short, torch.ones_like(short)).pooler_output
        beside = model.get_text_features(both, (both != 0).long()).pooler_output
    return F.cosine_similarity(alone[0], beside[0], dim=0).item()


def test_caption_does_not_depend_on_its_batch_by_default():
    assert embed_alone_and_beside_a_long_caption(mask_padding=True) > 0.99999


def test_caption_depends_on_its_batch_in_official_mode():
    assert embed_alone_and_beside_a_long_caption(mask_padding=False) < 0.999


@pytest.mark.parametrize("live", [False, True])
def test_frozen_batch_norm_is_live_in_training_only_in_official_mode(live):
    _, model = tiny_pair(freeze_instruction_batch_norm=not live)
    before = model.instruction_model.embedder.embedder.normalization.running_mean.clone()
    model.train().get_image_features(tiny_batch()[0])
    after = model.instruction_model.embedder.embedder.normalization.running_mean
    assert torch.equal(before, after) != live
    assert not any(weight.requires_grad for weight in model.instruction_model.parameters())


def test_image_processor_is_pils_bicubic_but_for_rounding():
    rng = np.random.default_rng(0)
    # Smooth, as photographs are: where a filter overshoots, at hard edges, the two round and clip in another order.
    pixels = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).resize((256, 300), Image.BICUBIC)
    processor = build_image_processor(224)
    ours = processor(pixels, return_tensors="pt")["pixel_values"][0]
    theirs = torch.tensor(np.asarray(pixels.resize((224, 224), Image.BICUBIC))).permute(2, 0, 1) / 255
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    levels = (ours * std[:, None, None] + mean[:, None, None] - theirs).abs() * 255
    assert levels.max() < 2.01 and levels.mean() < 0.05


# Recipes


@pytest.mark.parametrize("data", ["rsicd", "rsitmd"])
def test_official_recipe_states_the_official_numbers(data):
    config = load_config(ROOT / "training" / "configs" / f"{data}_official.yaml")
    assert (config.data, config.split_list) == (data, data)
    assert (config.learning_rate, config.weight_decay, config.adam_betas) == (6e-5, 0.01, (0.9, 0.98))
    assert (config.epochs, config.batch_size, config.warmup_ratio, config.schedule) == (50, 256, 0.1, "linear")
    assert (config.max_grad_norm, config.captions_per_image) == (0, 0)
    model = PIRConfig(**config.model)
    assert not model.mask_padding and not model.freeze_instruction_batch_norm
    assert (model.affiliation_targets, model.affiliation_centers) == ("identity", "local")


@pytest.mark.parametrize("data", ["rsicd", "rsitmd"])
def test_corrected_recipe_differs_from_the_official_one_in_what_it_says(data):
    official = vars(load_config(ROOT / "training" / "configs" / f"{data}_official.yaml"))
    corrected = vars(load_config(ROOT / "training" / "configs" / f"{data}.yaml"))
    changed = {name for name in official if official[name] != corrected[name]} - {"output_dir"}
    assert changed == {"model", "max_grad_norm", "raw_temperatures"}
    default, model = PIRConfig().to_dict(), PIRConfig(**corrected["model"]).to_dict()
    assert model == default


@pytest.mark.parametrize("line", [
    "num_instruction_layers: 0, num_cycles: 0",
    "num_instruction_layers: 0, num_cycles: 0, contrastive_objective: triplet, affiliation_weight: 0",
    "num_cycles: 0",
    "num_instruction_layers: 0",
    "use_instruction: false, num_cycles: 0",
    "affiliation_weight: 0",
    "norm_style: branch",
])  # fmt: skip
def test_baseline_lines_of_the_fidelity_page_are_configurations(line):
    assert f"`model: {{{line}}}`" in (ROOT / "docs" / "fidelity.md").read_text()
    PIRConfig(**yaml.safe_load(f"{{{line}}}"))


def test_drawn_checkpoint_is_reproducible():
    layout = official_layout(TINY)
    first, second = draw(layout), draw(layout)
    assert all(torch.equal(first[key], second[key]) for key in layout)
