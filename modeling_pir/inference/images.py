"""Image files of an archive. How one is opened is a model file, because the processor on the Hub does the same."""

from ..images_pir import MAX_PIXELS, UnreadableImageError, identify_image, open_image, to_rgb

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "UnreadableImageError", "identify_image", "open_image", "to_rgb"]
