"""Image files of the kinds that people have: turned, transparent, of 16 bits, of other colours than RGB."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.support.tiny import draw_scene

PICTURES = ("turned.jpg", "alpha.png", "colour_16_bit.png", "grey_16_bit.tif", "palette.gif", "grey.png", "cmyk.jpg")


def chunk(kind, content):
    """One chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_16_bits(values, color_type, before=b"", after=b""):
    """A PNG of uint16 values (height, width, channels), with other chunks around its pixels; Pillow writes none."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.array(values))
    header = struct.pack(">IIBBBBB", len(values[0]), len(values), 16, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_picture(folder, name):
    """Draw a scene and write it as one of `PICTURES`; its path."""
    image, path = draw_scene("forest", 3), folder / name
    exif = image.getexif()
    exif[0x0112] = 6
    if name == "turned.jpg":
        image.save(path, exif=exif)
    elif name == "alpha.png":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    elif name == "colour_16_bit.png":
        path.write_bytes(png_of_16_bits(np.asarray(image).astype(np.uint16) * 10 + 300, 2))
    elif name == "grey_16_bit.tif":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 10 + 300).save(path)
    else:
        modes = {"palette.gif": "P", "grey.png": "L", "cmyk.jpg": "CMYK"}
        image.convert(modes[name]).save(path)
    return path
