"""Image files of an archive. How one is opened is a model file, because the processor on the Hub does the same."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..images_pir import MAX_PIXELS, UnreadableImageError, identify_image, open_image, to_rgb

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
NUM_READERS = min(4, max(2, os.cpu_count() or 2))  # threads, each with a picture: 60 MB of 20 megapixels
Item, Result = TypeVar("Item"), TypeVar("Result")

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "UnreadableImageError",
    "identify_image",
    "map_ahead",
    "open_image",
    "to_rgb",
]


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """A function of each item, in order; threads compute the next few results while the caller uses one.

    For what spends its time outside Python, such as decoding images. As few results wait as there are threads.
    """
    with ThreadPoolExecutor(NUM_READERS) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > NUM_READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
