"""Query vectors from the parts of a query: sums of unit vectors, whose cosine with a row ranks it.

The weights were chosen on RSICD's validation split with pir-mini-rsicd, the model shipped before; docs/search.md has
the figures.
"""

import numpy as np

WITHOUT_WEIGHT = 0.75  # of what is not to be seen
LIKE_WEIGHT = 4.0  # of the mean of the rows that are right, the question itself being 1 (Rocchio, 1971)
UNLIKE_WEIGHT = 2.0  # of the mean of the rows that are wrong


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale to length one.

    Args:
        vectors: (dim,) or (rows, dim).

    Raises:
        ValueError: a vector of length zero, or one that is not finite.
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 1e-12).all():
        raise ValueError("The parts of the query cancel out, or are not finite: ask in another way.")
    return (vectors / lengths).astype(np.float32)


def combine(texts: np.ndarray, images: np.ndarray, image_weight: float) -> np.ndarray:
    """One vector of sentences and images together.

    Args:
        texts: (sentences, dim) unit norm; may be empty.
        images: (images, dim) unit norm; may be empty.
        image_weight: share of the images, 0 to 1, where there are both.

    Returns:
        (dim,) unit norm.
    """
    if not len(texts):
        return unit(images.mean(axis=0))
    if not len(images):
        return unit(texts.mean(axis=0))
    return unit((1 - image_weight) * unit(texts.mean(axis=0)) + image_weight * unit(images.mean(axis=0)))


def leave_out(query: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """Turn a query away from what is not to be seen.

    Args:
        query: (dim,) unit norm.
        unwanted: (sentences, dim) unit norm; may be empty.
    """
    return unit(query - WITHOUT_WEIGHT * unwanted.mean(axis=0)) if len(unwanted) else query


def learn_from_marks(query: np.ndarray | None, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Move a query towards rows that were marked right, and away from those marked wrong (Rocchio).

    A ridge classifier on the marks was worse at every strength tried: with six marks it forgets the question.

    Args:
        query: (dim,) unit norm; None if the marks are all there is.
        right: (rows, dim) unit norm; may be empty.
        wrong: (rows, dim) unit norm; may be empty.

    Returns:
        (dim,) unit norm.
    """
    moved = np.zeros(right.shape[-1], dtype=np.float32) if query is None else query
    if len(right):
        moved = moved + LIKE_WEIGHT * right.mean(axis=0)
    if len(wrong):
        moved = moved - UNLIKE_WEIGHT * wrong.mean(axis=0)
    return unit(moved)
