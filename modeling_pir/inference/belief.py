"""Belief: the weight that the instruction gives each patch of an image, as numbers and pictures."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..modeling_pir import PIRModel
from ..processing_pir import PIRProcessor
from .embed import batched
from .figures import ORANGE, drawable, new_figure, show, wrap
from .images import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Box = Sequence[float]  # left, top, right, bottom as shares of the image's width and height, 0 to 1
LOG_SCALE_FROM = 100.0  # largest over smallest belief from which a heat map's colours are logarithmic
LOWEST_SHOWN = 1e-6  # of the largest belief: smaller ones get the darkest colour of a logarithmic heat map


@dataclass
class Belief:
    """What the instruction thinks of one image's tokens.

    Attributes:
        grid: (rows, cols) float32, belief score (probability over all tokens, the pooled one included) of each patch.
        kept: (rows, cols) bool, whether VIR keeps the patch.
        pooled_score: belief score of the pooled token; with `grid` it sums to 1.
        pooled_kept: whether VIR keeps the pooled token.
    """

    grid: np.ndarray
    kept: np.ndarray
    pooled_score: float
    pooled_kept: bool


@torch.inference_mode()
def belief_maps(
    model: PIRModel, processor: PIRProcessor, images: Iterable[Image.Image], batch_size: int = 64
) -> list[Belief]:
    """Where the instruction believes each image (paper, section 3.2: belief scores and the tokens filtered by them).

    Args:
        model: set to evaluation mode by the caller (`from_pretrained` does).
        processor: its processor; it has to hand the whole image on, as the official settings do.
        images: images of any mode, read one batch at a time.
        batch_size: images encoded at once.

    Returns:
        One [`Belief`] per image.

    Raises:
        ValueError: the model has no instruction, or its patches are no square grid.
    """
    if not model.config.has_instruction:
        raise ValueError(
            "This model has no instruction (num_instruction_layers is 0 or use_instruction is False), so it believes "
            "no token more than another: draw belief maps with a model that has one."
        )
    beliefs = []
    for batch in batched(images, batch_size):
        inputs = processor(images=[open_image(image) for image in batch], return_tensors="pt")
        features = model.get_image_features(inputs["pixel_values"].to(model.device, model.dtype))
        scores = features.belief_scores.float().cpu()  # (batch, 1 + patches)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, features.filtered_indices.cpu(), True)
        side = math.isqrt(scores.shape[1] - 1)
        if 1 + side * side != scores.shape[1]:
            raise ValueError(
                f"The vision tower gives {scores.shape[1] - 1} patches, which do not form a square grid: belief maps "
                "need a tower with as many rows of patches as columns."
            )
        grids = scores[:, 1:].unflatten(1, (side, side)).numpy()
        kept_grids = kept[:, 1:].unflatten(1, (side, side)).numpy()
        for index in range(len(batch)):
            pooled = float(scores[index, 0]), bool(kept[index, 0])
            beliefs.append(Belief(grids[index], kept_grids[index], *pooled))
    return beliefs


def belief_map(model: PIRModel, processor: PIRProcessor, image: Image.Image) -> Belief:
    """[`belief_maps`] of one image."""
    return belief_maps(model, processor, [image])[0]


def belief_overlay(image: Image.Image, belief: Belief, size: tuple[int, int] | None = None) -> Image.Image:
    """The image with the tokens that VIR filters out greyed, darkened and hatched; the kept ones are untouched.

    Args:
        image: any mode.
        belief: of that image.
        size: (width, height) in pixels of the result; None for the image's own.

    Returns:
        An RGB image.
    """
    image = open_image(image)
    if size is not None:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rows, cols = np.arange(height)[:, None], np.arange(width)[None, :]
    kept = belief.kept[rows * belief.kept.shape[0] // height, cols * belief.kept.shape[1] // width]  # (height, width)
    dimmed = np.asarray(image.convert("L").convert("RGB")) * 0.4
    period = max(6, max(height, width) // 24)  # pixels between hatch lines
    dimmed[(rows + cols) % period < max(1, period // 8)] = 190
    return Image.fromarray(np.where(kept[..., None], pixels, dimmed.astype(np.uint8)))


def _draw_heat_map(axes: "Axes", belief: Belief) -> None:
    """The belief of each patch with its colour bar, logarithmic where it spans decades."""
    from matplotlib.colors import LogNorm, Normalize

    highest = float(belief.grid.max())
    floor = max(float(belief.grid.min()), LOWEST_SHOWN * highest)
    logarithmic = highest > LOG_SCALE_FROM * floor
    norm = LogNorm(floor, highest) if logarithmic else Normalize(0, highest)
    heat = axes.imshow(np.maximum(belief.grid, floor), cmap="cividis", norm=norm)
    axes.set(xticks=[], yticks=[])
    title = f"belief of each patch{', log scale' if logarithmic else ''}\n"
    axes.set_title(title + f"({1 / (1 + belief.grid.size):.2g} if all tokens were alike)", fontsize=9)
    extend = "min" if belief.grid.min() < floor else "neither"
    axes.figure.colorbar(heat, ax=axes, fraction=0.046, pad=0.03, extend=extend).ax.tick_params(labelsize=7)


def _draw_boxes(axes: "Axes", boxes: Sequence[Box]) -> None:
    """Outline boxes, orange on white, which shows on any ground."""
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in boxes:
        for color, line_width in (("white", 2.2), (ORANGE, 1.1)):
            box = Rectangle((left, 1 - bottom), right - left, bottom - top, fill=False, edgecolor=color)
            box.set(linewidth=line_width, transform=axes.transAxes)
            axes.add_patch(box)


def belief_picture(
    model: PIRModel,
    processor: PIRProcessor,
    images: Sequence[Image.Image],
    titles: Sequence[str],
    path: str | Path,
    boxes: Sequence[Sequence[Box]] | None = None,
    caption: str | None = None,
) -> None:
    """One row per image: the image | the belief of each patch | the tokens VIR keeps; objects outlined in all three.

    Args:
        model: in evaluation mode.
        processor: its processor.
        images: a handful.
        titles: one per image.
        path: of the picture, such as `belief.png`.
        boxes: one list of boxes per image; None draws none.
        caption: a sentence over the picture.

    Raises:
        ValueError: no images, a title or boxes missing, or see [`belief_maps`].
        ImportError: matplotlib is missing.
    """
    if not images or len(titles) != len(images) or (boxes is not None and len(boxes) != len(images)):
        counts = f"{len(images)} images, {len(titles)} titles, {'no' if boxes is None else len(boxes)} lists of boxes"
        raise ValueError(f"A belief picture needs at least one image and a title for each, but got {counts}.")
    beliefs = belief_maps(model, processor, images)
    figure = new_figure(10, 3.2 * len(images) + (0.6 if caption else 0))
    if caption:
        figure.suptitle(textwrap.fill(drawable(caption), 110), fontsize=10, parse_math=False)
    grid = figure.subplots(len(images), 3, squeeze=False)
    for index, (image, belief, (left, middle, right)) in enumerate(zip(images, beliefs, grid, strict=True)):
        square = open_image(image).resize((384, 384), Image.Resampling.BICUBIC)  # the shape in which the model sees it
        show(left, square)
        left.set_title(wrap(titles[index], 44, 2), fontsize=9, parse_math=False)
        _draw_heat_map(middle, belief)
        show(right, belief_overlay(square, belief))
        pooled = f"pooled token {'kept' if belief.pooled_kept else 'filtered out'}, belief {belief.pooled_score:.2g}"
        right.set_title(f"{belief.kept.sum()} of {belief.kept.size} patches kept\n{pooled}", fontsize=9)
        for axes in (left, middle, right):
            _draw_boxes(axes, boxes[index] if boxes is not None else [])
    figure.savefig(path, dpi=110)
