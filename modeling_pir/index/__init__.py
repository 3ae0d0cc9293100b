"""PIRIndex: search in an archive of images by a sentence or an image."""

from .hit import Hit
from .pir_index import PIRIndex

__all__ = ["Hit", "PIRIndex"]
