"""What a training run's loader hands to the model, whatever process makes it."""

import dataclasses
from unittest.mock import Mock

import pytest
import torch
from transformers import CLIPImageProcessor

from modeling_pir import PIRProcessor
from training.data import loader as loader_module
from training.data.items import TrainCollator, only_normalises
from training.data.loader import build_loader, epoch_batches, load_splits, make_items
from training.data.rows import scene_names
from training.train import build_accelerator

CROPPING = CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})

PLAIN = {
    "images_on_device": True, "captions_per_image": 1, "batch_size": 4,
    "crop_scale": 1.0, "flips_and_turns": False, "rand_augment": False,
}  # fmt: skip


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
    handed_over = next(iter(build_loader(config, rows, scene_names(rows), processor, build_accelerator(config))))
    assert handed_over["pixel_values"].dtype == (torch.float32 if cropping else torch.uint8)  # a quarter of the bytes
    items = make_items(rows, scene_names(rows), config, processor)
    expected = TrainCollator(processor)([items[index] for index in range(len(items))])["pixel_values"]
    (batches,) = epochs_of(config, processor, (0,))
    shown = torch.cat([batch["pixel_values"] for batch in batches])
    assert shown.dtype == torch.float32 and len(shown) == len(expected) == 20
    for image in shown:
        assert any(torch.equal(image, one) for one in expected)


def test_images_that_frozen_towers_are_asked_for_once_are_not_augmented(config, tiny_processor):
    config.feature_cache = "features"
    (batches,) = epochs_of(config, tiny_processor, (0,))
    images = [row["image"] for row in load_splits(config)["train"]]
    expected = tiny_processor(images=images, return_tensors="pt")["pixel_values"]
    for image in torch.cat([batch["pixel_values"] for batch in batches]):
        assert min((image - one).abs().mean() for one in expected) < 0.02


def test_what_does_not_fill_a_batch_is_left_out_of_the_epoch(config, tiny_processor):
    config.batch_size = 8  # of twenty items
    (batches,) = epochs_of(config, tiny_processor, (0,))
    assert [len(batch["pixel_values"]) for batch in batches] == [8, 8]


def device_batches(config, processor, **fields):
    config = dataclasses.replace(config, **PLAIN | fields)
    rows = load_splits(config)["train"]
    loader = build_loader(config, rows, scene_names(rows), processor, build_accelerator(config))
    return list(loader.epoch(0, 0))


@pytest.mark.parametrize(
    "fields", [{"crop_scale": 0.3}, {"flips_and_turns": True}, {"rand_augment": True}, {"seed": 9}]
)
def test_what_is_configured_reaches_images_on_the_device(config, tiny_processor, fields):
    plain, changed = (device_batches(config, tiny_processor, **own)[0]["pixel_values"] for own in ({}, fields))
    assert not torch.allclose(plain, changed, atol=0.05)


def test_as_many_captions_as_configured_go_with_images_on_the_device(config, tiny_processor):
    (batch,) = device_batches(config, tiny_processor, captions_per_image=3)
    assert len(batch["input_ids"]) == 3 * len(batch["pixel_values"]) == 12


def streamed_ids(config, folder, processor, **fields):
    settings = {"data": str(folder), "streaming": True, "tokenizer": "given", "captions_per_image": 1, "batch_size": 4}
    config = dataclasses.replace(config, **settings | fields)
    splits = load_splits(config)
    loader = build_loader(
        config, splits["train"], scene_names(splits["validation"]), processor, build_accelerator(config)
    )
    return loader, [image for batch in loader.epoch(0, 0) for image in batch["image_ids"].tolist()]


def test_seed_buffer_and_what_is_left_out_reach_a_stream(config, tiny_parquet_dataset, tiny_processor):
    def order(**fields):
        return tuple(streamed_ids(config, tiny_parquet_dataset, tiny_processor, **fields)[1])

    stored, *shuffled = order(shuffle_buffer=1), *(order(shuffle_buffer=50, seed=seed) for seed in range(3))
    assert all(sorted(one) == sorted(stored) for one in shuffled)
    assert set(shuffled) - {stored} and len(set(shuffled)) > 1
    loader, _ = streamed_ids(config, tiny_parquet_dataset, tiny_processor, skip_bad_images=True)
    assert loader.items.skip_bad_images


def test_an_unreadable_image_is_left_out_where_that_was_asked_for(config, tiny_dataset):
    next((tiny_dataset / "train").glob("*.png")).write_bytes(b"no image")
    with pytest.raises(ValueError, match="--skip-bad-images leaves them out"):
        load_splits(config)
    assert len(load_splits(dataclasses.replace(config, skip_bad_images=True))["train"]) == 3


def test_the_split_list_and_the_revision_of_the_data_reach_their_source(config, monkeypatch):
    asked = Mock(side_effect=InterruptedError)
    monkeypatch.setattr(loader_module, "load_image_splits", asked)
    with pytest.raises(InterruptedError):
        load_splits(dataclasses.replace(config, split_list="rsicd", data_revision="v2"))
    assert asked.call_args.kwargs["split_list"] == "rsicd" and asked.call_args.kwargs["revision"] == "v2"
