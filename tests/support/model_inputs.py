"""Inputs of the tiny model, and its loss on them."""

import torch

from tests.support.tiny import IMAGE_SIZE


def make_inputs(num_images=3, num_texts=3, length=9):
    """Random images, and texts of which the second is padded."""
    attention_mask = torch.ones(num_texts, length, dtype=torch.long)
    attention_mask[1:2, 5:] = 0
    return {
        "input_ids": torch.randint(5, 60, (num_texts, length)) * attention_mask,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(num_images, 3, IMAGE_SIZE, IMAGE_SIZE),
    }


def loss_of(model, inputs):
    """The loss of a batch in which images 0 and 1 share a scene."""
    return model(**inputs, return_loss=True, scene_labels=torch.tensor([0, 0, 1])).loss


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
