"""Pictures of an evaluation: recall at k, confusion between scenes, a map of the embeddings, pairs of like images.

Belief maps are drawn by `modeling_pir.inference.belief`. Colours are Okabe and Ito's and cividis; what a colour says, a
marker, a line style, a number or a label says, too.
"""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.axes import Axes
from PIL import Image

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.errors import need
from modeling_pir.inference.belief import belief_picture
from modeling_pir.inference.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, drawable, new_figure, show, wrap
from modeling_pir.inference.images import open_image
from training.data.rows import decoded_images
from training.evaluation.metrics import chance_metrics
from training.evaluation.object_keeping import _with_boxes, describe_objects
from training.evaluation.split_embeddings import SplitEmbeddings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00", "black")  # Okabe and Ito without yellow, pale on white
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "^", "s", "D", "v")
MAX_POINTS = 2000  # of the map, drawn at random from more
MAP_SEED = 0
LABELLED_SHARE = 0.1  # cells of a confusion picture from which the percentage is written
NUM_BELIEF_IMAGES = 4
PICTURE_SEED = 0  # of the images and captions shown; the same for every run, so that runs can be compared


def recall_curves_picture(
    ranks: dict[str, tuple[torch.Tensor, torch.Tensor]],
    chance: tuple[dict[int, float], dict[int, float]],
    path: str | Path,
    title: str = "",
) -> None:
    """Recall at every k of one or more models, both ways, beside chance.

    Args:
        ranks: model to its image ranks (images,) and text ranks (texts,), 0 for the first place.
        chance: k to the recall of a random order, percent; image to text, and text to image.
        path: of the picture.
        title: over it.
    """
    figure = new_figure(11, 4.6)
    figure.suptitle(drawable(title), fontsize=11, parse_math=False)
    for side, (axes, name) in enumerate(zip(figure.subplots(1, 2), ("image to text", "text to image"), strict=True)):
        for index, (model, of_model) in enumerate(ranks.items()):
            num_places = int(of_model[side].max()) + 1
            hits = torch.bincount(of_model[side], minlength=num_places).cumsum(0) / len(of_model[side])
            places = np.unique(np.geomspace(1, num_places, 200).astype(int))
            color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
            axes.plot(places, 100 * hits[places - 1], line, color=color, linewidth=2, label=drawable(model))
            marks = [k for k in (1, 5, 10) if k <= num_places]
            axes.plot(marks, [100 * hits[k - 1] for k in marks], MARKERS[index % len(MARKERS)], color=color)
        axes.plot(list(chance[side]), list(chance[side].values()), ":", color=GREY, label="chance")
        axes.set(xscale="log", xlabel="k, answers looked at (marks: 1, 5, 10)", ylabel="recall at k, percent")
        axes.set(xlim=(1, None), ylim=(0, 102))
        axes.set_title(name, fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)


def confusion_picture(confusion: Sequence[Sequence[int]], names: Sequence[str], path: str | Path, title: str) -> None:
    """Which scene is taken for which: one row per true scene, shares of that row.

    Args:
        confusion: (names, names) counts, true scene by row.
        names: of the scenes.
        path: of the picture.
        title: over it.
    """
    names = [drawable(name) for name in names]
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.2 + 0.3 * len(names)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    heat = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="taken for", ylabel="is")
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False)
    axes.set_yticklabels(names, fontsize=8, parse_math=False)
    axes.set_title(textwrap.fill(drawable(title), 18 + 4 * len(names)), fontsize=10, parse_math=False)
    for row, column in zip(*np.nonzero(shares >= LABELLED_SHARE), strict=True):
        color = "black" if shares[row, column] > 0.5 else "white"
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(heat, ax=axes, fraction=0.04, pad=0.02, label="percent of the scene's images")
    figure.savefig(path, dpi=110)


