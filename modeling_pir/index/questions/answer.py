"""Answer a query: find rows by their vectors, filter, rank and group them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..stores.columns import Row, in_files
from .area import Area, is_excluded
from .query import Query
from .ranking import Sample, corrected, group_by_place, relevance
from .vectors import combine, learn_from_marks, leave_out, unit

if TYPE_CHECKING:
    from ..stores.lance_store import LanceStore
    from ..stores.sqlite_store import ExactStore

CANDIDATES, CANDIDATES_PER_HIT = 100, 10  # at least, and for each hit, where the vectors do not have the last word
GROWTH = 4  # of the candidates, where too few of them are left


@dataclass(frozen=True)
class Answer:
    """A row that answers a question.

    Attributes:
        row: of the index.
        similarity: cosine with the query.
        relevance: see [`ranking.relevance`]; None where the archive does not vary.
        others: rows of the same place that it stands for.
    """

    row: Row
    similarity: float
    relevance: float | None
    others: int = 0


def find_rows(store: LanceStore | ExactStore, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Vectors of rows by their ids.

    Args:
        store: rows and vectors.
        names: each an id, the beginning of one (four digits or more), or the path of a file, which stands for all its
            rows.

    Raises:
        ValueError: a name of no row, or the beginning of several ids.
    """
    found: dict[str, np.ndarray] = {}
    for name in names:
        paths = list(dict.fromkeys((name, store.stored_path(os.path.abspath(name)))))
        is_id = re.fullmatch("[0-9a-f]{4,32}", name) is not None
        clauses = [f"id LIKE '{name}%'"] if is_id else []
        rows = [pair for clause in (*clauses, in_files(paths)) for pair in _pairs(store, clause)]
        if not rows:
            raise ValueError(
                f"The index has no row {name!r}: give an id as pir search prints it, or the path of a file."
            )
        if is_id and len({row["id"] for row, _ in rows}) > 1:
            raise ValueError(f"{len(rows)} rows begin with {name!r}: give more digits of the id.")
        found |= {row["id"]: vector for row, vector in rows}
    return found


def _pairs(store: LanceStore | ExactStore, where: str) -> list[tuple[Row, np.ndarray]]:
    """Rows with their vectors."""
    return [pair for rows, vectors in store.rows(where) for pair in zip(rows, vectors, strict=True)]


def check_marks(right: Mapping[str, np.ndarray], wrong: Mapping[str, np.ndarray]) -> None:
    """Refuse rows that are marked both ways under different names.

    Raises:
        ValueError: there is one.
    """
    both = sorted(set(right) & set(wrong))
    if both:
        raise ValueError(f"The row {both[0]} is given as both relevant and wrong: remove it from one of them.")


def query_vectors(
    query: Query, sentences: np.ndarray, without: np.ndarray, images: np.ndarray, right: np.ndarray, wrong: np.ndarray
) -> np.ndarray:
    """What a question is in the space of the rows.

    Args:
        query: the question.
        sentences: (sentences, dim) unit norm, as are all of the following, each of which may be empty.
        without: (sentences, dim), what is not to be seen.
        images: (images, dim), with the question's vectors among them.
        right: (rows, dim), marked as right.
        wrong: (rows, dim), marked as wrong.

    Returns:
        (vectors, dim) unit norm: one, or one for each sentence.
    """
    if query.combine == "each" and len(sentences):
        starts = [combine(sentence[None], images, query.image_weight) for sentence in sentences]
    elif len(sentences) or len(images):
        starts = [combine(sentences, images, query.image_weight)]
    else:
        starts = [None]
    if len(right) or len(wrong):
        starts = [learn_from_marks(start, right, wrong) for start in starts]
    return np.stack([leave_out(start, without) for start in starts])


def answer(
    store: LanceStore | ExactStore,
    query: Query,
    vectors: np.ndarray,
    marked: frozenset[str],
    sample: Sample,
    k: int,
    where: str | None,
    exact: bool,
) -> list[Answer]:
    """Find the rows that answer a question best.

    Args:
        store: rows and vectors.
        query: the question.
        vectors: of the question, see [`query_vectors`].
        marked: ids of rows that were judged already and are left out.
        sample: of the archive.
        k: answers at most.
        where: SQL filter.
        exact: compare all vectors even where there is an approximate index.

    Returns:
        Answers, the best first.

    Raises:
        ValueError: a filter or an area that cannot be understood.
        ImportError: an area, and shapely is missing.
    """
    area = None if query.area is None else Area(query.area)
    if area is not None:
        where = area.clause if where is None else f"({where}\n) AND {area.clause}"
    is_reordered = query.is_by_words or len(vectors) > 1 or query.group == "place"
    is_sifted = bool(marked or query.exclude or area is not None)
    count = max(CANDIDATES, CANDIDATES_PER_HIT * k) if is_reordered or is_sifted else k
    while True:
        found = [store.nearest(vector, count, where, exact) for vector in vectors]
        ranked = _ranked(found, vectors, sample, query.is_by_words)
        kept = [
            one
            for one in ranked
            if one.row["id"] not in marked
            and not is_excluded(one.row["path"], query.exclude)
            and (area is None or area.touches(one.row["footprint"]))
        ]
        if query.group == "place":
            places = group_by_place([one.row for one in kept])
            kept = [
                Answer(kept[place].row, kept[place].similarity, kept[place].relevance, num) for place, num in places
            ]
        if len(kept) >= k or all(len(part) < count for part in found):
            return kept[:k]
        count *= GROWTH


def _ranked(
    found: Sequence[Sequence[tuple[Row, float]]], vectors: np.ndarray, sample: Sample, is_by_words: bool
) -> list[Answer]:
    """What the vectors found, each row once, the best first.

    Of one vector the cosine decides, less the rows' hubness where words were asked for and it is known; of several the
    relevance does, since the scores of one sentence are higher throughout than those of another.
    """
    offsets = [row["hubness"] for pairs in found for row, _ in pairs] + sample.hubness
    is_corrected = is_by_words and None not in offsets
    best: dict[str, tuple[float, Answer]] = {}
    for pairs, vector in zip(found, vectors, strict=True):
        scores = np.array([value for _, value in pairs], dtype=np.float64)
        at_large = sample.vectors @ vector
        if is_corrected:
            scores = corrected(scores, [row["hubness"] for row, _ in pairs])
            at_large = corrected(at_large, sample.hubness)
        above = relevance(scores, at_large)
        for (row, value), score, standing in zip(pairs, above if len(vectors) > 1 else scores, above, strict=True):
            if row["id"] not in best or score > best[row["id"]][0]:
                best[row["id"]] = score, Answer(row, value, None if np.isnan(standing) else float(standing))
    order = sorted(best.values(), key=lambda pair: -pair[0])
    return [one for _, one in order]


def unit_vector(vector: object, dim: int) -> np.ndarray:
    """A query vector that a user gave, (dim,) float32, unit norm.

    Args:
        vector: an array or a tensor of any length.
        dim: of the index.

    Raises:
        ValueError: of another size, zero, or not finite.
    """
    values = vector.detach().float().cpu().numpy() if hasattr(vector, "detach") else np.asarray(vector)
    values = values.astype(np.float32).reshape(-1)
    norm = float(np.linalg.norm(values))
    if values.size != dim or not np.isfinite(norm) or norm == 0:
        raise ValueError(
            f"The query has {values.size} values and norm {norm:.3g}: it has to be one vector of {dim} finite values, "
            "not all of them zero."
        )
    return unit(values)
