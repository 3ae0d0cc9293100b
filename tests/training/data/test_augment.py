"""Augmentation keeps captions true."""

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from training.data.augment import Augmentation, ColourKeepingRandAugment, names_direction


@pytest.mark.parametrize(
    "caption", ["a plane on the LEFT", "northern part", "the upper edge", "trees southeast of it", "on top of it"]
)
def test_a_direction_is_noticed(caption):
    assert names_direction(["a field", caption])


@pytest.mark.parametrize("caption", ["a bright plane", "leftover rocks", "the restaurant", "a laptop", "many eastery"])
def test_words_that_only_contain_a_direction_are_not(caption):
    assert not names_direction([caption])


@pytest.mark.parametrize("caption", ["左边是农田", "слева поле", "links ein Feld", "un champ à gauche", "西側の道路"])
def test_captions_that_may_name_a_direction_in_another_language_count_as_such(caption):
    assert names_direction([caption])


@pytest.mark.parametrize("caption", ["un café et une forêt", "ein Feld mit Bäumen", "two cafés, 3 × 4 m"])
def test_letters_with_accents_are_no_other_script(caption):
    assert not names_direction([caption])


def corner_positions(captions):
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[:, 0, 1] = 255
    augmentation = Augmentation(8, crop_scale=1, rand_augment=False, flips_and_turns=True)
    return {tuple(augmentation(pixels, captions)[0].nonzero()[0].tolist()) for _ in range(200)}


def test_all_eight_ways_to_lay_an_image_occur():
    expected = {(0, 1), (1, 0), (0, 6), (6, 0), (7, 1), (1, 7), (7, 6), (6, 7)}
    assert corner_positions(["two planes"]) == expected


def test_nothing_turns_where_a_caption_names_a_direction():
    assert corner_positions(["two planes", "a plane on the left"]) == {(0, 1)}


def test_rand_augment_has_no_operation_that_changes_colours_for_others():
    space = ColourKeepingRandAugment._AUGMENTATION_SPACE
    assert not {"Posterize", "Solarize", "Color", "Equalize"} & set(space)
    assert "Rotate" in space


def test_the_result_is_a_square_of_bytes():
    pixels = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    out = Augmentation(32, 0.5, True, True)(pixels, ["a field"])
    assert out.shape == (3, 32, 32) and out.dtype == torch.uint8 and out.is_contiguous()


@pytest.mark.parametrize("shape", [(40, 60), (32, 32)])
def test_a_crop_is_torchvisions_of_the_same_seed(shape):
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    crop = v2.RandomResizedCrop(32, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)
    augmentation = Augmentation(32, 0.5, rand_augment=False, flips_and_turns=False)
    for seed in range(4):
        torch.manual_seed(seed)
        expected = crop(pixels)
        torch.manual_seed(seed)
        assert torch.equal(augmentation(pixels, ["a field"]), expected)
