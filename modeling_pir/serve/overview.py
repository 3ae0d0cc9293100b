"""Overview of an archive: counts, scenes, dates, places, a sample of its images, sentences that fit it."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..index.questions.bank import bank_embeds, bank_sentences
from ..index.stores.columns import COLUMNS as INDEX_COLUMNS

if TYPE_CHECKING:
    from ..index.pir_index import PIRIndex

NUM_SAMPLES = 36  # images that are shown before a question is asked
NUM_EXAMPLES = 6
NUM_BEST = 3  # images by which an example sentence is judged
MAX_EXAMPLE = 34  # letters of an example sentence
MIN_LETTERS = 5  # of a word that two examples do not share
MAX_PLACES = 3000  # dots on the map; beyond, neighbours become one
MAX_CHOICES = 50  # values of a column that a filter offers
CELLS = (0.0, 0.01, 0.1, 0.5, 2.0, 10.0)  # degrees within which images are one dot
COLUMNS = ("id", "path", "scene", "sensor", "date", "minx", "miny", "maxx", "maxy")
Place = tuple[float, float, int]  # longitude, latitude, number of images


@dataclass(frozen=True)
class Overview:
    """What an archive holds.

    Attributes:
        num_rows: images and parts of scenes.
        num_files: that they come from.
        root: the folder that all of them lie in; empty if there is none.
        scenes: labels with the number of rows, the most frequent first.
        sensors: likewise.
        others: likewise, by column, for columns of text with few values that labels brought.
        dates: the first and the last; None if no row has one.
        num_placed: rows with a place on the ground.
        places: where they lie.
        sample: ids of rows, of as many scenes and files as there are.
        examples: sentences that the archive has an answer to.
    """

    num_rows: int
    num_files: int
    root: str
    scenes: list[tuple[str, int]]
    sensors: list[tuple[str, int]]
    others: dict[str, list[tuple[str, int]]]
    dates: tuple[str, str] | None
    num_placed: int
    places: list[Place]
    sample: list[str]
    examples: list[str]


def look_over(index: PIRIndex, seed: int = 0) -> Overview:
    """Look an archive over; about a second for each 100,000 rows.

    Args:
        index: with its model.
        seed: of the sample.
    """
    labels = [name for name, kind in index.store.columns.items() if kind is str and name not in INDEX_COLUMNS]
    rows = list(index.store.values((*COLUMNS, *labels)))
    paths = {index.store.full_path(row[1]) for row in rows}
    dates = sorted(row[4] for row in rows if row[4])
    placed = [row[5:9] for row in rows if None not in row[5:9]]
    return Overview(
        num_rows=len(rows),
        num_files=len(paths),
        root=common_folder(paths),
        scenes=Counter(row[2] for row in rows if row[2]).most_common(),
        sensors=Counter(row[3] for row in rows if row[3]).most_common(),
        others=choices(labels, [row[len(COLUMNS) :] for row in rows]),
        dates=(dates[0], dates[-1]) if dates else None,
        num_placed=len(placed),
        places=places(placed),
        sample=sample_ids(rows, seed),
        examples=fitting_examples(index),
    )


def choices(names: list[str], rows: list[tuple]) -> dict[str, list[tuple[str, int]]]:
    """How often each value of some columns is there; columns of more than `MAX_CHOICES` values are left out."""
    counts = {name: Counter(row[place] for row in rows if row[place]) for place, name in enumerate(names)}
    return {name: count.most_common() for name, count in counts.items() if 1 <= len(count) <= MAX_CHOICES}


def common_folder(paths: set[str]) -> str:
    """The folder that all files lie in; empty for none, as for images that have names only."""
    folders = {os.path.dirname(path) for path in paths}
    if not folders or not all(os.path.isabs(folder) for folder in folders):
        return ""
    return os.path.commonpath(folders)


def places(bounds: list[tuple[float, float, float, float]]) -> list[Place]:
    """Centres of bounds (west, south, east, north), neighbours put together until there are at most `MAX_PLACES`."""
    centers = [((w + (e - w) % 360 / 2 + 180) % 360 - 180, (s + n) / 2) for w, s, e, n in bounds]
    for cell in CELLS:
        if cell:
            keys = [(math.floor(x / cell), math.floor(y / cell)) for x, y in centers]
        else:
            keys = [(round(x, 4), round(y, 4)) for x, y in centers]
        groups: dict[tuple, list] = {}
        for key, center in zip(keys, centers, strict=True):
            groups.setdefault(key, []).append(center)
        if len(groups) <= MAX_PLACES:
            break
    return [(*(round(value, 5) for value in np.mean(group, axis=0).tolist()), len(group)) for group in groups.values()]


def sample_ids(rows: list[tuple], seed: int) -> list[str]:
    """Ids of rows at random, one of each scene and file before a second one of any."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    turns: Counter = Counter()
    ranked = []
    for position in order:
        row_id, path, scene = rows[position][:3]
        ranked.append((turns[scene or path], len(ranked), row_id))
        turns[scene or path] += 1
    return [row_id for *_, row_id in sorted(ranked)[:NUM_SAMPLES]]


def fitting_examples(index: PIRIndex) -> list[str]:
    """Sentences that some images of the archive stand out for, each for other images than the sentences before."""
    images = index.sample().vectors  # (rows, dim)
    if not len(images):
        return []
    similarity = bank_embeds(index.encoder, index.metadata["weights"]) @ images.T  # (sentences, rows)
    best = similarity.argsort(axis=1)[:, -NUM_BEST:]
    height = np.take_along_axis(similarity, best, axis=1).mean(axis=1)
    found: list[str] = []
    shown: set[int] = set()
    named: set[str] = set()
    for number in (-height).argsort().tolist():
        sentence = bank_sentences()[number]
        things = {word for word in sentence.split() if len(word) >= MIN_LETTERS}
        if len(sentence) > MAX_EXAMPLE or things & named or set(best[number].tolist()) & shown:
            continue
        found.append(sentence)
        shown |= set(best[number].tolist())
        named |= things
    return found[:NUM_EXAMPLES]
