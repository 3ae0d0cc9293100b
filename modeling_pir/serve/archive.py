"""An index as the server needs it: searched by one thread at a time, rows by id, the fields that are shown."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..index.filters import filter_clause
from ..index.hit import Hit
from ..index.questions.query import Query
from ..index.stores.columns import quote
from ..inference.belief import belief_map
from ..inference.classify import rank_sentences
from ..inference.encoder import PIREncoder
from ..inference.occlusion import occlusion_map
from .overview import Overview, look_over
from .pictures import QUERY_SIZE, Cache, HitPictures, QueryPictures
from .questions import Question, Ranking, check_row_id

if TYPE_CHECKING:
    from PIL import Image

    from ..index.pir_index import PIRIndex
    from ..index.stores.columns import Row

NUM_ROWS = 50_000  # rows that are kept after a search, for their pictures
COUNTS = 0.5  # of the highest loss: from there on a covered piece is shown as one that matters
LOOK_AGAIN_SECONDS = 30.0  # after which an index is asked whether it has grown


@dataclass(frozen=True)
class Found:
    """What a question finds.

    Attributes:
        hits: the best first.
        total: rows that its filter leaves.
        doubts: why the hits may mean little, in sentences.
    """

    hits: list[Hit]
    total: int
    doubts: list[str]


class Archive:
    """An index that many ask at once.

    Args:
        index: with its model.
        show_paths: whether whole paths are told; else what follows the folder that all files lie in.
        name: what the archive is called; None takes that folder's.
    """

    def __init__(self, index: PIRIndex, show_paths: bool = False, name: str | None = None) -> None:
        self.index = index
        self.show_paths = show_paths
        self.pictures = HitPictures()
        self.queries = QueryPictures(index.cut_bands)
        self._name = name
        self._rows: Cache[Hit] = Cache(NUM_ROWS)
        self._lock = threading.Lock()  # of the model and the store
        self._overview: Overview = look_over(index)
        self._looked = time.monotonic()

    @property
    def name(self) -> str:
        """What the archive is called."""
        return self._name or os.path.basename(self._overview.root) or os.path.basename(self.index.path)

    @property
    def has_belief(self) -> bool:
        """Whether the model says what it looks at."""
        encoder = self.index.encoder
        return isinstance(encoder, PIREncoder) and encoder.model.config.has_instruction

    def overview(self) -> Overview:
        """What the archive holds, looked over again if rows have come or gone."""
        with self._lock:
            if time.monotonic() - self._looked > LOOK_AGAIN_SECONDS:
                self._looked = time.monotonic()
                if len(self.index) != self._overview.num_rows:
                    self._overview = look_over(self.index)
            return self._overview

    def search(self, question: Question) -> Found:
        """The hits of a question.

        Raises:
            ValueError: nothing is asked, or a filter or a picture that does not fit.
        """
        where = filter_of(question, self.index.store.columns)
        if not (question.text or question.picture or question.like):
            raise ValueError("There is nothing to search for: write a sentence, or choose an image.")
        query = Query(
            sentences=question.text or (),
            images=[self.queries.get(question.picture)] if question.picture else (),
            like=question.like,
            unlike=question.unlike,
            without=question.without or (),
            group=question.group,
        )
        with self._lock:
            found = Found(
                self.index.search(query, question.k, where), self.index.store.count(where), self.index.doubts(query)
            )
        for hit in found.hits:
            self._rows.put(hit.id, hit)
        return found

    def _row(self, row_id: str) -> Row:
        """A row by its id."""
        for rows, _ in self.index.store.rows(f"id = '{check_row_id(row_id)}'"):
            return rows[0]
        raise KeyError(row_id)

    def hit(self, row_id: str) -> Hit:
        """A row by its id.

        Raises:
            ValueError: an id that is none.
            KeyError: no such row.
        """
        found = self._rows.get(check_row_id(row_id))
        if found is None:
            with self._lock:
                found = Hit.from_row(self._row(row_id), float("nan"))
            self._rows.put(row_id, found)
        return found

    def hits(self, row_ids: Iterable[str]) -> list[Hit]:
        """Rows by their ids; those that are gone are left out."""
        found = []
        for row_id in row_ids:
            try:
                found.append(self.hit(row_id))
            except KeyError:
                continue
        return found

    def shown_path(self, path: str) -> str:
        """A path as it is told."""
        if self.show_paths or not os.path.isabs(path):
            return path
        root = self._overview.root
        inside = root and os.path.commonpath([root, path]) == root
        return Path(os.path.relpath(path, root)).as_posix() if inside else os.path.basename(path)

    def belief(self, hit: Hit) -> dict:
        """Which patches of a hit the model keeps, row by row.

        Raises:
            ValueError: the file is gone, or the model has no instruction.
        """
        from ..index.hit_pictures import hit_image

        if not self.has_belief:
            raise ValueError("This model has no belief map: only a PIR with an instruction tower has one.")
        image = hit_image(hit)
        with self._lock:
            belief = belief_map(self.index.encoder.model, self.index.encoder.processor, image)
        return {
            "kept": belief.kept.astype(int).tolist(),
            "scores": np.round(belief.grid, 5).tolist(),
            "num_kept": int(belief.kept.sum()),
            "num_patches": int(belief.kept.size),
        }

    def occlusion(self, hit: Hit, text: str) -> dict:
        """Because of which pieces of a hit it fits a sentence, row by row; for any model.

        Raises:
            ValueError: the file is gone, or the sentence is empty.
        """
        from ..index.hit_pictures import hit_image

        if not text.strip():
            raise ValueError("There is no sentence to compare the image with: write one.")
        image = hit_image(hit, QUERY_SIZE)
        with self._lock:
            query = self.index.encoder.embed_texts([text])[0].numpy()
            loss = occlusion_map(self.index.encoder, image, query)
        return {
            "loss": np.round(loss, 5).tolist(),
            "kept": (loss >= COUNTS * max(loss.max(), 1e-6)).astype(int).tolist(),
        }

    def rank(self, ranking: Ranking) -> list[tuple[int, float, str]]:
        """Sentences for a picture or a row, the best first.

        Raises:
            ValueError: no picture or no sentence.
        """
        image = self._picture_of(ranking)
        with self._lock:
            return rank_sentences(self.index.encoder, image, "\n".join(ranking.sentences))

    def _picture_of(self, ranking: Ranking) -> Image.Image:
        """What the sentences are ranked for."""
        from ..index.hit_pictures import hit_image

        if bool(ranking.picture) == bool(ranking.row):
            raise ValueError("Give either a picture or a row to rank the sentences for.")
        return self.queries.get(ranking.picture) if ranking.picture else hit_image(self.hit(ranking.row))


def filter_of(question: Question, columns: Mapping[str, type]) -> str | None:
    """SQL of a question's filters; None if there is none.

    Raises:
        ValueError: a column that the index does not have, or that is no text.
    """
    chosen = {"scene": list(question.scene), "sensor": list(question.sensor)}
    for pair in question.only:
        name, _, value = pair.partition("=")
        if columns.get(name) is not str or not value:
            texts = ", ".join(column for column, kind in columns.items() if kind is str)
            raise ValueError(f"{pair!r} is not COLUMN=VALUE with a column of text: this index has {texts}.")
        chosen.setdefault(name, []).append(value)
    clauses = [filter_clause(date_from=question.after, date_to=question.before, box=question.box)]
    clauses += [f"{name} IN ({', '.join(map(quote, values))})" for name, values in chosen.items() if values]
    return " AND ".join(f"({clause})" for clause in clauses if clause) or None
