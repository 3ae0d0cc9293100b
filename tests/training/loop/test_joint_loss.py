"""Gathering over processes keeps the loss and the gradient of one process on the joined batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from modeling_pir.loss_pir import contrastive_loss, same_image_targets
from training.loop.joint_loss import gather_rows


def batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 5, generator=generator)
    weight = torch.randn(5, 4, generator=generator)
    return inputs, weight, torch.tensor([0, 1, 1, 2, 3, 4])


def loss_of(embeds, image_ids):
    embeds = F.normalize(embeds, dim=-1)
    return contrastive_loss(5 * embeds @ embeds.flip(1).T, same_image_targets(image_ids, image_ids))


def process(rank, port_file, queue):
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    inputs, weight, image_ids = batch()
    weight.requires_grad_(True)
    mine = slice(3 * rank, 3 * rank + 3)
    loss = loss_of(gather_rows(inputs[mine] @ weight), gather_rows(image_ids[mine]))
    loss.backward()
    dist.all_reduce(weight.grad)  # what DistributedDataParallel does, with the division below
    queue.put((loss.item(), (weight.grad / 2).tolist()))
    dist.barrier()
    dist.destroy_process_group()


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows


@pytest.mark.slow  # two processes that import torch
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path, monkeypatch):
    inputs, weight, image_ids = batch()
    weight.requires_grad_(True)
    expected = loss_of(inputs @ weight, image_ids)
    expected.backward()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    mp.spawn(process, (str(tmp_path / "rendezvous"), queue), nprocs=2)
    for _ in range(2):
        loss, gradient = queue.get()
        assert abs(loss - expected.item()) < 1e-6
        torch.testing.assert_close(torch.tensor(gradient), weight.grad, atol=1e-6, rtol=0)
