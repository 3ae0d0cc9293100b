"""PIRIndex: search an archive of images by sentence or image."""

from .hit import Hit
from .pir_index import PIRIndex

__all__ = ["Hit", "PIRIndex"]
