"""What a training run's loader hands to the model, whatever process makes it."""

import pytest
import torch
from transformers import CLIPImageProcessor

from modeling_pir import PIRProcessor
from training.data.items import TrainCollator, only_normalises
from training.data.loader import build_loader, epoch_batches, load_splits, make_items
from training.data.rows import scene_names
from training.train import build_accelerator

CROPPING = CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


@pytest.fixture
def config(tiny_run):
    """A tiny run, augmented, of items of one caption."""
    return tiny_run(captions_per_image=0, batch_size=4, rand_augment=True, crop_scale=0.5, flips_and_turns=True)


def epochs_of(config, processor, numbers):
    rows = load_splits(config)["train"]
    accelerator = build_accelerator(config)
    loader = accelerator.prepare(build_loader(config, rows, scene_names(rows), processor, accelerator))
    return [list(epoch_batches(accelerator, loader, processor, number, start=0)) for number in numbers]


def assert_equal_epochs(left, right):
    for ours, theirs in zip(left, right, strict=True):
        for batch, expected in zip(ours, theirs, strict=True):
            assert batch.keys() == expected.keys()
            for name in batch:
                torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=0, msg=name)


def test_loader_processes_that_stay_draw_each_epoch_anew_as_the_run_itself_does(config, tiny_processor):
    here = epochs_of(config, tiny_processor, (0, 1, 2))
    config.num_workers = 1
    assert_equal_epochs(epochs_of(config, tiny_processor, (0, 1, 2)), here)
    first, second, _ = (torch.cat([batch["pixel_values"] for batch in epoch]) for epoch in here)
    assert first.shape == second.shape and not torch.equal(first.sort(dim=0).values, second.sort(dim=0).values)


@pytest.mark.parametrize("cropping", [False, True], ids=["square", "cropping"])
def test_images_reach_the_model_as_its_processor_makes_them(config, tiny_processor, cropping):
    processor = PIRProcessor(CROPPING, tiny_processor.tokenizer) if cropping else tiny_processor
    assert only_normalises(processor.image_processor, 32) is not cropping
    rows = load_splits(config)["train"]
    items = make_items(rows, scene_names(rows), config, processor)
    expected = TrainCollator(processor)([items[index] for index in range(len(items))])["pixel_values"]
    (batches,) = epochs_of(config, processor, (0,))
    shown = torch.cat([batch["pixel_values"] for batch in batches])
    assert shown.dtype == torch.float32 and len(shown) == len(expected) == 20
    for image in shown:
        assert any(torch.equal(image, one) for one in expected)
