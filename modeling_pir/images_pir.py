# Copyright 2026 The PIR package authors.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
"""Open images of any mode as 8-bit RGB, with an error that says what is wrong with an unreadable one."""

import io
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # beyond this a file is taken for a decompression bomb; a scene of that size is cut into chips
# Of the formats that Pillow knows those in which images are kept, each decoded by Pillow from the file alone. EPS would
# start Ghostscript, WMF asks Windows, and most of the rest are rarely used and rarely looked at for faults.
FORMATS = (
    "JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM", "DIB", "TGA", "PCX", "SGI", "DDS", "QOI",
)  # fmt: skip
SUBFORMATS = ("MPO",)  # that open as one of these: several JPEGs in a file, as some cameras write
ORIENTATION = 0x0112  # the EXIF tag; how a stored image has to be turned for each of its values
BITS_PER_SAMPLE = 0x0102  # the TIFF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ENTRIES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # what a PNG holds beside its pixels and may be of any length
OTHER_BYTE_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
COLORS = (1, 3, 4)  # of an array: grey, RGB, RGB and opacity
STRETCHED_ROWS = 256  # rows in float64 at a time


class UnreadableImageError(ValueError):
    """A file that is no image, or one that cannot be decoded; the message names it and says what to do."""


class _WithoutWarnings:
    """Silence Pillow while any thread opens an image.

    It warns of EXIF that is cut short, without the file's name, and of sizes below those that are refused here.
    One for all threads, because Python's filters are, too: threads that restored them in turn would leave them changed.
    """

    def __init__(self) -> None:
        self.lock, self.num_inside = threading.Lock(), 0
        self.filters: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.num_inside:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            self.num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.num_inside -= 1
            if not self.num_inside:
                self.filters.__exit__(None, None, None)


_without_warnings = _WithoutWarnings()


def open_image(
    source: str | Path | bytes | Image.Image, name: str | None = None, enough_pixels: int | None = None
) -> Image.Image:
    """Open and fully decode an image, as every part of this project does.

    Turned upright where the camera noted how it was held (EXIF orientation). Greyscale is repeated, a palette looked
    up, CMYK converted, transparency laid over black (what nodata is in most overhead imagery). Values of 16 bits, 32
    bits and floats are stretched from the image's own minimum and maximum to 0-255, all colours by the same factor:
    PIL's own conversion clips grey ones to white and keeps of colour the high byte, so that reflectances turn black.

    Only files of `FORMATS` are opened: of what kind a file is its content says, whatever its name.

    Args:
        source: a path, the bytes of a file, or an image that is already open. One of 16-bit colour that PIL has
            decoded has lost half of its bits: give its path.
        name: what errors call it; the path where there is one.
        enough_pixels: a width and height that suffice. A JPEG is decoded at a half, a quarter or an eighth of its
            size as long as both sides keep that many pixels, in a fraction of the memory. For thumbnails: the pixels
            are not those that the model is given otherwise.

    Returns:
        8-bit RGB, decoded; the image itself where it is that already.

    Raises:
        UnreadableImageError: (a ValueError) no image, one of another format, truncated, empty, missing, or more than
            `MAX_PIXELS` pixels.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "image")
    try:
        with _without_warnings:
            return _decode(source, name, enough_pixels)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            f"{name} is refused as a decompression bomb ({error}): cut it into smaller images."
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{name} is not a readable image, such as a JPEG, PNG or TIFF: remove it or replace it."
        ) from error
    except Exception as error:  # a decoder raises anything on a broken file: IndexError, struct.error, zlib.error ...
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(f"{name} cannot be read ({reason}): remove it or replace it.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an open image of any mode to 8-bit RGB of the same size, as [`open_image`] does, but without a turn."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        transparent = image.info.get("transparency")
        hidden = np.zeros(values.shape, bool) if transparent is None else values == transparent
        return Image.fromarray(_stretch(values, hidden)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def array_to_rgb(values: np.ndarray) -> Image.Image:
    """Values as 8-bit RGB, with the pixels that [`open_image`] gives of a file that holds them.

    Args:
        values: (height, width), or with 1, 3 or 4 colours last or first, the fourth for opacity. 8 bits as they are,
            fractions from 0 to 1 times 255, wider integers stretched from their lowest to their highest.

    Raises:
        ValueError: another shape, or numbers of which nobody can say what white is.
    """
    shape = tuple(values.shape)
    if values.ndim == 3 and shape[-1] not in COLORS and shape[0] in COLORS:
        values = np.moveaxis(values, 0, -1)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[-1] not in COLORS or not values.size:
        raise ValueError(
            f"An image is an array of the shape {shape}: give (height, width), or 1, 3 or 4 colours last or first."
        )
    if values.dtype.kind == "b":
        values = values * np.uint8(255)
    elif values.dtype.kind == "f":
        values = _fractions_to_8_bits(values)
    elif values.dtype.itemsize > 2 and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8)  # 8 bits in a type that holds more, such as a tensor's int64
    if values.dtype == np.uint8:
        return to_rgb(Image.fromarray(values if values.shape[-1] > 1 else values[..., 0]))
    return _stretch_colors(values if values.shape[-1] > 1 else np.repeat(values, 3, axis=-1), None)


def _fractions_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1, or whole ones from 0 to 255, as uint8."""
    lowest, highest = values.min(), values.max()
    is_whole = 0 <= lowest and highest <= 255 and (values == values.round()).all()
    if not (is_whole or 0 <= lowest <= highest <= 1):  # NaN is neither
        raise ValueError(
            f"An image is an array of {values.dtype} from {lowest} to {highest}: give 8 or 16 bits, or fractions from "
            "0 to 1."
        )
    return (values.astype(np.float64) * (255 if highest <= 1 else 1)).round().astype(np.uint8)


