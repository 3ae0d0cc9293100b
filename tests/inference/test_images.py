"""Images of every mode come out as 8-bit RGB, and each kind of broken file gets one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from modeling_pir.inference import images
from modeling_pir.inference.images import open_image, to_rgb


def pixels(image):
    return np.asarray(image).tolist()


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_rgb_is_handed_on_as_it_is(tiny_images):
    assert to_rgb(tiny_images[0]) is tiny_images[0]


def test_greyscale_is_repeated():
    assert pixels(to_rgb(Image.new("L", (1, 1), 7))) == [[[7, 7, 7]]]


def test_one_bit_becomes_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(to_rgb(image)) == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(to_rgb(image)) == [[[10, 20, 30], [40, 50, 60]]]


def test_cmyk_is_converted_by_its_inks():
    assert pixels(to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))) == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (200, 100, 50, 0), [0, 0, 0]),
        ("RGBA", (200, 100, 50, 255), [200, 100, 50]),
        ("RGBA", (200, 100, 50, 51), [40, 20, 10]),
        ("LA", (100, 0), [0, 0, 0]),
        ("LA", (100, 255), [100, 100, 100]),
    ],
)
def test_transparency_is_laid_over_black(mode, color, expected):
    assert pixels(to_rgb(Image.new(mode, (1, 1), color))) == [[expected]]


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_becomes_black(mode):
    image = Image.new("RGB", (2, 1), (255, 255, 255))
    image.putpixel((1, 0), (90, 90, 90))
    image = image.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
    nodata = image.getpixel((0, 0))
    assert pixels(open_image(encoded(image, transparency=nodata))) == [[[0, 0, 0], [90, 90, 90]]]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_wide_values_are_stretched_from_their_minimum_to_their_maximum(dtype):
    values = np.array([[1000, 2000, 3000]], dtype=dtype)
    assert pixels(to_rgb(Image.fromarray(values))) == [[[0] * 3, [128] * 3, [255] * 3]]


def test_a_constant_wide_image_is_black():
    assert pixels(to_rgb(Image.fromarray(np.full((1, 1), 5000, dtype=np.uint16)))) == [[[0, 0, 0]]]


@pytest.mark.filterwarnings("error")  # numpy only warns where it turns what is no number into a byte
def test_values_that_are_no_numbers_count_as_the_lowest():
    values = np.array([[np.nan, 1.0, 2.0, -np.inf, np.inf]], dtype=np.float32)
    assert pixels(to_rgb(Image.fromarray(values))) == [[[0] * 3, [0] * 3, [255] * 3, [0] * 3, [0] * 3]]


def test_a_sixteen_bit_file_survives_its_file():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert pixels(open_image(encoded(Image.fromarray(values)))) == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize("as_source", [str, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_paths_bytes_and_open_images_give_the_same(tmp_path, tiny_images, as_source):
    path = tmp_path / "scene.png"
    tiny_images[1].save(path)
    assert pixels(open_image(as_source(path))) == pixels(tiny_images[1])


def test_a_photograph_is_turned_upright():
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # held so that it has to be turned by 90 degrees, clockwise
    upright = open_image(encoded(image, exif=exif))
    assert pixels(upright) == [[[0, 0, 0]], [[255, 255, 255]]]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_truncated_file_is_named(tmp_path, tiny_images, file_format):
    path = tmp_path / "cut.img"
    content = encoded(tiny_images[0], file_format)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.img cannot be read \(.*\): remove it or replace it\."):
        open_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all"], ids=["empty", "text"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.png is no image that can be read"):
        open_image(path)


def test_a_broken_header_is_named(tiny_images):
    content = bytearray(encoded(tiny_images[0]))
    content[11] = 4  # the length of the PNG header: 13 bytes
    with pytest.raises(ValueError, match="tile 3 cannot be read"):
        open_image(bytes(content), name="tile 3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png cannot be read .*No such file"):
        open_image(tmp_path / "absent.png")


def test_more_pixels_than_allowed_are_refused_without_decoding(monkeypatch, tiny_images):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="image has 48 x 40 pixels, more than the 100 that are opened at once: cut it"):
        open_image(encoded(tiny_images[0]))


def test_a_decompression_bomb_is_refused():
    content = bytearray(encoded(Image.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", 20_000, 20_000)  # the header claims 400 million pixels
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(ValueError, match="image is refused as a decompression bomb"):
        open_image(bytes(content))
