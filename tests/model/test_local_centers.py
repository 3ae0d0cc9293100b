"""Cluster centres over two processes: of each process alone in the official mode, of the joint batch by default."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.processing_pir import build_image_processor
from tests.support.tiny import SCENES, build_tiny_config, captions_of, draw_scene, tiny_vocabulary
from training.data.items import TrainCollator, TrainItems
from training.data.sources import load_image_captions
from training.loop.joint_loss import joint_losses
from training.loop.sharding import average_gradient

OFFICIAL = {"affiliation_centers": "local", "affiliation_targets": "identity"}
LABELS = torch.tensor([0, 1, 0, 0, 1, -1])  # scenes 0 and 1 are in both halves
HALVES = (slice(0, 3), slice(3, 6))
CAPTIONS = (0, 2)  # which caption of an image: the first half's are short, the second half's long


def build(options):
    torch.manual_seed(0)
    # In float64 the towers' rounding, which depends on how a batch is cut, stays below that of the float32 losses.
    return PIRModel(build_tiny_config(dropout=0.0, **options)).eval().double()


def make_inputs(which):
    processor = PIRProcessor(build_image_processor(32), BertTokenizer(vocab=tiny_vocabulary(), model_max_length=47))
    places = range(*which.indices(len(LABELS)))
    images = [draw_scene(SCENES[i % 4], 1 + i // 4) for i in places]
    texts = [captions_of(SCENES[i % 4], 1 + i // 4)[CAPTIONS[i >= 3]] for i in places]
    inputs = dict(processor(images=images, text=texts, return_tensors="pt"))
    return inputs | {"pixel_values": inputs["pixel_values"].double()}


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def process(rank, rendezvous, options, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    model, inputs = build(options), make_inputs(HALVES[rank])
    outputs = model(**inputs)
    ids = torch.arange(6)[HALVES[rank]], LABELS[HALVES[rank]]
    losses = joint_losses(model, outputs.image_embeds, outputs.text_embeds, *ids, rank)
    losses.loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            average_gradient(parameter)  # as DistributedDataParallel does
    found = {name: gradient.tolist() for name, gradient in gradients_of(model).items()}
    queue.put((inputs["input_ids"].shape[1], losses.affiliation_loss.item(), losses.loss.item(), found))
    dist.barrier()
    dist.destroy_process_group()


def two_processes(tmp_path, options):
    """Affiliation loss, loss and gradients, which both processes have to agree on."""
    queue = mp.get_context("spawn").SimpleQueue()
    context = mp.spawn(process, (str(tmp_path / "rendezvous"), options, queue), nprocs=2, join=False)
    results = [queue.get() for _ in range(2)]
    while not context.join():
        pass
    (length, *numbers, gradients), (other_length, *other_numbers, other_gradients) = results
    assert length != other_length  # each process pads to its own longest caption
    assert numbers == other_numbers and gradients == other_gradients
    return *numbers, {name: torch.tensor(gradient, dtype=torch.float64) for name, gradient in gradients.items()}


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():  # relative to the largest of the parameter
        scale = max(gradient.abs().max().item(), 1.0)
        assert (found[name] - gradient).abs().max().item() < 1e-6 * scale, name


def centers_by_loops(embeds, labels):
    """The mean of the rows with the label of each row."""
    return torch.stack([torch.stack([row for row, own in zip(embeds, labels, strict=True) if own == label]).mean(0)
                        for label in labels])  # fmt: skip


def official_affiliation_loss(images, texts, scale):
    """Centres of each half for itself, every sample its own target, in one process and without our functions."""
    images, texts, known = images.float(), texts.float(), LABELS >= 0
    text_centers, image_centers = (
        torch.cat([centers_by_loops(embeds[half], LABELS[half].tolist()) for half in HALVES])
        for embeds in (texts, images)
    )
    targets = torch.arange(int(known.sum()))
    image_term = F.cross_entropy(scale * images[known] @ text_centers[known].T, targets)
    text_term = F.cross_entropy(scale * image_centers[known] @ texts[known].T, targets)
    return (image_term + text_term) / 2


@pytest.mark.slow
def test_official_centers_of_two_processes_are_those_of_each_half(tmp_path):
    affiliation, loss, gradients = two_processes(tmp_path, OFFICIAL)
    model = build(OFFICIAL)
    halves = [model(**make_inputs(half)) for half in HALVES]
    images, texts = (torch.cat([getattr(half, f"{side}_embeds") for half in halves]) for side in ("image", "text"))
    expected = official_affiliation_loss(images, texts, model.affiliation_logit_scale.float().exp())
    joint = model.compute_loss(images, texts, torch.arange(6), LABELS)  # its centres mix the halves
    total = joint.contrastive_loss + model.config.affiliation_weight * expected
    total.backward()
    assert abs(affiliation - expected.item()) < 1e-6 and abs(loss - total.item()) < 1e-6
    assert abs(affiliation - joint.affiliation_loss.item()) > 1e-3  # it matters here
    assert_same_gradients(gradients, gradients_of(model))


@pytest.mark.slow
def test_default_centers_of_two_processes_are_those_of_the_joint_batch(tmp_path):
    affiliation, loss, gradients = two_processes(tmp_path, {})
    model = build({})
    outputs = model(**make_inputs(slice(0, 6)))  # all captions are padded to the longest of both halves
    losses = model.compute_loss(outputs.image_embeds, outputs.text_embeds, torch.arange(6), LABELS)
    losses.loss.backward()
    assert abs(affiliation - losses.affiliation_loss.item()) < 1e-6 and abs(loss - losses.loss.item()) < 1e-6
    assert_same_gradients(gradients, gradients_of(model))


def test_two_processes_split_each_batch_equally_and_leave_out_the_last_uneven_one(tiny_dataset, tiny_processor):
    items = TrainItems(load_image_captions(str(tiny_dataset), "train"), list(SCENES), 0, 32, augment=False)
    assert len(items) == 20
    collate, generator = TrainCollator(tiny_processor), torch.Generator()
    seen = []
    for process_index in range(2):
        loader = DataLoader(
            items, 6, shuffle=True, drop_last=True, collate_fn=collate, generator=generator.manual_seed(0)
        )
        shard = prepare_data_loader(
            loader, num_processes=2, process_index=process_index, split_batches=True, put_on_device=False,
            use_seedable_sampler=True, data_seed=0, rng_types=[],
        )  # fmt: skip
        seen.append([batch["input_ids"] for batch in shard])
    assert [len(part) for part in seen[0]] == [len(part) for part in seen[1]] == [3, 3, 3]
    texts = [tuple(ids[ids != 0].tolist()) for parts in seen for part in parts for ids in part]
    assert len(set(texts)) == 18
