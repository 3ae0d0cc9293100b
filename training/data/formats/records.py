"""From the records of a table to images: find the file of each record and join the records of one image."""

import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from training.data.formats.columns import (
    NAMES,
    SCENES,
    SPLITS,
    caption_columns,
    captions_of,
    find_column,
    is_empty,
    label_of,
)
from training.data.formats.tables import IMAGE_ENDS, Record


@dataclass
class CaptionedImage:
    """What the lines of one image say; `place` is that of the first."""

    place: str
    captions: list[str] = field(default_factory=list)
    scene: str | None = None
    split: str | None = None


class ImageFiles:
    """Finds the files that a table names.

    Args:
        root: folder that names start from.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_folded: defaultdict[str, list[Path]] = defaultdict(list)

    def find(self, name: str) -> Path | None:
        """The file: where the name says, or else the only one below the root with that name, or that name and an end.

        A file is looked for elsewhere only where the folder in front of its name is not there either, as in the paths
        of another computer: a file that is missing from its folder is not another folder's file of the same name.

        Raises:
            ValueError: several files below the root have the name.
        """
        for spelled in (name, name.replace("\\", "/")):
            if (self.root / spelled).is_file():
                return Path(os.path.normpath(self.root / spelled))
        folder, _, wanted = spelled.rpartition("/")
        if not self._by_name:
            self._list_images()
        found = self._by_name.get(wanted) or self._by_folded.get(_folded(wanted), [])
        if os.path.normpath(folder or ".") != "." and (self.root / folder).is_dir():
            found = [path for path in found if os.path.realpath(path.parent) == os.path.realpath(self.root / folder)]
        if len(found) > 1:
            raise ValueError(f"{name!r}, which {found[0]} and {found[1]} are called: write the folder before it")
        return found[0] if found else None

    def _list_images(self) -> None:
        for path in sorted(self.root.rglob("*")):
            if path.suffix.lower() in IMAGE_ENDS:
                for name in (path.name, path.stem):
                    self._by_name[name].append(path)
                    self._by_folded[_folded(name)].append(path)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON can name half of a surrogate pair alone."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _folded(name: str) -> str:
    """A file's name as Windows and macOS compare it: without capitals, accents composed."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_same_place(name: str, other: str) -> bool:
    """Whether two spellings of a path can mean one file: the folders of the shorter end those of the longer."""
    spelled = (PurePosixPath(os.path.normpath(own.replace("\\", "/"))).parent for own in (name, other))
    shorter, longer = sorted((folder.parts for folder in spelled), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def join_records(records: list[Record], table: Path, root: Path) -> dict[Path, CaptionedImage]:
    """The images of a table, in the order of their first line, with the captions of all their lines.

    Args:
        records: of the table.
        table: its path, for errors.
        root: folder that its file names start from.

    Raises:
        ValueError: a line without file, caption or image; lines of an image that contradict each other.
    """
    files, images, missing, spelled = ImageFiles(root), {}, [], {}
    for record in records:
        at = f"{str(table)!r}, {record.place},"
        name = _name_of(record, at)
        try:
            # Flickr's tables number the captions of an image: 1000.jpg#0
            file = files.find(name) or files.find(re.sub(r"#\d+$", "", name))
            cells = [record.values.get(column) for column in caption_columns(record.values)]
            captions = [text for cell in cells for text in captions_of(cell)]
        except ValueError as error:
            raise ValueError(f"{at} has {error}.") from error
        if file is None:
            missing.append((at, name))
            continue
        if not _is_same_place(name, before := spelled.setdefault(file, name)):
            raise ValueError(
                f"{at} names {name!r} and a line before it {before!r}, but only {str(file)!r} is there: copy the other "
                "image, too."
            )
        if broken := next((text for text in captions if isinstance(text, str) and not _is_unicode(text)), None):
            raise ValueError(f"{at} has half a character in its caption ({broken!r}): write it again.")
        empty = next((text for text in captions if not isinstance(text, str) or not text.strip()), None)
        if empty is not None or None in captions:
            raise ValueError(f"{at[:-1]}: the image {name!r} has an empty caption ({empty!r}): remove or fill it.")
        image = images.setdefault(file, CaptionedImage(record.place))
        image.captions += captions
        image.scene = _agreed(image.scene, _cell(record, SCENES), "scene", at, name)
        split = _cell(record, SPLITS)
        image.split = _agreed(image.split, split and split.lower(), "split", at, name)
    if missing:
        at, name = missing[0]
        raise ValueError(
            f"{at} names {name!r}, which does not exist in {str(root)!r} or below it ({len(missing)} such lines): copy "
            "the images there, or correct the names."
        )
    for file, image in images.items():
        if not image.captions:
            raise ValueError(
                f"{str(table)!r}, {image.place}: the image {file.name!r} has no caption: add one, or leave the image "
                "out."
            )
    _check_splits(images, table)
    return images


def _name_of(record: Record, at: str) -> str:
    """The image file that a record names, as a path."""
    name = record.values.get(find_column(record.values, NAMES))
    if isinstance(name, dict | list):
        raise ValueError(f"{at} names as its file {str(name)[:60]!r}: write one line for each image, with its name.")
    name = "" if is_empty(name) else str(name).strip()
    if not name:
        raise ValueError(f"{at} names no file: write the image's file name, or remove the line.")
    return unquote(name[len("file://") :]) if name.startswith("file://") else name


def _cell(record: Record, columns: tuple[str, ...]) -> str | None:
    return label_of(record.values.get(find_column(record.values, columns)))


def _agreed(before: str | None, now: str | None, what: str, at: str, name: str) -> str | None:
    """A value that all lines of an image give, or some and no other."""
    if before and now and before != now:
        raise ValueError(f"{at} gives {name!r} the {what} {now!r}, but a line before it {before!r}: keep one of them.")
    return before or now


def _check_splits(images: dict[Path, CaptionedImage], table: Path) -> None:
    without = [file for file, image in images.items() if image.split is None]
    if without and len(without) < len(images):
        raise ValueError(
            f"{str(table)!r} names a split for {len(images) - len(without)} of its {len(images)} images, and none for "
            f"{without[0].name!r}: name one for each, or for none."
        )


def names_of(files: list[Path], root: Path) -> list[str]:
    """What images are called: their paths from the root, or from the folder that holds all where one is elsewhere."""
    if any(not file.is_relative_to(root) for file in files):
        root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
        files = [Path(os.path.abspath(file)) for file in files]
    return [str(file.relative_to(root)) for file in files]
