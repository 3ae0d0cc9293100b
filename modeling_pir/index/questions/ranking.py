"""Ranking of rows: hubness, relevance, and grouping by place."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..stores.columns import Row

HUBNESS_WEIGHT = 0.5  # of the offset in the ranking; both chosen on RSICD's validation split
HUBNESS_SHARPNESS = 0.5  # of the softmax over the bank, as a share of the model's own logit scale
MIN_SHARED = 0.1  # of the smaller of two windows, from which on they show the same place; corners of chips share 6 %
CHANCE_QUANTILE = 0.01  # of the best relevance that sentences of the bank find; below, a query finds nothing

Box = tuple[float, float, float, float]


def hubness(embeddings: np.ndarray, bank: np.ndarray, logit_scale: float) -> np.ndarray:
    """How near rows are to any sentence at all: the soft maximum of their similarities to a bank of sentences.

    Inverted softmax (Smith et al., 2017), with a bank in the place of the other queries: a row that is near to
    everything is found by everything.

    Args:
        embeddings: (rows, dim) unit norm.
        bank: (sentences, dim) unit norm.
        logit_scale: that the model multiplies cosines with.

    Returns:
        (rows,) float32, in units of cosine.
    """
    sharpness = HUBNESS_SHARPNESS * logit_scale
    scores = sharpness * (embeddings @ bank.T)  # (rows, sentences)
    highest = scores.max(axis=1, keepdims=True)
    means = np.log(np.exp(scores - highest).mean(axis=1)) + highest[:, 0]
    return (means / sharpness).astype(np.float32)


class Sample(NamedTuple):
    """Rows of an archive at random: what any query gets from it at large.

    Attributes:
        vectors: (rows, dim) unit norm.
        hubness: of the rows, see [`hubness`]; None for those whose hubness is not known.
    """

    vectors: np.ndarray
    hubness: list[float | None]


def corrected(similarity: np.ndarray, offsets: Sequence[float]) -> np.ndarray:
    """Similarities less a share of the rows' hubness.

    Args:
        similarity: (rows,) cosine.
        offsets: of the rows, see [`hubness`].
    """
    return similarity - HUBNESS_WEIGHT * np.asarray(offsets, dtype=np.float64)


def relevance(scores: np.ndarray, at_large: np.ndarray) -> np.ndarray:
    """How far scores stand above what the query gets from the archive at large, in standard deviations.

    Args:
        scores: (rows,) that the rows are ranked by: cosine, or corrected for hubness.
        at_large: (rows,) the same scores of rows at random, see [`Sample`].

    Returns:
        (rows,); NaN where those at random do not vary.
    """
    spread = at_large.std() if len(at_large) > 1 else 0.0
    return (scores - at_large.mean()) / spread if spread > 1e-9 else np.full(len(scores), np.nan)


def prominence(queries: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """How far the best row for each query stands out, in standard deviations: (queries,).

    Args:
        queries: (queries, dim) unit norm.
        sample: (rows, dim) of the archive, at random, unit norm.
    """
    scores = queries @ sample.T  # (queries, rows)
    return (scores.max(axis=1) - scores.mean(axis=1)) / np.maximum(scores.std(axis=1), 1e-9)


def chance_level(sample: np.ndarray, bank: np.ndarray) -> float:
    """The prominence below which a query finds nothing: that of nearly all sentences of a bank is higher.

    Args:
        sample: (rows, dim) of the archive, at random, unit norm.
        bank: (sentences, dim) unit norm, of all kinds of content.
    """
    return float(np.quantile(prominence(bank, sample), CHANCE_QUANTILE))


def group_by_place(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """The best row of each place, and how many others show it.

    Two rows show one place if their boxes on the ground share more than `MIN_SHARED` of the smaller; without a place
    on the ground, if their windows of one file do.

    Args:
        rows: best first.

    Returns:
        (position, number of others), best first.
    """
    kept: list[tuple[str | None, list[Box]]] = []  # what each place is compared by
    places: list[list[int]] = []
    for position, row in enumerate(rows):
        frame, boxes = _boxes(row)
        same = (number for number, other in enumerate(kept) if other[0] == frame and _share(other[1], boxes))
        number = next(same, None)
        if number is None:
            kept.append((frame, boxes))
            places.append([position, 0])
        else:
            places[number][1] += 1
    return [(position, count) for position, count in places]


def _boxes(row: Row) -> tuple[str | None, list[Box]]:
    """What a row covers: None and degrees, in two halves across the antimeridian; else its file and pixels."""
    west, south, east, north = (row[name] for name in ("minx", "miny", "maxx", "maxy"))
    if west is not None:
        is_whole = west <= east
        return None, [(west, south, east, north)] if is_whole else [
            (west, south, 180, north),
            (-180, south, east, north),
        ]
    left, top, width, height = (row[name] for name in ("col_off", "row_off", "width", "height"))
    return row["path"], [] if width is None else [(left, top, left + width, top + height)]


def _share(first: Sequence[Box], second: Sequence[Box]) -> bool:
    """Whether two sets of boxes share enough to be one place."""
    shared = sum(
        _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))) for a in first for b in second
    )
    return shared > MIN_SHARED * min(sum(map(_area, first)), sum(map(_area, second)))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
