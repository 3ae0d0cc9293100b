"""Images of every mode come out as 8-bit RGB, and each kind of broken file gets one sentence."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from modeling_pir import images_pir
from modeling_pir.images_pir import UnreadableImageError, open_image, to_rgb
from tests.support.odd_pictures import chunk, png_of_16_bits


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


@pytest.mark.filterwarnings("error")  # numpy only warns where it turns what is not finite into a byte
def test_values_that_are_no_numbers_count_as_the_lowest():
    values = np.array([[np.nan, 1.0, 2.0, -np.inf, np.inf]], dtype=np.float32)
    assert pixels(to_rgb(Image.fromarray(values))) == [[[0] * 3, [0] * 3, [255] * 3, [0] * 3, [0] * 3]]


def test_a_sixteen_bit_file_survives_its_file():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    assert pixels(open_image(encoded(Image.fromarray(values)))) == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize("as_source", [bytes, lambda content: Image.open(io.BytesIO(content))])
def test_16_bit_colour_is_stretched_by_one_factor(as_source):
    reflectances = [[[300, 1560, 2820], [2820, 300, 301]]]
    assert pixels(open_image(as_source(png_of_16_bits(reflectances, 2)))) == [[[0, 128, 255], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("values", "color_type", "transparent", "expected"),
    [
        ([[[300, 1560, 2820, 65535], [2820, 300, 300, 32768]]], 6, None, [[[0, 128, 255], [128, 0, 0]]]),
        ([[[300, 1560, 2820], [0, 0, 1]]], 2, [0, 0, 1], [[[0, 128, 255], [0, 0, 0]]]),
        ([[[300, 65535], [2820, 65535], [9, 0]]], 4, None, [[[0] * 3, [255] * 3, [0] * 3]]),
        ([[[300], [2820], [9]]], 0, [9], [[[0] * 3, [255] * 3, [0] * 3]]),
    ],
    ids=["alpha", "a transparent colour", "grey with alpha", "a transparent grey"],
)
def test_what_is_transparent_in_16_bits_is_black_and_does_not_count_for_the_stretch(
    values, color_type, transparent, expected
):
    before = b"" if transparent is None else chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    assert pixels(open_image(png_of_16_bits(values, color_type, before))) == expected


@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_16_bit_colour_of_a_tiff_is_stretched(compression):
    rasterio = pytest.importorskip("rasterio")
    values = np.array([[[300, 2820]], [[1560, 300]], [[2820, 301]]], dtype=np.uint16)
    profile = {"driver": "GTiff", "width": 2, "height": 1, "count": 3, "dtype": "uint16", "photometric": "RGB"}
    with rasterio.MemoryFile() as memory, pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        with memory.open(**profile, interleave="pixel", compress=compression) as raster:
            raster.write(values)
        content = memory.read()
    assert pixels(open_image(content)) == [[[0, 128, 255], [255, 0, 0]]]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("note", [b"zTXtnotes\0\0", b"iCCPprofile\0\0"], ids=["text", "colour profile"])
def test_long_notes_of_a_png_do_not_keep_its_pixels_from_being_read(note, place):
    too_long = chunk(note[:4], note[4:] + zlib.compress(b"x" * 3_000_000))  # Pillow's limit is one MiB
    content = png_of_16_bits([[[0], [65535]]], 0, **{place: too_long})
    assert pixels(open_image(content)) == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("as_source", [str, lambda path: path, lambda path: path.read_bytes(), Image.open])
def test_paths_bytes_and_open_images_give_the_same(tmp_path, tiny_images, as_source):
    path = tmp_path / "scene.png"
    tiny_images[1].save(path)
    assert pixels(open_image(as_source(path))) == pixels(tiny_images[1])


def turned_photograph():
    """Black, white; held so that it has to be turned by 90 degrees, clockwise."""
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


def test_a_photograph_is_turned_upright():
    assert pixels(open_image(turned_photograph())) == [[[0, 0, 0]], [[255, 255, 255]]]


def test_a_photograph_is_turned_upright_though_its_exif_cannot_be_written_back():
    # ImageWidth as a text is a tag of the wrong type: Pillow reads it, and raises where it is to write it
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2)
    exif += struct.pack("<HHI4s", 0x0112, 3, 1, b"\x06\0\0\0") + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255))
    content = encoded(image, exif=exif + b"\0\0\0\0")
    with pytest.raises((TypeError, AttributeError, ValueError, struct.error)):
        ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert pixels(open_image(content)) == [[[0, 0, 0]], [[255, 255, 255]]]


def test_an_image_that_was_opened_here_is_not_turned_once_more():
    once = open_image(turned_photograph())
    assert once.size == (1, 2) and pixels(open_image(once)) == pixels(once)


def test_an_exif_that_cannot_be_read_leaves_the_image_as_it_is_stored(recwarn):
    image = Image.new("RGB", (2, 1))
    assert open_image(encoded(image, exif=b"Exif\0\0II*\0\xff\xff")).size == (2, 1)
    assert open_image(encoded(image, exif=b"Exif\0\0II*\0\x08\0\0\0\x03\0\x12\1")).size == (2, 1)
    assert not recwarn.list  # Pillow warns of it without the file's name


def test_a_jpeg_is_decoded_no_larger_than_is_enough():
    content = encoded(Image.new("RGB", (640, 480), (10, 200, 30)), "JPEG")
    assert [open_image(content, enough_pixels=size).size for size in (500, 200, 60)] == [
        (640, 480),
        (320, 240),
        (80, 60),
    ]


@pytest.mark.parametrize("error", [IndexError("list index"), struct.error("unpack"), zlib.error("-3"), MemoryError()])
def test_whatever_a_decoder_raises_is_an_error_of_its_file(monkeypatch, tiny_images, error):
    def decode(self, *args):
        raise error

    content = encoded(tiny_images[0], "BMP")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(UnreadableImageError, match=r"tile 3 cannot be read \(.+\): remove it or replace it"):
        open_image(content, "tile 3")


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
    with pytest.raises(ValueError, match=r"notes\.png is not a readable image"):
        open_image(path)


@pytest.mark.parametrize("file_format", ["EPS", "SPIDER", "IM", "MSP", "XBM", "ICO", "ICNS", "PDF"])
def test_formats_that_are_not_on_the_list_are_not_even_looked_at(tmp_path, monkeypatch, file_format):
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(file_format, "RGB")
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))  # SPIDER takes that of its file for good
    Image.new(mode, (32, 32)).save(tmp_path / "holiday.jpg", file_format)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)  # a call would fail in another way
    with pytest.raises(ValueError, match=r"holiday\.jpg is not a readable image, such as a JPEG, PNG or TIFF"):
        open_image(tmp_path / "holiday.jpg")
    if file_format != "PDF":  # which Pillow only writes
        with pytest.raises(ValueError, match="image is not a readable image"):
            open_image(Image.open(tmp_path / "holiday.jpg"))  # not decoded yet


@pytest.mark.parametrize("file_format", ["MPO", *images_pir.FORMATS])
def test_formats_of_the_list_are_opened(tiny_images, file_format):
    content = encoded(tiny_images[0], file_format)
    assert open_image(content).size == open_image(Image.open(io.BytesIO(content))).size == tiny_images[0].size


def test_a_broken_header_is_named(tiny_images):
    content = bytearray(encoded(tiny_images[0]))
    content[11] = 4  # the length of the PNG header: 13 bytes
    with pytest.raises(ValueError, match="tile 3 cannot be read"):
        open_image(bytes(content), name="tile 3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png cannot be read .*No such file"):
        open_image(tmp_path / "absent.png")


def test_more_pixels_than_allowed_are_refused_without_decoding(monkeypatch, tiny_images):
    monkeypatch.setattr(images_pir, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="image has 48 x 40 pixels, more than the 100 that are opened at once: cut it"):
        open_image(encoded(tiny_images[0]))


def test_a_decompression_bomb_is_refused():
    content = bytearray(encoded(Image.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", 20_000, 20_000)  # the header claims 400 million pixels
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(ValueError, match="image is refused as a decompression bomb"):
        open_image(bytes(content))


def test_threads_that_open_images_leave_the_warning_filters_as_they_were(monkeypatch, tiny_images):
    inside, first_is_out = {"first": threading.Event(), "second": threading.Event()}, threading.Event()

    def decode(source, name, enough_pixels):
        inside[name].set()
        assert (inside["second"] if name == "first" else first_is_out).wait(10)
        return source

    monkeypatch.setattr(images_pir, "_decode", decode)
    before = list(warnings.filters)
    threads = [threading.Thread(target=open_image, args=(tiny_images[0], name)) for name in inside]
    for thread, name in zip(threads, inside, strict=True):
        thread.start()
        assert inside[name].wait(10)
    threads[0].join()
    first_is_out.set()
    threads[1].join()
    assert list(warnings.filters) == before
