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
    """What to look for in a [`PIRIndex`]. All given parts are combined; sentences, images, vectors or `like` is needed.

    Attributes:
        sentences: one or several.
        images: PIL images of any mode.
        vectors: (dim,) each, of any norm.
        like: relevant rows, each by its id, the beginning of its id, or its path; the query moves towards them, and
            they are left out of the hits.
        unlike: wrong rows, named in the same way; the query moves away from them.
        without: sentences that describe what the images should not show.
        combine: "mean" searches for what fits all sentences together, "each" for what fits any of them.
        image_weight: weight of the images relative to the sentences, 0 to 1.
        area: a GeoJSON object or file; only rows that intersect its polygons.
        exclude: shell patterns of paths to leave out, such as "*/2019/*" or "*.png".
        group: "place" shows the best of overlapping chips and dates and counts the others; "none" shows all.

    Raises:
        ValueError: an empty query, a row that is both relevant and wrong, or a value out of range.

    Example:
    ```python
    >>> from modeling_pir import Query

    >>> query = Query("planes", without="a terminal")
    >>> query = Query("with a pool", images=[image], image_weight=0.6, exclude="*/2019/*")
    >>> query = Query("a harbour", like=["3f2a91c0"], unlike=["77d0e1b4"], group="place")
    ```
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
        """Reject an invalid query."""
        if not (self.sentences or self.images or self.vectors or self.like):
            raise ValueError("The query is empty: give a sentence, an image, a vector, or a relevant row (like).")
        for text in (*self.sentences, *self.without):
            if not text.strip():
                raise ValueError(f"The query is empty ({text!r}): write a sentence.")
        both = sorted(set(self.like) & set(self.unlike))
        if both:
            raise ValueError(f"The row {both[0]} is given as both relevant and wrong: remove it from one of them.")
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"image_weight is {self.image_weight}, but it has to be between 0 and 1.")
        for name, allowed in (("combine", ("mean", "each")), ("group", ("place", "none"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but it has to be one of {', '.join(allowed)}.")

    @property
    def is_by_words(self) -> bool:
        """Whether the query consists of sentences only."""
        return bool(self.sentences) and not (self.images or self.vectors or self.like or self.unlike)


def as_query(query: str | Image.Image | torch.Tensor | np.ndarray | Query) -> Query:
    """Turn a sentence, an image or a vector into a query; a [`Query`] is returned unchanged.

    Args:
        query: a sentence, an image, a vector (dim,), or a query.
    """
    if isinstance(query, Query):
        return query
    if isinstance(query, str):
        return Query(query)
    return Query(images=(query,)) if isinstance(query, Image.Image) else Query(vectors=(query,))
