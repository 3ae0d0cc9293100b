"""Import vectors made elsewhere into an index, without embedding anything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from .archive.scan import Scan
from .embed_files import EmbeddedFile
from .exchange.vectors import VectorFile
from .rows import make_row
from .stores.columns import Row

if TYPE_CHECKING:
    from .pir_index import AddReport, PIRIndex


def import_vectors(index: PIRIndex, source: VectorFile) -> AddReport:
    """Put the rows of a file into an index; rows of the same images that are there already are replaced.

    Args:
        index: made by the model that made the vectors.
        source: of [`open_vectors`].

    Returns:
        What was done.

    Raises:
        ValueError: another model made them.
        OSError: the index cannot be written; earlier commits are kept.
    """
    own, given = index.metadata, source.description
    if given["weights"] != own["weights"] or given["dim"] != own["dim"]:
        raise ValueError(
            f"The vectors of {source.path} were made by {given['model_id'] or 'another model'} (weights "
            f"{str(given['weights'])[:8]}, {given['dim']} values), those of the index {index.path} by "
            f"{own['model_id'] or 'another one'} (weights {own['weights'][:8]}, {own['dim']} values), and vectors of "
            "two models cannot be compared: name another --index."
        )
    with index.writing():
        scan = Scan(changed=list(index.store.files()))
        return index.write(_files(source), scan)


def _files(source: VectorFile) -> Iterator[EmbeddedFile]:
    """The rows of a file, image by image.

    Raises:
        ValueError: rows of one image do not follow each other.
    """
    pairs = (pair for rows, vectors in source.parts() for pair in zip(map(_with_id, rows), vectors, strict=True))
    seen = set()
    for path, group in groupby(pairs, key=lambda pair: pair[0]["path"]):
        if path in seen:
            raise ValueError(f"The rows of {path} in {source.path} do not follow each other: sort the file by path.")
        seen.add(path)
        rows, vectors = zip(*group, strict=True)
        yield EmbeddedFile(path, list(rows), np.stack([_unit(vector) for vector in vectors]))


def _unit(vector: np.ndarray) -> np.ndarray:
    """A vector of unit norm; zero stays zero."""
    return vector / (np.linalg.norm(vector) or 1)


def _with_id(row: Row) -> Row:
    """A row with its id: the file's, or that of its path and window."""
    if row["id"] and len(row["id"]) == 32:
        return row
    window = tuple(row[name] for name in ("col_off", "row_off", "width", "height"))
    return row | {"id": make_row(row["path"], None if None in window else window)["id"]}
