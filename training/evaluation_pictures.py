"""Pictures of an evaluation: recall at k, confusion between scenes, a map of the embeddings, pairs of like images.

Galleries and belief maps are `modeling_pir.explain`'s. Colours are Okabe and Ito's and cividis; what a colour says, a
marker, a line style, a number or a label says, too.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from modeling_pir.explain import BLUE, GREEN, GREY, ORANGE, PURPLE

COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00", "black")  # Okabe and Ito without yellow, pale on white
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "^", "s", "D", "v")
MAX_POINTS = 2000  # of the map, drawn at random from more
MAP_SEED = 0
LABELLED_SHARE = 0.1  # cells of a confusion picture from which the percentage is written


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
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    for side, (axes, name) in enumerate(zip(figure.subplots(1, 2), ("image to text", "text to image"), strict=True)):
        for index, (model, of_model) in enumerate(ranks.items()):
            num_places = int(of_model[side].max()) + 1
            hits = torch.bincount(of_model[side], minlength=num_places).cumsum(0) / len(of_model[side])
            places = np.unique(np.geomspace(1, num_places, 200).astype(int))
            color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
            axes.plot(places, 100 * hits[places - 1], line, color=color, linewidth=2, label=model)
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
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.2 + 0.3 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    heat = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100)
    axes.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="taken for", ylabel="is")
    axes.set_xticklabels(names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False)
    axes.set_yticklabels(names, fontsize=8, parse_math=False)
    axes.set_title(textwrap.fill(title, 18 + 4 * len(names)), fontsize=10, parse_math=False)
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
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("The map of the embeddings needs scikit-learn: pip install 'modeling-pir[eval]'.") from error
    if len(image_embeds) < 5:
        raise ValueError(f"A map needs at least 5 images, but there are {len(image_embeds)}.")
    order = torch.randperm(len(image_embeds), generator=torch.Generator().manual_seed(MAP_SEED))[:MAX_POINTS]
    perplexity = min(30, (len(order) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=MAP_SEED)
    places = tsne.fit_transform(image_embeds[order].numpy())  # (points, 2)
    shown = np.array([scenes[index] or "" for index in order.tolist()])
    figure = Figure(figsize=(12, 9), layout="constrained")
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
    axes.set_title(f"{title}\n{note}", fontsize=10, parse_math=False)
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
    figure = Figure(figsize=(5.2 * len(values) + 2, 0.42 * len(settings) + 1.6), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (panel, of_setting) in zip(panels, values.items(), strict=True):
        for row, setting in enumerate(settings):
            color, of_seeds = COLORS[row % len(COLORS)], of_setting[setting]
            axes.plot(of_seeds, [row] * len(of_seeds), "o", color=color, alpha=0.8)
            axes.plot([np.mean(of_seeds)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2)
        axes.set(yticks=range(len(settings)), yticklabels=settings, xlabel=unit)
        axes.set_title(panel, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()  # shared: the first setting on top
    figure.savefig(path, dpi=110)


def _name_scene(axes: Axes, places: np.ndarray, name: str, color: str) -> None:
    """Write a scene's name at that of its images that is nearest to all others."""
    distances = np.linalg.norm(places[:, None] - places, axis=-1).sum(axis=1)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color, "alpha": 0.85, "linewidth": 0.8}
    axes.text(*places[distances.argmin()], name, fontsize=8, ha="center", va="center", bbox=box, parse_math=False)


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
    figure = Figure(figsize=(11.5, 3.2 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, 4, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for index, (pair, both, note) in enumerate(zip(images, names, notes, strict=True)):
        row, column = divmod(index, 2)
        for side in (0, 1):
            axes = grid[row, 2 * column + side]
            axes.imshow(pair[side].convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            label = textwrap.fill(both[side], 38) + (f"\n{textwrap.fill(note, 40)}" if side else "")
            axes.set_title(label, fontsize=8, parse_math=False)
    figure.savefig(path, dpi=100)
