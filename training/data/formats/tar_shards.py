"""Captioned images in tar files, as webdataset packs them: members of one name are one image and its captions."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from training.data.formats.columns import SCENES, caption_columns, captions_of, find_column, label_of
from training.data.formats.tables import IMAGE_ENDS


def tar_rows(files: list[str]) -> Iterator[dict]:
    """Rows of tar files, one after the other.

    Members of a name, such as a.jpg, a.txt and a.json, are one row. Captions are the lines of its .txt, or else the
    field of its .json; a scene is what its .cls or its .json says.

    Args:
        files: paths of tar files; members of one row lie side by side.

    Returns:
        Rows of `filename`, `image` ({"bytes", "path"}, None where there is none), `captions` and `scene`; undecoded.

    Raises:
        ValueError: a file that is no tar or is cut off, or captions that cannot be read; it is named.
    """
    for file in files:
        try:
            with tarfile.open(file, "r|*") as archive:
                key, parts = None, {}
                for member in archive:
                    if not member.isfile():
                        continue
                    path = PurePosixPath(member.name)
                    own_key = str(path.with_name(path.name.split(".")[0]))
                    if own_key != key and parts:
                        yield _row(file, key, parts)
                        parts = {}
                    key = own_key
                    parts[path.name.partition(".")[2].lower()] = archive.extractfile(member).read()
                if parts:
                    yield _row(file, key, parts)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{file!r} is no whole tar file ({error}): pack or copy it again.") from error


def _row(file: str, key: str, parts: dict[str, bytes]) -> dict:
    """A row from the members of one name, by the ends of their names."""
    image = next((end for end in parts if f".{end.split('.')[-1]}" in IMAGE_ENDS), None)
    try:
        fields = json.loads(parts["json"]) if "json" in parts else {}
        captions = [line for line in parts.get("txt", b"").decode("utf-8-sig").split("\n") if line.strip()]
        captions = captions or [text for column in caption_columns(fields) for text in captions_of(fields[column])]
        scene = parts["cls"].decode() if "cls" in parts else fields.get(find_column(fields, SCENES))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{key!r} in {file!r} has captions that cannot be read ({error}): pack it again.") from error
    name = f"{key}.{image}" if image else key
    content = None if image is None else {"bytes": parts[image], "path": name}
    captions = [caption.strip("\r") for caption in captions]
    return {"filename": name, "image": content, "captions": captions, "scene": label_of(scene)}