def _decode(source: str | Path | bytes | Image.Image, name: str, enough_pixels: int | None) -> Image.Image:
    """[`open_image`], with whatever exception a decoder raises."""
    if isinstance(source, Image.Image):
        return _upright_rgb(source, name)
    try:
        return _upright_rgb(identify_image(source), name, enough_pixels)
    except Exception:
        # Pillow refuses a PNG for the length of its texts, on which no pixel depends: editors keep histories there.
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        bare = _without_notes(content)
        if bare == content:
            raise
    return _upright_rgb(identify_image(bare), name, enough_pixels)


def identify_image(source: str | Path | bytes) -> Image.Image:
    """Open an image of one of `FORMATS` by its header; it is not decoded yet.

    Args:
        source: a path or the bytes of a file.

    Raises:
        PIL.UnidentifiedImageError: no image, or one of another format.
    """
    Image.init()  # registers the formats; which of them there are depends on how Pillow was built
    with _without_warnings:
        formats = [name for name in FORMATS if name in Image.OPEN]
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _without_notes(png: bytes) -> bytes:
    """A PNG file without its texts and colour profile; other files as they are."""
    if not png.startswith(PNG_SIGNATURE):
        return png
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start < len(png):  # a chunk: the length of its content, 4 letters, the content, a checksum
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] not in PNG_NOTES:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _upright_rgb(image: Image.Image, name: str, enough_pixels: int | None = None) -> Image.Image:
    """Decode an image, which is where a broken one raises, and turn it."""
    if image.format not in (None, *FORMATS, *SUBFORMATS):  # opened elsewhere, and perhaps not decoded yet
        raise UnidentifiedImageError(f"{name} is of the format {image.format}")
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{name} has {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are opened at once: "
            "cut it into smaller images."
        )
    if enough_pixels is not None:
        image.draft(None, (enough_pixels, enough_pixels))
    wide_colors = _read_16_bits(image)
    image.load()
    rgb = to_rgb(image) if wide_colors is None else _stretch_colors(wide_colors, image.info.get("transparency"))
    if (turn := TURNS.get(_orientation(image))) is not None:
        rgb = rgb.transpose(turn)
        for entry in EXIF_ENTRIES:  # else whoever opens the result turns it once more
            rgb.info.pop(entry, None)
    return rgb


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation of a decoded image; 1 where there is none or the EXIF cannot be read.

    Pillow's own `exif_transpose` writes the EXIF anew, which fails on tags of a wrong type that cameras write.
    """
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # the pixels are whole, so a viewer shows them as they are stored, and so do we
        return 1


def _read_16_bits(image: Image.Image) -> np.ndarray | None:
    """Values (height, width, 3 or 4) of 16-bit colour that is not decoded yet; None for every other image.

    Pillow decodes 16-bit colour to its high bytes. Told that the file has the other byte order, it gives the low ones.
    """
    modes = {_raw_mode(tile) for tile in getattr(image, "tile", None) or []}
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if "R" in modes and set(tags.get(BITS_PER_SAMPLE, ())) == {16}:  # which Pillow reads as if it were 8 bits
        raise ValueError("16-bit colours in separate planes: save it with interleaved pixels")
    kinds = {mode.partition(";")[2] for mode in modes}
    if image.mode not in ("RGB", "RGBA") or len(kinds) != 1 or not kinds <= set(OTHER_BYTE_ORDER):
        return None
    (kind,) = kinds
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)  # where Pillow goes on to read
    if _raw_mode(image.tile[0]) == "LA;16B":  # as four bytes a pixel, because nothing unpacks its low ones
        grey_high, grey_low, alpha_high, alpha_low = np.moveaxis(_decode_as(content, "LA;16B", "RGBA"), -1, 0)
        grey, alpha = grey_high << 8 | grey_low, alpha_high << 8 | alpha_low
        return np.stack([grey, grey, grey, alpha], axis=-1)
    return _decode_as(content, kind, kind) << 8 | _decode_as(content, kind, OTHER_BYTE_ORDER[kind])


def _decode_as(content: bytes, stored: str, claimed: str) -> np.ndarray:
    """8-bit values of a file, as uint16, decoded as if its tiles were `claimed` where they are `stored`."""
    image = identify_image(content)
    tiles = []
    for tile in image.tile:
        mode = _raw_mode(tile).replace(stored, claimed)
        tiles.append(tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:])))
    image.tile = tiles
    return np.asarray(image).astype(np.uint16)


def _raw_mode(tile: tuple) -> str:
    """How the pixels of a tile lie in the file, in Pillow's words: "RGB;16B" are three values of two bytes."""
    return str(tile.args if isinstance(tile.args, str) or not tile.args else tile.args[0])


