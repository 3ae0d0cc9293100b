"""A query to an index, of one or several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Query:
    """What to look for. Parts that are given are combined; at least one of the first four has to be.

        Query("planes", without="a terminal")
        Query("with a pool", images=[image], area="delta.geojson")
        Query("a harbour", like=["3f2a91c0"], unlike=["77d0e1b4"])

    Attributes:
        sentences: one or several.
        images: of any mode.
        vectors: (dim,) each, of any length.
        like: rows that are right, each by its id, the beginning of its id, or its path; the search goes on towards
            them, and leaves them out.
        unlike: rows that are wrong, likewise.
        without: what is not to be seen, in words.
        combine: "mean" looks for what fits all sentences together, "each" for what fits any of them.
        image_weight: share of the images where there are sentences, too, 0 to 1.
        area: a GeoJSON object or file; only rows that touch its polygons.
        exclude: shell patterns of paths to leave out, such as "*/2019/*" or "*.png".
        group: "place" shows the best of overlapping chips and dates and counts the others; "none" shows all.
    """

    sentences: str | Sequence[str] = ()
    images: Sequence[Image.Image] = ()
    vectors: Sequence[np.ndarray] = ()
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    without: str | Sequence[str] = ()
    combine: Literal["mean", "each"] = "mean"
    image_weight: float = 0.6
    area: str | dict | None = None
    exclude: Sequence[str] = field(default=())
    group: Literal["place", "none"] = "none"

    def __post_init__(self) -> None:
        for name in ("sentences", "without", "like", "unlike", "exclude"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "vectors", tuple(self.vectors))
        self._check()

    def _check(self) -> None:
        """Refuse what cannot be asked."""
        if not (self.sentences or self.images or self.vectors or self.like):
            raise ValueError("The query is empty: give a sentence, an image, a vector, or a row that is right (like).")
        for text in (*self.sentences, *self.without):
            if not text.strip():
                raise ValueError(f"The query is empty ({text!r}): write a sentence.")
        both = sorted(set(self.like) & set(self.unlike))
        if both:
            raise ValueError(f"The row {both[0]} is named both as right and as wrong: take it out of one of them.")
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"The weight of the images is {self.image_weight}: it has to be between 0 and 1.")
        for name, allowed in (("combine", ("mean", "each")), ("group", ("place", "none"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it has to be one of {', '.join(allowed)}.")

    @property
    def is_by_words(self) -> bool:
        """Whether only sentences say what is looked for."""
        return bool(self.sentences) and not (self.images or self.vectors or self.like or self.unlike)


def as_query(query: str | Image.Image | torch.Tensor | np.ndarray | Query) -> Query:
    """A question of one part as one, or a question as it is.

    Args:
        query: a sentence, an image, a vector (dim,), or a question.
    """
    if isinstance(query, Query):
        return query
    if isinstance(query, str):
        return Query(query)
    return Query(images=(query,)) if isinstance(query, Image.Image) else Query(vectors=(query,))
