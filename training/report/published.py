"""Published retrieval results, each with its source and what is known of its protocol.

`published.json` holds only figures that were read in a paper, a repository or a table; transcriptions by third parties
and figures from memory are left out. A `null` or "unknown" is said as such and never guessed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets import Dataset

from training.data.catalog import NAMES, known_dataset


@dataclass(frozen=True)
class PublishedResult:
    """A method's result on a benchmark's test split.

    Attributes:
        method: as its paper calls it.
        year: of publication, None where it was not noted.
        backbones: image / text tower.
        group: what the towers had seen before: images or text alone, image-text pairs (CLIP), or remote-sensing pairs.
        training_data: what was trained on.
        dataset: a name of `training.known`.
        recalls: the six recalls, percent; None where only mR is published.
        mR: mean recall, percent, as published.
        mR_sd: its standard deviation over runs, None where there is none.
        selection: split whose recall chose the checkpoint.
        runs: how many runs the figures are the mean of.
        notes: what else makes them differ from ours.
        source: where the figures were read.
    """

    method: str
    year: int | None
    backbones: str
    group: str
    training_data: str
    dataset: str
    recalls: dict[str, float] | None
    mR: float  # noqa: N815  the metric's name everywhere else
    mR_sd: float | None  # noqa: N815
    selection: Literal["test", "validation", "unknown"]
    runs: str
    notes: str | None
    source: str


def load_published(dataset: str) -> list[PublishedResult]:
    """Published results on a data set's test split.

    Args:
        dataset: a name of `training.known`.

    Returns:
        The results, lowest mR first; none for a data set nobody is known to have published on.

    Raises:
        ValueError: a name that is not known.
    """
    if dataset not in NAMES:
        raise ValueError(f"No published results are known of {dataset!r}: there are some of {', '.join(NAMES)}.")
    records = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    results = [PublishedResult(**record) for record in records]
    return sorted((result for result in results if result.dataset == dataset), key=lambda result: result.mR)


def benchmark_of(rows: Dataset) -> str | None:
    """The known data set whose published test split these rows are, image by image; None where they are no such split.

    Args:
        rows: with `filename`.

    Returns:
        A name of `training.known`. Published results are of that list of images and of no other.
    """
    stems = {Path(filename).stem for filename in rows["filename"]}
    return next((name for name in NAMES if stems == set(known_dataset(name).test)), None)
