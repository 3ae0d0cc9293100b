"""Half precision and the bound of the temperature: what is called unit is unit, what is a gradient stays one."""

import math

import pytest
import torch

from modeling_pir import PIRModel
from tests.support.tiny import IMAGE_SIZE, build_tiny_config


@pytest.fixture
def inputs():
    return {"pixel_values": torch.randn(8, 3, IMAGE_SIZE, IMAGE_SIZE), "input_ids": torch.randint(5, 60, (8, 9))}


def test_embeddings_have_unit_norm_under_autocast(tiny_model, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = tiny_model(**inputs)
    for embeds in (outputs.image_embeds, outputs.text_embeds):
        torch.testing.assert_close(embeds.norm(dim=1), torch.ones(8), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_the_loss_and_its_gradient_are_float32_inside_autocast(tiny_model, scale):
    tiny_model.logit_scale.data.fill_(math.log(scale))
    images, texts = (torch.nn.functional.normalize(torch.randn(8, 16), dim=1).requires_grad_() for _ in range(2))
    labels = torch.arange(8) % 3
    plain = tiny_model.compute_loss(images, texts, scene_labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        inside = tiny_model.compute_loss(images, texts, scene_labels=labels).loss
    expected, found = torch.autograd.grad(plain, images)[0], torch.autograd.grad(inside, images)[0]
    assert plain == inside
    torch.testing.assert_close(found, expected)


def test_weights_in_bfloat16_take_pixels_in_float32(tiny_model, inputs):
    outputs = tiny_model.to(torch.bfloat16)(**inputs)
    assert outputs.logits_per_image.isfinite().all() and outputs.image_embeds.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["logit_scale", "affiliation_logit_scale"])
def test_a_scale_beyond_the_bound_is_brought_to_it_and_has_a_gradient_there(tiny_model, name):
    scale = getattr(tiny_model, name)
    scale.data.fill_(4.7)
    tiny_model.clamp_logit_scales()
    assert scale.exp().item() == pytest.approx(100, rel=1e-5)
    images, texts = (torch.nn.functional.normalize(torch.randn(8, 16), dim=1) for _ in range(2))
    losses = tiny_model.compute_loss(images, texts, scene_labels=torch.arange(8) % 3)
    losses.loss.backward()
    assert scale.grad.abs() > 0.1


def test_a_frozen_prior_is_in_evaluation_mode_from_the_first_moment():
    model = PIRModel(build_tiny_config())
    assert model.training and not any(module.training for module in model.instruction_model.modules())
    statistics = model.instruction_model.state_dict()["embedder.embedder.normalization.running_mean"].clone()
    model.get_image_features(torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert torch.equal(statistics, model.instruction_model.state_dict()["embedder.embedder.normalization.running_mean"])


def test_the_official_prior_keeps_live_statistics_although_its_weights_are_frozen():
    model = PIRModel(build_tiny_config(freeze_instruction_batch_norm=False)).train()
    assert all(module.training for module in model.instruction_model.modules())
    assert not any(weight.requires_grad for weight in model.instruction_model.parameters())
