"""Codes of vectors, for a search among the few thousand rows that a filter leaves.

One bit says on which side of a plane through the origin a vector lies; for planes drawn by lot, the share of bits in
which two vectors differ is their angle over pi (Charikar 2002, "Similarity estimation techniques from rounding
algorithms"). Planes at right angles to each other tell more: 768 such bits choose candidates, whose exact similarity is
computed then, as well as 2,048 of planes drawn one by one. A sentence is about as far from all images, so the best by
bits are sorted once more by how far the sentence itself, not its bits, lies from the planes.
"""

from functools import lru_cache

import numpy as np

NUM_BITS = 768  # with the index that makes just under a tenth of vectors of 512 values
CODE_BYTES = NUM_BITS // 8
SHORTLIST = 8  # times the wanted ones, that are chosen by bits alone
CHUNK = 4_096  # rows compared at once, so that what is in between stays in the processor's cache
_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)  # (256, 8)
_FIRST_GAIN = 256 * np.arange(CODE_BYTES, dtype=np.int32)


@lru_cache(maxsize=4)
def _planes(dim: int) -> np.ndarray:
    """(dim, NUM_BITS) float32: normals of planes, at right angles within every `dim` of them.

    Codes are stored, so these must stay the same ones: RandomState's numbers are frozen, a Generator's may change, and
    there is one decomposition with a positive diagonal.
    """
    drawn = np.random.RandomState(0).standard_normal((dim, NUM_BITS))
    blocks = []
    for start in range(0, NUM_BITS, dim):
        normals, factors = np.linalg.qr(drawn[:, start : start + dim])
        blocks.append(normals * np.sign(factors.diagonal()))
    return np.concatenate(blocks, axis=1).astype(np.float32)


def encode(vectors: np.ndarray) -> np.ndarray:
    """Codes of vectors.

    Args:
        vectors: (rows, dim) float32.

    Returns:
        (rows, CODE_BYTES) uint8.
    """
    parts = (vectors[start : start + CHUNK] for start in range(0, len(vectors), CHUNK))
    codes = [np.packbits(part @ _planes(vectors.shape[1]) > 0, axis=1) for part in parts]
    return np.concatenate([np.empty((0, CODE_BYTES), dtype=np.uint8), *codes])


def nearest_codes(codes: np.ndarray, places: np.ndarray, vector: np.ndarray, count: int) -> np.ndarray:
    """Which of some codes fit a vector best: by differing bits, the best of these by the vector's own distances.

    Args:
        codes: (rows, CODE_BYTES) uint8, contiguous.
        places: (candidates,) of the rows to compare.
        vector: (dim,) float32.
        count: wanted, fewer than the candidates.

    Returns:
        (count,) places, in no order.
    """
    # No matrix product for one vector: BLAS would share it among threads, whose start costs up to 8 ms on busy cores.
    distances = np.einsum("i,ij->j", vector, _planes(len(vector)))  # (NUM_BITS,) to the planes
    own = np.packbits(distances > 0).view(np.uint64)
    words = codes.view(np.uint64)  # (rows, CODE_BYTES / 8)
    differences = np.empty(len(places), dtype=np.uint16)
    for start in range(0, len(places), CHUNK):
        bits = np.bitwise_count(words.take(places[start : start + CHUNK], axis=0) ^ own)
        differences[start : start + CHUNK] = np.einsum("ij->i", bits, dtype=np.uint16)
    if len(places) > SHORTLIST * count:
        places = places[np.argpartition(differences, SHORTLIST * count)[: SHORTLIST * count]]
    # What each value of each byte of a code adds: (CODE_BYTES, 256), read instead of multiplying all bits.
    gains = np.einsum("pb,vb->pv", distances.reshape(CODE_BYTES, 8), _BITS_OF_BYTE)
    scores = gains.ravel().take(codes.take(places, axis=0) + _FIRST_GAIN).sum(axis=1)
    return places[np.argpartition(-scores, count)[:count]]
