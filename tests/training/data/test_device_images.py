"""The training split on the device: the batches of the plain loader, made there."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tiny import SCENES
from training.data.device_images import DeviceLoader, crop_maps
from training.data.items import TrainCollator, TrainItems
from training.data.sources import load_image_captions

CPU = torch.device("cpu")


@pytest.fixture
def rows(tiny_dataset):
    return load_image_captions(str(tiny_dataset), "train")


def loader(rows, processor, **settings):
    settings = {
        "captions_per_image": 2,
        "batch_size": 4,
        "crop_scale": 0.5,
        "flips_and_turns": True,
        "colour_changes": True,
        "seed": 0,
        "device": CPU,
    } | settings
    return DeviceLoader(rows, list(SCENES), processor, **settings)


def assert_equal_batches(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def test_without_augmentation_images_are_the_processors(rows, tiny_processor):
    (batch,) = loader(rows, tiny_processor, crop_scale=1.0, flips_and_turns=False, colour_changes=False).epoch(0, 0)
    expected = tiny_processor(images=[rows[int(row)]["image"] for row in batch["image_ids"]], return_tensors="pt")
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], rtol=0, atol=0.03)


def test_a_batch_has_what_the_plain_loaders_has(rows, tiny_processor):
    (batch,) = loader(rows, tiny_processor).epoch(0, 0)
    items = TrainItems(rows, list(SCENES), captions_per_image=2, image_size=32)
    plain = TrainCollator(tiny_processor)([items[int(row)] for row in batch["image_ids"]])
    assert batch.keys() == plain.keys()
    assert {name: (value.dtype, value.shape[0]) for name, value in batch.items()} == {
        name: (value.dtype, value.shape[0]) for name, value in plain.items()
    }
    assert torch.equal(batch["scene_labels"], plain["scene_labels"])


def test_the_captions_of_a_batch_are_of_its_images(rows, tiny_processor):
    (batch,) = loader(rows, tiny_processor).epoch(3, 0)
    texts = tiny_processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    for place, image in enumerate(batch["image_ids"]):
        own = {caption.replace(" ", "") for caption in rows[int(image)]["captions"]}
        assert {text.replace(" ", "") for text in texts[2 * place : 2 * place + 2]} <= own


def test_an_epoch_that_goes_on_has_the_batches_of_one_that_was_not_stopped(rows, tiny_processor):
    whole = list(loader(rows, tiny_processor, batch_size=1).epoch(1, 0))
    rest = list(loader(rows, tiny_processor, batch_size=1).epoch(1, 2))
    assert len(whole) == 4 and len(rest) == 2
    for left, right in zip(whole[2:], rest, strict=True):
        assert_equal_batches(left, right)


def test_two_epochs_and_two_seeds_differ(rows, tiny_processor):
    first, second = (next(loader(rows, tiny_processor).epoch(epoch, 0)) for epoch in (0, 1))
    other = next(loader(rows, tiny_processor, seed=1).epoch(0, 0))
    assert not torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_the_shares_of_two_processes_are_the_batch_of_one(rows, tiny_processor):
    (whole,) = loader(rows, tiny_processor).epoch(0, 0)
    shares = [next(loader(rows, tiny_processor, process_index=i, num_processes=2).epoch(0, 0)) for i in (0, 1)]
    for name in ("pixel_values", "image_ids", "scene_labels"):
        assert torch.equal(torch.cat([share[name] for share in shares]), whole[name])


def test_crops_stay_inside_and_lie_in_all_eight_ways():
    maps = crop_maps(4000, 0.5, torch.ones(4000, dtype=torch.bool))
    corners = torch.tensor([[x, y, 1.0] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    assert (maps @ corners.T).abs().max() <= 1 + 1e-5
    area = (maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0]).abs()
    assert area.min() > 0.45 and area.max() <= 1.001
    ways = {tuple(np.sign(np.round(block.numpy(), 3)).flatten()) for block in maps[:, :, :2]}
    assert len(ways) == 8


def test_an_image_whose_caption_names_a_direction_is_never_turned(tmp_path, tiny_dataset, tiny_processor):
    """A bright top row stays on top."""
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    rows = load_image_captions(str(tiny_dataset), "train").select([0])
    table = rows.to_dict()
    table["image"] = [Image.fromarray(pixels)]
    for caption, is_turned in (("a square north of the forest", False), ("a square by the forest", True)):
        table["captions"] = [[caption] * 5]
        one = type(rows).from_dict(table, features=rows.features)
        steps = [
            next(loader(one, tiny_processor, batch_size=1, crop_scale=1.0).epoch(epoch, 0))["pixel_values"][0]
            for epoch in range(20)
        ]
        upright = [bool(step[:, :16].mean() > step[:, 16:].mean() + 1) for step in steps]
        assert all(upright) is not is_turned
