"""Opening images of any mode as 8-bit RGB, and saying what is wrong with those that cannot be opened."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # beyond this a file is taken for a decompression bomb; a scene of that size is cut into chips
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    Greyscale is repeated, a palette is looked up, CMYK is converted, transparency is laid over black (what nodata
    is in most overhead imagery), and 16-bit, 32-bit and float values are stretched from their own minimum and maximum
    to 0-255, because PIL's own conversion clips them all to white.

    Args:
        image: any PIL image.

    Returns:
        An image of mode RGB and the same size.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        finite = np.isfinite(values)
        lowest, highest = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
        stretched = (np.where(finite, values, lowest) - lowest) * (255 / (highest - lowest) if highest > lowest else 0)
        return Image.fromarray(stretched.round().astype(np.uint8), mode="L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def open_image(source: str | Path | bytes | Image.Image, name: str | None = None) -> Image.Image:
    """Open and fully decode an image, turned upright where the camera noted how it was held (EXIF orientation).

    Args:
        source: a path, the bytes of a file, or an image that is already open.
        name: what errors call it; the path where there is one.

    Returns:
        8-bit RGB, decoded.

    Raises:
        ValueError: no image, truncated, empty, missing, or more than `MAX_PIXELS` pixels.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "image")
    try:
        if isinstance(source, Image.Image):
            image = source
        else:
            with warnings.catch_warnings():  # PIL warns at a size below ours; above it we refuse
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if image.width * image.height <= MAX_PIXELS:
            return to_rgb(ImageOps.exif_transpose(image))  # which decodes it: a broken file is named here
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is refused as a decompression bomb ({error}): cut it into smaller images.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no image that can be read: remove it or replace it.") from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:  # broken PNG chunks raise the last three
        raise ValueError(f"{name} cannot be read ({error}): remove it or replace it.") from error
    raise ValueError(
        f"{name} has {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are opened at once: "
        "cut it into smaller images."
    )
