"""Facts about the published data sets: location, splits, scenes. Lists of names, no data."""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

NAMES = ("rsicd", "rsitmd", "ucm")


@dataclass(frozen=True)
class KnownDataset:
    """What is published about a data set.

    Attributes:
        name: as its paper writes it.
        hub_id: where its images can be had with captions on the Hub; None where nowhere.
        paper: to be cited.
        licence: of images and captions.
        split_source: whose split `counts`, `validation` and `test` are.
        counts: images of each split.
        official_counts: images of each split as the authors of the data set publish it.
        scenes: names of the scenes.
        scene_source: how an image's scene is known.
        numbered_scenes: scene to the numbers of the files that are named by a number.
        validation: file names without suffix.
        test: file names without suffix. All others are for training.
    """

    name: str
    hub_id: str | None
    paper: str
    licence: str
    split_source: str
    counts: dict[str, int]
    official_counts: dict[str, int]
    scenes: list[str]
    scene_source: str
    numbered_scenes: dict[str, list[str]]
    validation: list[str]
    test: list[str]

    def split_of(self, filename: str) -> str:
        """The split of an image: "train", "validation" or "test"."""
        return self._split_of_stem.get(Path(filename).stem, "train")

    def scene_of(self, filename: str) -> str | None:
        """The scene of an image, or None where the name does not tell.

        The official code takes the name up to the underscore for all files, so that 689 numbered training images of
        RSICD become a class each.
        """
        stem = Path(filename).stem
        prefix = re.match(r"[A-Za-z]*", stem).group()
        return prefix if prefix in self.scenes else self._scene_of_number.get(stem)

    @functools.cached_property
    def _split_of_stem(self) -> dict[str, str]:
        return dict.fromkeys(self.validation, "validation") | dict.fromkeys(self.test, "test")

    @functools.cached_property
    def _scene_of_number(self) -> dict[str, str]:
        return {stem: scene for scene, stems in self.numbered_scenes.items() for stem in stems}


@functools.cache
def known_dataset(name: str) -> KnownDataset:
    """Read the facts of a data set.

    Args:
        name: one of `NAMES`.

    Returns:
        Its facts.

    Raises:
        ValueError: nothing is known by that name.
    """
    if name not in NAMES:
        raise ValueError(f"No facts are known of the data set {name!r}: the known ones are {', '.join(NAMES)}.")
    return KnownDataset(**json.loads((Path(__file__).parent / "facts" / f"{name}.json").read_text()))
