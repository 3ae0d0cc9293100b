"""Draw text of any script with the machine's fonts; letters that no font has are spelled out."""

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

FONTS = (  # file names that Pillow looks for in the folders of Linux, macOS and Windows; the first that has a letter
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf",
    "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc",
    "Hiragino Sans GB.ttc", "msyh.ttc", "malgun.ttf", "YuGothR.ttc", "Arial Unicode.ttf", "arialuni.ttf",
    "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf",
    "NotoSansHebrew-Regular.ttf", "unifont.otf",
)  # fmt: skip
NO_LETTER = "\U0010ffff"  # which every font draws as the box of a missing glyph
Run = tuple[ImageFont.FreeTypeFont, str]


def draw_text(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, fill: str, width: int) -> None:
    """Draw a line of text of any script; what does not fit loses its beginning, since the end of a name tells more.

    Args:
        draw: of the picture.
        place: (left, top) in pixels.
        text: letters that no font has, and those that cannot be seen, are spelt out, by their numbers.
        size: of the letters, pixels.
        fill: colour.
        width: pixels at most.
    """
    runs = list(_runs(text, size))
    if _length(runs) > width:
        text = _spelt_out(text, size)
        while text and _length(runs := list(_runs(f"...{text}", size))) > width:
            text = text[1:]
    left = float(place[0])
    for font, part in runs:
        draw.text((left, place[1] + size), part, fill=fill, font=font, anchor="ls")
        left += font.getlength(part)


def _length(runs: list[Run]) -> float:
    """The width of a line in pixels."""
    return sum(font.getlength(part) for font, part in runs)


def _runs(text: str, size: int) -> Iterator[Run]:
    """Cut a text into parts of one font each."""
    for font, letters in groupby(_spelt_out(text, size), key=lambda letter: _font_of(letter, size)):
        yield font or _fonts(size)[0], "".join(letters)


def _spelt_out(text: str, size: int) -> str:
    """A text whose letters can all be drawn."""
    return "".join(
        letter if _font_of(letter, size) else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


@lru_cache(maxsize=10_000)
def _font_of(letter: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The first font that has a letter; None where none has, or where there is nothing to see."""
    if not (letter.isprintable() or letter == " "):
        return None
    for font in _fonts(size):
        if letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER)):
            return font
    return None


@lru_cache(maxsize=8)
def _fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    """The fonts of this machine; where there are none, Pillow's own, which has the letters of English."""
    fonts = []
    for name in FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # Pillow's word for a font that is not there
            continue
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        bundled = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if bundled.is_file():
            fonts.append(ImageFont.truetype(bundled, size))
    return [*fonts, ImageFont.load_default(size)]
