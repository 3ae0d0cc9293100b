"""Whether the belief favours patches that show objects."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.inference.belief import Box, belief_maps
from training.data.rows import decoded_images

MIN_OBJECT_SHARE = 0.25  # of a patch, see `object_patches`
NUM_RANDOM_PRIORS = 5  # random instruction encoders that a trained one is compared with; one alone may be lucky


def object_patches(boxes: Sequence[Box], rows: int, cols: int, min_share: float = MIN_OBJECT_SHARE) -> np.ndarray:
    """Which patches show an object.

    Args:
        boxes: of one image's objects.
        rows: of the patch grid.
        cols: of the patch grid.
        min_share: share of a patch's area (0 to 1) that the boxes have to cover together for it to count.

    Returns:
        (rows, cols) bool. Areas are counted on 32 x 32 points per patch.
    """
    points = 32
    y = (np.arange(rows * points) + 0.5) / (rows * points)
    x = (np.arange(cols * points) + 0.5) / (cols * points)
    covered = np.zeros((rows * points, cols * points), dtype=bool)
    for left, top, right, bottom in boxes:
        covered |= ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))[None, :]
    shares = covered.reshape(rows, points, cols, points).mean(axis=(1, 3))
    return shares >= min_share


def object_keep_ratio(
    kept: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]], min_share: float = MIN_OBJECT_SHARE
) -> float:
    """How often object patches are kept, against how often patches are kept at all.

    P(kept | the patch shows an object) / P(kept), over the patches of all images that have a box. A prior that picks
    patches at random gives 1.0; the most that can be reached is 1 / P(kept).

    Args:
        kept: one (rows, cols) bool array per image ([`Belief`].kept).
        boxes: one list of boxes per image, which may be empty.
        min_share: see [`object_patches`].

    Returns:
        The ratio, 0 or more.

    Raises:
        ValueError: the lists differ in length, no patch shows an object, or no patch is kept.
    """
    if len(kept) != len(boxes):
        raise ValueError(
            f"There are kept patches of {len(kept)} images, but boxes of {len(boxes)}: give both for each."
        )
    chosen = [index for index, of_image in enumerate(boxes) if len(of_image)]
    masks = [object_patches(boxes[index], *kept[index].shape, min_share).ravel() for index in chosen]
    is_object = np.concatenate([np.zeros(0, dtype=bool), *masks])
    is_kept = np.concatenate([np.zeros(0, dtype=bool), *(kept[index].ravel() for index in chosen)])
    if not is_object.any() or not is_kept.any():
        missing = "shows an object" if not is_object.any() else "is kept"
        raise ValueError(
            f"No patch of the {len(chosen)} images with boxes {missing} (at least {min_share:.0%} of it covered), so "
            "there is no ratio: give images with larger objects, or lower min_share."
        )
    return float(is_kept[is_object].mean() / is_kept.mean())


def object_keeping(model: PIRModel, processor: PIRProcessor, rows: Dataset, batch_size: int) -> dict[str, Any]:
    """How often patches with objects are kept against all patches, as instructed by the model and by random priors.

    Args:
        model: with an instruction; it is not changed.
        processor: its processor.
        rows: with `boxes`, lists of (left, top, right, bottom) as shares of the image.
        batch_size: images encoded at once.

    Returns:
        `images` with objects; `keep_ratio` of the model (see `object_keep_ratio`); `random_keep_ratios`, the same with
        the instruction encoder's weights redrawn and all else left; `kept_share` of all patches; `ceiling`, 1 / that.
    """
    rows = _with_boxes(rows)
    boxes = list(rows["boxes"])
    kept = [belief.kept for belief in belief_maps(model, processor, decoded_images(rows), batch_size)]
    kept_share = float(np.mean(kept))
    random_model, random_keep_ratios = copy.deepcopy(model), []
    for seed in range(NUM_RANDOM_PRIORS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = AutoModel.from_config(model.config.instruction_config)
        random_model.instruction_model = encoder.to(model.device).eval()
        beliefs = belief_maps(random_model, processor, decoded_images(rows), batch_size)
        random_keep_ratios.append(object_keep_ratio([belief.kept for belief in beliefs], boxes))
    return {
        "images": len(boxes),
        "keep_ratio": object_keep_ratio(kept, boxes),
        "random_keep_ratios": random_keep_ratios,
        "kept_share": kept_share,
        "ceiling": 1 / kept_share,
    }


def _with_boxes(rows: Dataset) -> Dataset:
    return rows.select([index for index, boxes in enumerate(rows["boxes"]) if len(boxes)])


def describe_objects(objects: dict[str, Any]) -> str:
    """What `object_keeping` measured, in words."""
    ratios = objects["random_keep_ratios"]
    return (
        f"On the {objects['images']} test images with objects, patches with objects are kept "
        f"{objects['keep_ratio']:.2f} times as often as patches at large (1 says nothing; "
        f"{objects['ceiling']:.2f} is the most that can be reached where {objects['kept_share']:.0%} of the patches "
        f"are kept). With {len(ratios)} random instruction encoders in place of this one: "
        f"{sum(ratios) / len(ratios):.2f} times (from {min(ratios):.2f} to {max(ratios):.2f})."
    )
