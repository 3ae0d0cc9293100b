"""Pictures of rows for the page, and uploaded query pictures, kept in memory in limited number and size."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from PIL import Image

from ..geo.raster import open_content_as_image
from ..index.hit_pictures import hit_image
from ..inference.images import identify_image

if TYPE_CHECKING:
    from ..index.hit import Hit

MAX_QUERY_PIXELS = 40_000_000  # of a picture that is asked with: 120 MB while it is read
SIZES = {"small": 320, "large": 1280}  # pixels of the longer side
NUM_CACHED = {"small": 3000, "large": 60}  # about 60 MB and 12 MB
NUM_QUERIES = 64  # pictures that are kept to be asked with again, shrunk
QUERY_SIZE = 512  # pixels of the longer side: more than any processor of these models looks at
JPEG_QUALITY = 84
Value = TypeVar("Value")


class Cache(Generic[Value]):
    """The values that were used last, for several threads.

    Args:
        size: values at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, or None if it is not there any more."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, in the place of the one not used for longest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)


class HitPictures:
    """JPEGs of hits in two sizes; nothing is written anywhere."""

    def __init__(self) -> None:
        self._caches: dict[str, Cache[bytes]] = {size: Cache(number) for size, number in NUM_CACHED.items()}
        self._readers = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))  # what is open at once

    def jpeg(self, hit: Hit, size: str) -> bytes:
        """A picture of a hit.

        Args:
            hit: a row of the index.
            size: a key of `SIZES`.

        Raises:
            ValueError: the file is gone or broken.
            ImportError: a scene, and rasterio is missing.
        """
        found = self._caches[size].get(hit.id)
        if found is None:
            with self._readers:
                found = as_jpeg(hit_image(hit, SIZES[size]))
            self._caches[size].put(hit.id, found)
        return found


class QueryPictures:
    """Pictures that were sent to be asked with, shrunk, by a name that is a hash of what was sent.

    Args:
        bands: of scenes, see `usual_bands` of [`open_as_image`].
    """

    def __init__(self, bands: tuple[int, int, int] | None = None) -> None:
        self._bands = bands
        self._cache: Cache[Image.Image] = Cache(NUM_QUERIES)
        self._reader = threading.Lock()  # one at a time: a large one takes memory while it is read

    def keep(self, content: bytes) -> str:
        """Read a picture and keep it.

        Args:
            content: of an image file.

        Returns:
            Its name, 32 hexadecimal digits.

        Raises:
            ValueError: no picture, a broken one, or one of too many pixels.
        """
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        if self._cache.get(name) is None:
            with self._reader:
                _check_pixels(content)
                image = open_content_as_image(content, "The picture", MAX_QUERY_PIXELS, self._bands)
            image.thumbnail((QUERY_SIZE, QUERY_SIZE))
            self._cache.put(name, image)
        return name

    def get(self, name: str) -> Image.Image:
        """A picture that was kept.

        Raises:
            ValueError: it is not there any more.
        """
        image = self._cache.get(name)
        if image is None:
            raise ValueError("The picture is no longer available: choose it again.")
        return image


def _check_pixels(content: bytes) -> None:
    """Refuse a picture of too many pixels by its header, before it takes memory."""
    try:
        width, height = identify_image(content).size
    except Image.DecompressionBombError as error:
        raise ValueError(f"The picture is refused ({error}): make it smaller.") from error
    except (OSError, SyntaxError, EOFError, ValueError):
        return  # `open_image` says what is wrong with it
    if width * height > MAX_QUERY_PIXELS:
        raise ValueError(
            f"The picture has {width} x {height} pixels, more than the {MAX_QUERY_PIXELS:,} that are read here: "
            "make it smaller or cut a part out of it."
        )


def as_jpeg(image: Image.Image) -> bytes:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def as_png(image: Image.Image) -> bytes:
    """An image as a PNG file, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