def _stretch_colors(values: np.ndarray, transparent: tuple[int, int, int] | None) -> Image.Image:
    """8-bit RGB of 16-bit colours (height, width, 3 or 4), transparency over black."""
    colors = values[..., :3]
    alpha = values[..., 3:] if values.shape[-1] == 4 else None
    if alpha is None:
        hidden = np.zeros(values.shape[:2], bool) if transparent is None else (colors == transparent).all(-1)
    else:
        hidden = alpha[..., 0] == 0
    stretched = _stretch(colors, hidden)
    if alpha is not None:
        stretched = (stretched.astype(np.uint32) * alpha + 32767) // 65535
    return Image.fromarray(stretched.astype(np.uint8))


def _stretch(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Values of any type to 0-255 as uint8, from the lowest to the highest that is finite and not hidden.

    Args:
        values: (height, width) or (height, width, colours).
        hidden: (height, width), bool: what is transparent, and becomes black.
    """
    lowest, highest = np.inf, -np.inf
    parts = [slice(start, start + STRETCHED_ROWS) for start in range(0, len(values), STRETCHED_ROWS)]
    for part in parts:
        seen = values[part][~hidden[part]]
        seen = seen[np.isfinite(seen)]
        if seen.size:
            lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
    factor = 255 / (highest - lowest) if highest > lowest else 0.0
    stretched = np.zeros(values.shape, np.uint8)
    for part in parts if factor else []:
        wide = values[part].astype(np.float64)
        stretched[part] = ((np.where(np.isfinite(wide), wide, lowest) - lowest) * factor).round().clip(0, 255)
        stretched[part][hidden[part]] = 0
    return stretched


__all__ = ["MAX_PIXELS", "UnreadableImageError", "array_to_rgb", "identify_image", "open_image", "to_rgb"]
