"""Read captioned images from webdataset tars: members of the same name are one image and its captions."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from training.data.formats.columns import SCENES, caption_columns, captions_of, find_column, label_of
from training.data.formats.tables import IMAGE_ENDS
from training.data.formats.text_file import decode_text


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
                    if path.name.startswith("."):  # what macOS packs beside each file
                        continue
                    own_key = str(path.with_name(path.name.split(".")[0]))
                    end = path.name.partition(".")[2].lower()
                    if (own_key != key or end in parts) and parts:
                        yield from _rows(file, key, parts)
                        parts = {}
                    key = own_key
                    parts[end] = archive.extractfile(member).read()
                if parts:
                    yield from _rows(file, key, parts)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{file!r} is not a complete tar file ({error}): pack or copy it again.") from error


def _rows(file: str, key: str, parts: dict[str, bytes]) -> Iterator[dict]:
    """The rows of the members of one name: one, or where names hold more dots and have captions each, several.

    tile_1.5m.png, tile_1.5m.txt, tile_2.0m.png and tile_2.0m.txt are two images, although the name of an item ends at
    the first dot; a.png, a.mask.png and a.txt are one.
    """
    stems = {end.rpartition(".")[0] for end in parts if end.rpartition(".")[2] in ("txt", "json")}
    if len(stems) < 2 and "" in (stems or {""}):
        yield _row(file, key, parts)
        return
    for stem in dict.fromkeys(end.rpartition(".")[0] for end in parts):
        own = {end.rpartition(".")[2]: part for end, part in parts.items() if end.rpartition(".")[0] == stem}
        yield _row(file, f"{key}.{stem}" if stem else key, own)


def _row(file: str, key: str, parts: dict[str, bytes]) -> dict:
    """A row from the members of one name, by the ends of their names."""
    image = next((end for end in parts if f".{end.split('.')[-1]}" in IMAGE_ENDS), None)
    try:
        texts = {
            end: decode_text(parts[end], f"its .{end}") for end in ("json", "txt", "cls") if parts.get(end, b"").strip()
        }
        fields = json.loads(texts.get("json", "{}"))
        fields = fields if isinstance(fields, dict) else {"captions": fields}
        captions = [line.strip("\r") for line in texts.get("txt", "").split("\n") if line.strip()]
        captions = captions or [text for column in caption_columns(fields) for text in captions_of(fields[column])]
        scene = texts.get("cls", fields.get(find_column(fields, SCENES)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{key!r} in {file!r} has captions that cannot be read ({error}): pack it again.") from error
    name = f"{key}.{image}" if image else key
    content = None if image is None else {"bytes": parts[image], "path": name}
    return {"filename": name, "image": content, "captions": captions, "scene": label_of(scene)}
