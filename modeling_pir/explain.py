"""Pictures of what the model does: belief maps, retrieval galleries, training curves; and whether it looks at objects.

Pictures need matplotlib (`pip install "modeling-pir[train]"`); belief maps and overlays as such do not. Colours are
Okabe and Ito's and cividis, which colour-blind readers tell apart, and no picture says anything by colour alone.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .embed import batched
from .images import to_rgb
from .modeling_pir import PIRModel
from .processing_pir import PIRProcessor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = Sequence[float]  # left, top, right, bottom as shares of the image's width and height, 0 to 1

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"  # Okabe and Ito
LOG_SCALE_FROM = 100.0  # largest over smallest belief from which a heat map's colours are logarithmic
LOWEST_SHOWN = 1e-6  # of the largest belief: smaller ones get the darkest colour of a logarithmic heat map
MIN_OBJECT_SHARE = 0.25  # of a patch, see `object_patches`


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
        inputs = processor(images=[to_rgb(image) for image in batch], return_tensors="pt")
        features = model.get_image_features(inputs["pixel_values"].to(model.device, model.dtype))
        scores = features.belief_scores.float().cpu()  # (batch, 1 + patches)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, features.filtered_indices.cpu(), True)
        side = math.isqrt(scores.shape[1] - 1)
        if 1 + side * side != scores.shape[1]:
            raise ValueError(
                f"The vision tower gives {scores.shape[1] - 1} patches, which are no square grid: belief maps need a "
                "tower with as many rows of patches as columns."
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
    image = to_rgb(image)
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


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, apart from pyplot: no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'modeling-pir[train]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def _show(axes: "Axes", image: Image.Image, color: str = GREY, line_width: float = 0.5) -> None:
    """Draw an image without ticks, in a frame."""
    axes.imshow(to_rgb(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=line_width)


def _wrap(text: str, width: int, max_lines: int) -> str:
    return textwrap.fill(text, width, max_lines=max_lines, placeholder=" ...")


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
    figure = _new_figure(10, 3.2 * len(images) + (0.6 if caption else 0))
    if caption:
        figure.suptitle(textwrap.fill(caption, 110), fontsize=10, parse_math=False)
    grid = figure.subplots(len(images), 3, squeeze=False)
    for index, (image, belief, (left, middle, right)) in enumerate(zip(images, beliefs, grid, strict=True)):
        square = to_rgb(image).resize((384, 384), Image.Resampling.BICUBIC)  # the shape in which the model sees it
        _show(left, square)
        left.set_title(_wrap(titles[index], 44, 2), fontsize=9, parse_math=False)
        _draw_heat_map(middle, belief)
        _show(right, belief_overlay(square, belief))
        pooled = f"pooled token {'kept' if belief.pooled_kept else 'filtered out'}, belief {belief.pooled_score:.2g}"
        right.set_title(f"{belief.kept.sum()} of {belief.kept.size} patches kept\n{pooled}", fontsize=9)
        for axes in (left, middle, right):
            _draw_boxes(axes, boxes[index] if boxes is not None else [])
    figure.savefig(path, dpi=110)


def gallery_picture(
    queries: Sequence[str],
    images: Sequence[Image.Image],
    ranked: Sequence[Sequence[int]],
    similarities: Sequence[Sequence[float]],
    right: Sequence[Sequence[bool]],
    path: str | Path,
    notes: Sequence[str] | None = None,
    caption: str | None = None,
) -> None:
    """One row per query: its text and the images found for it, best first, right ones framed and ticked.

    Args:
        queries: texts.
        images: all images that `ranked` points into; only those are read.
        ranked: one list of image numbers per query, best first, equally long.
        similarities: the cosine similarity of each.
        right: whether each is right.
        path: of the picture, such as `gallery.png`.
        notes: a line below each query.
        caption: a sentence over the picture.

    Raises:
        ValueError: no queries, or lists of different lengths.
        ImportError: matplotlib is missing.
    """
    shape = np.shape(ranked)
    if len(shape) != 2 or not len(queries) == shape[0] > 0 or not shape == np.shape(similarities) == np.shape(right):
        raise ValueError(
            f"A gallery needs as many images, similarities and marks for each query, but got {len(queries)} queries "
            f"and lists of shape {shape}, {np.shape(similarities)} and {np.shape(right)}."
        )
    figure = _new_figure(2.7 + 1.9 * shape[1], 2.2 * len(queries) + (0.5 if caption else 0))
    if caption:
        figure.suptitle(textwrap.fill(caption, 130), fontsize=10, parse_math=False)
    widths = [1.35] + [1.0] * shape[1]
    grid = figure.subplots(len(queries), 1 + shape[1], squeeze=False, gridspec_kw={"width_ratios": widths})
    for row, (text_axes, *image_axes) in enumerate(grid):
        text_axes.axis("off")
        text_axes.set(xlim=(0, 1), ylim=(0, 1))
        text = _wrap(queries[row], 28, 6)
        text_axes.text(0, 0.95, text, va="top", fontsize=11, parse_math=False)
        if notes is not None:
            text_axes.text(0, 0.05, notes[row], va="bottom", fontsize=9, color="#444444", parse_math=False)
        for rank, axes in enumerate(image_axes):
            thumbnail = to_rgb(images[int(ranked[row][rank])]).resize((224, 224), Image.Resampling.BICUBIC)
            _draw_hit(axes, thumbnail, rank, float(similarities[row][rank]), bool(right[row][rank]))
    figure.savefig(path, dpi=110)


def _draw_hit(axes: "Axes", thumbnail: Image.Image, rank: int, similarity: float, is_right: bool) -> None:
    """One image of a gallery: framed thickly in blue and ticked where it is right."""
    _show(axes, thumbnail, BLUE if is_right else GREY, 5 if is_right else 0.5)
    axes.set_xlabel(f"{rank + 1}.   {similarity:.3f}", fontsize=9, fontweight="bold" if is_right else "normal")
    if is_right:
        badge = {"boxstyle": "circle,pad=0.25", "facecolor": BLUE, "edgecolor": "white", "linewidth": 1.5}
        axes.text(
            0.9, 0.9, "\N{CHECK MARK}", color="white", fontsize=12, ha="center", va="center", bbox=badge,
            transform=axes.transAxes,
        )  # fmt: skip


def retrieval_gallery(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    texts: Sequence[str],
    images: Sequence[Image.Image],
    text_to_image: torch.Tensor,
    path: str | Path,
    num_queries: int = 6,
    seed: int = 0,
    num_images: int = 5,
) -> None:
    """A [`gallery_picture`] of captions drawn at random, of different images, before any result is known.

    Args:
        image_embeds: (images, dim) unit norm.
        text_embeds: (texts, dim) unit norm.
        texts: the captions.
        images: the images; only those shown are read.
        text_to_image: (texts,) long, the image each caption describes: the only one that counts as right.
        path: of the picture.
        num_queries: rows, at most.
        seed: of the draw.
        num_images: columns, at most.

    Raises:
        ValueError: numbers of embeddings, texts and images that do not agree.
        ImportError: matplotlib is missing.
    """
    counts = (len(image_embeds), len(images), len(text_embeds), len(texts), len(text_to_image))
    if counts[0] != counts[1] or len(set(counts[2:])) != 1 or 0 in counts:
        raise ValueError(
            f"A gallery needs one row per image and per text, but got {counts[0]} image embeddings of {counts[1]} "
            f"images and {counts[2]} text embeddings of {counts[3]} texts with {counts[4]} entries in text_to_image."
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    text_of_image = {}  # the first text drawn of each image
    for text in order:
        text_of_image.setdefault(int(text_to_image[text]), text)
    chosen = list(text_of_image.values())[:num_queries]
    similarity = text_embeds[chosen].float() @ image_embeds.float().T  # (queries, images)
    best = similarity.topk(min(num_images, len(images)), dim=1)
    target = text_to_image[chosen][:, None]
    ranks = (similarity >= similarity.gather(1, target)).sum(dim=1)  # a tie counts against us
    gallery_picture(
        [texts[text] for text in chosen],
        images,
        best.indices.tolist(),
        best.values.tolist(),
        (best.indices == target).tolist(),
        path,
        [f"its image ranks {rank} of {len(images)}" for rank in ranks.tolist()],
        f"{len(chosen)} of {len(texts)} captions, drawn at random (seed {seed}), not chosen by result. Ticked: the "
        "image that the caption was written for.",
    )


def curves_picture(
    records: Sequence[dict[str, float | str]], path: str | Path, chance: dict[str, float] | None = None
) -> None:
    """Loss terms and learning rate against the step; validation recall against the epoch.

    Args:
        records: the lines of a run's metrics.jsonl: those of steps hold `step`, `loss`..., those of evaluations also
            `split` and the metrics (percent). Epochs count from 0 there, and from 1 in the picture.
        path: of the picture, such as `curves.png`.
        chance: metrics of a random ranking, percent; drawn as a line where `mR` is given.

    Raises:
        ValueError: no record of a step and none of an evaluation.
        ImportError: matplotlib is missing.
    """
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if record.get("split") == "validation"]
    if not steps and not evaluations:
        raise ValueError(
            f"None of the {len(records)} records has a loss or a validation metric: there is nothing to draw."
        )
    figure = _new_figure(11, 7)
    (losses, mean_recall), (rates, recalls) = figure.subplots(2, 2)
    for name, color in (("loss", "black"), ("contrastive_loss", BLUE), ("affiliation_loss", ORANGE)):
        _draw_line(losses, steps, "step", name, name.replace("_", " "), color=color)
    _draw_line(rates, steps, "step", "learning_rate", color="black")
    _draw_line(mean_recall, evaluations, "epoch", "mR", "validation mR", color=BLUE, marker="o", linewidth=2)
    if evaluations:
        best = max(evaluations, key=lambda record: record["mR"])
        place = (best["epoch"] + 1, best["mR"])
        mean_recall.plot(*place, marker="*", markersize=16, color=ORANGE, linestyle="none", zorder=3,
                         label=f"best: {best['mR']:.2f} after epoch {best['epoch'] + 1}")  # fmt: skip
    if chance is not None:
        mean_recall.axhline(chance["mR"], color=GREY, linestyle=":", label=f"chance: {chance['mR']:.2f}")
    for k, color, marker in ((1, PURPLE, "o"), (5, GREEN, "s"), (10, BLUE, "^")):
        for key, words, style in (("i2t", "image to text", "-"), ("t2i", "text to image", "--")):
            label = f"{words} R@{k}"
            _draw_line(
                recalls, evaluations, "epoch", f"{key}_R@{k}", label, color=color, marker=marker, linestyle=style
            )
    titles = ("training loss", "mean recall, percent", "learning rate", "validation recall, percent")
    for axes, title in zip((losses, mean_recall, rates, recalls), titles, strict=True):
        is_recall = axes in (mean_recall, recalls)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch" if is_recall else "step")
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
        if is_recall:
            axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)


def _draw_line(
    axes: "Axes", records: Sequence[dict], x_name: str, y_name: str, label: str | None = None, **style: object
) -> None:
    """One series; records without it are passed over, and a series of no record is not drawn."""
    points = [(record[x_name] + (x_name == "epoch"), record[y_name]) for record in records if y_name in record]
    if len(points) == 1:  # a line needs two
        style.setdefault("marker", "o")
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
