"""The gradient of a large batch, chunk by chunk, is the plain one."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from modeling_pir import PIRModel
from training.loop.grad_cache import cached_backward, chunks_of
from training.loop.joint_loss import joint_losses


def make_batch(processor, images, captions):
    texts = [text for of_image in captions for text in of_image[1:3]]  # one shorter than the other, and so padded
    inputs = dict(processor(images=images, text=texts, return_tensors="pt"))
    return inputs, torch.arange(len(images)), torch.tensor([0, 1, 0, 2])


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain_gradients(model, batch):
    inputs, *ids = batch
    outputs = model(**inputs)
    losses = joint_losses(model, outputs.image_embeds, outputs.text_embeds, *ids, 0)
    losses.loss.backward()
    return losses.loss.item(), gradients(model)


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 9])
def test_chunked_gradients_are_the_plain_ones(tiny_config, tiny_processor, tiny_images, tiny_captions, chunk_size):
    model = PIRModel(tiny_config).eval()  # without dropout
    batch = make_batch(tiny_processor, tiny_images, tiny_captions)
    loss, expected = plain_gradients(model, batch)
    cached = cached_backward(Accelerator(cpu=True), model, *batch, chunk_size)
    found = gradients(model)
    assert cached.loss.item() == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys() and "logit_scale" in found and "affiliation_logit_scale" in found
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1.0)
        assert (found[name] - gradient).abs().max().item() < 1e-5 * scale, name


@pytest.fixture
def process_group(tmp_path):
    """The group of one process that `torchrun --nproc_per_node 1` makes; accelerate's own state knows nothing of it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_chunks_of_a_wrapped_model_give_the_plain_gradient_on_one_process(
    tiny_config, tiny_processor, tiny_images, tiny_captions, process_group
):
    model = PIRModel(tiny_config).eval()
    batch = make_batch(tiny_processor, tiny_images, tiny_captions)
    _, expected = plain_gradients(model, batch)
    cached_backward(Accelerator(cpu=True), DistributedDataParallel(model), *batch, 1)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1.0)
        assert (found[name] - gradient).abs().max().item() < 1e-5 * scale, name


def test_a_temperature_that_is_not_in_the_loss_gets_no_gradient(
    tiny_config, tiny_processor, tiny_images, tiny_captions
):
    tiny_config.contrastive_objective = "triplet"  # freezes the contrastive temperature
    model = PIRModel(tiny_config).eval()
    cached_backward(Accelerator(cpu=True), model, *make_batch(tiny_processor, tiny_images, tiny_captions), 2)
    found = gradients(model)
    assert "logit_scale" not in found and "affiliation_logit_scale" in found


def test_the_second_pass_sees_the_dropout_of_the_first(tiny_config, tiny_processor, tiny_images, tiny_captions):
    model = PIRModel(tiny_config).train()
    batch = make_batch(tiny_processor, tiny_images, tiny_captions)
    seen = []
    model.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs.image_embeds.detach()))
    cached_backward(Accelerator(cpu=True), model, *batch, 2)
    first, second = torch.cat(seen[:2]), torch.cat(seen[2:])
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert (first - model(**batch[0]).image_embeds).abs().max() > 1e-2  # dropout was at work


def test_chunks_keep_captions_with_their_image():
    inputs = {"pixel_values": torch.arange(5), "input_ids": torch.arange(10)}
    chunks = chunks_of(inputs, 2)
    assert [chunk["pixel_values"].tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [chunk["input_ids"].tolist() for chunk in chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