def map_picture(image_embeds: torch.Tensor, scenes: Sequence[str | None], path: str | Path, title: str) -> None:
    """The images on a plane, near ones near (t-SNE of cosine distances), each scene in its marker and named.

    Args:
        image_embeds: (images, dim) unit norm, at least 5.
        scenes: of each image; None is drawn as a grey dot.
        path: of the picture.
        title: over it.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: fewer than 5 images.
    """
    manifold = need("sklearn.manifold", "eval", "The map of the embeddings needs scikit-learn, the package")
    if len(image_embeds) < 5:
        raise ValueError(f"A map needs at least 5 images, but there are {len(image_embeds)}.")
    order = torch.randperm(len(image_embeds), generator=torch.Generator().manual_seed(MAP_SEED))[:MAX_POINTS]
    perplexity = min(30, (len(order) - 1) / 3)
    tsne = manifold.TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=MAP_SEED)
    places = tsne.fit_transform(image_embeds[order].numpy())  # (points, 2)
    shown = np.array([scenes[index] or "" for index in order.tolist()])
    figure = new_figure(12, 9)
    axes = figure.subplots()
    for index, name in enumerate(sorted(set(shown))):
        of_scene = places[shown == name]
        color = COLORS[index % len(COLORS)] if name else GREY
        marker = MARKERS[index // len(COLORS) % len(MARKERS)] if name else "."
        label = name or "scene unknown"
        axes.scatter(*of_scene.T, s=22, c=color, marker=marker, alpha=0.75, linewidths=0, label=label)
        if name:
            _name_scene(axes, of_scene, name, color)
    axes.set(xticks=[], yticks=[])
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    note = f"{len(order)} of {len(image_embeds)} images; t-SNE, seed {MAP_SEED}: only nearness has a meaning"
    axes.set_title(drawable(f"{title}\n{note}"), fontsize=10, parse_math=False)
    figure.savefig(path, dpi=110)


def seeds_picture(values: dict[str, dict[str, list[float]]], path: str | Path, title: str, unit: str) -> None:
    """A metric of several settings, one mark for each seed and a bar at their mean: what differs by more than seeds do.

    Args:
        values: panel (such as a split) to setting to the value of each seed.
        path: of the picture.
        title: over it.
        unit: along the axis.
    """
    settings = list(next(iter(values.values())))
    figure = new_figure(5.2 * len(values) + 2, 0.42 * len(settings) + 1.6)
    figure.suptitle(drawable(title), fontsize=11, parse_math=False)
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (panel, of_setting) in zip(panels, values.items(), strict=True):
        for row, setting in enumerate(settings):
            color, of_seeds = COLORS[row % len(COLORS)], of_setting[setting]
            axes.plot(of_seeds, [row] * len(of_seeds), "o", color=color, alpha=0.8)
            axes.plot([np.mean(of_seeds)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2)
        axes.set(yticks=range(len(settings)), yticklabels=[drawable(setting) for setting in settings], xlabel=unit)
        axes.set_title(panel, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()  # shared: the first setting on top
    figure.savefig(path, dpi=110)


def _name_scene(axes: Axes, places: np.ndarray, name: str, color: str) -> None:
    """Write a scene's name at that of its images that is nearest to all others."""
    distances = np.linalg.norm(places[:, None] - places, axis=-1).sum(axis=1)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color, "alpha": 0.85, "linewidth": 0.8}
    place = places[distances.argmin()]
    axes.text(*place, drawable(name), fontsize=8, ha="center", va="center", bbox=box, parse_math=False)


def pairs_picture(
    images: Sequence[tuple[Image.Image, Image.Image]],
    names: Sequence[tuple[str, str]],
    notes: Sequence[str],
    path: str | Path,
) -> None:
    """Two pairs of images in a row, with their names, so that a reader judges whether they show one picture.

    Args:
        images: pairs.
        names: of the two images of each pair.
        notes: a line for each pair.
        path: of the picture.
    """
    num_rows = (len(images) + 1) // 2
    figure = new_figure(11.5, 3.2 * num_rows)
    grid = figure.subplots(num_rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for index, (pair, both, note) in enumerate(zip(images, names, notes, strict=True)):
        row, column = divmod(index, 2)
        for side in (0, 1):
            axes = grid[row, 2 * column + side]
            axes.imshow(pair[side].convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            label = textwrap.fill(drawable(both[side]), 38) + (f"\n{textwrap.fill(drawable(note), 40)}" if side else "")
            axes.set_title(label, fontsize=8, parse_math=False)
    figure.savefig(path, dpi=100)


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
    figure = new_figure(2.7 + 1.9 * shape[1], 2.2 * len(queries) + (0.5 if caption else 0))
    if caption:
        figure.suptitle(textwrap.fill(drawable(caption), 130), fontsize=10, parse_math=False)
    widths = [1.35] + [1.0] * shape[1]
    grid = figure.subplots(len(queries), 1 + shape[1], squeeze=False, gridspec_kw={"width_ratios": widths})
    for row, (text_axes, *image_axes) in enumerate(grid):
        text_axes.axis("off")
        text_axes.set(xlim=(0, 1), ylim=(0, 1))
        text = wrap(queries[row], 28, 6)
        text_axes.text(0, 0.95, text, va="top", fontsize=11, parse_math=False)
        if notes is not None:
            text_axes.text(0, 0.05, drawable(notes[row]), va="bottom", fontsize=9, color="#444444", parse_math=False)
        for rank, axes in enumerate(image_axes):
            thumbnail = open_image(images[int(ranked[row][rank])]).resize((224, 224), Image.Resampling.BICUBIC)
            _draw_hit(axes, thumbnail, rank, float(similarities[row][rank]), bool(right[row][rank]))
    figure.savefig(path, dpi=110)


def _draw_hit(axes: "Axes", thumbnail: Image.Image, rank: int, similarity: float, is_right: bool) -> None:
    """One image of a gallery: framed thickly in blue and ticked where it is right."""
    show(axes, thumbnail, BLUE if is_right else GREY, 5 if is_right else 0.5)
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
    figure = new_figure(11, 7)
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


def draw_pictures(
    folder: Path,
    model: PIRModel,
    processor: PIRProcessor,
    splits: dict[str, Dataset],
    embeddings: SplitEmbeddings,
    objects: dict[str, Any] | None,
) -> None:
    """Write curves.png, gallery.png and, with an instruction, belief.png into the run folder.

    Args:
        folder: of the run, with metrics.jsonl.
        model: the best one.
        processor: its processor.
        splits: name to rows.
        embeddings: of the test split.
        objects: of `object_keeping`, for the caption of belief.png.
    """
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    num_captions = torch.tensor([len(captions) for captions in splits["validation"]["captions"]])
    validation_chance = chance_metrics(torch.arange(len(num_captions)).repeat_interleave(num_captions))
    curves_picture(records, folder / "curves.png", validation_chance)
    rows = splits["test"]
    retrieval_gallery(
        embeddings.image_embeds,
        embeddings.text_embeds,
        embeddings.texts,
        rows["image"],
        embeddings.text_to_image,
        folder / "gallery.png",
        seed=PICTURE_SEED,
    )
    if model.config.has_instruction:
        shown = _with_boxes(rows) if objects else rows
        shown = shown.shuffle(seed=PICTURE_SEED).select(range(min(NUM_BELIEF_IMAGES, len(shown))))
        caption = f"{len(shown)} test images, drawn at random (seed {PICTURE_SEED}), not chosen by result."
        if objects:
            caption += " " + describe_objects(objects)
        titles = [captions[0] for captions in shown["captions"]]
        boxes = list(shown["boxes"]) if objects else None
        belief_picture(model, processor, list(decoded_images(shown)), titles, folder / "belief.png", boxes, caption)
