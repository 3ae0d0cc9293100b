"""Names of any script on a picture: drawn in a font that has the letters, or spelt out, and never as boxes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from modeling_pir.index import fonts


@pytest.fixture
def only_english(monkeypatch):
    """A machine without fonts, where Pillow's own is all there is."""
    for cached in (fonts._fonts, fonts._font_of):
        cached.cache_clear()
    monkeypatch.setattr(fonts, "FONTS", ())
    monkeypatch.setattr(fonts, "find_spec", lambda name: None)
    yield
    for cached in (fonts._fonts, fonts._font_of):
        cached.cache_clear()


def boxes(text, size=11):
    """The letters of a text that the chosen fonts draw as the box of a missing glyph."""
    found = []
    for font, part in fonts._runs(text, size):
        box = bytes(font.getmask(fonts.NO_LETTER))
        found += [letter for letter in part if letter != " " and bytes(font.getmask(letter)) == box]
    return found


NAMES = ["Zürich_éñ.png", "衛星画像.tif", "صورة.jpg", "उपग्रह.png", "👩‍🌾.png", "a\x1b[31m\nb.png"]


@pytest.mark.parametrize("name", NAMES)
def test_no_letter_is_drawn_as_a_box(name):
    assert boxes(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_without_fonts_letters_are_spelt_out(only_english, name):
    assert boxes(name) == []
    assert "".join(part for _, part in fonts._runs("é衛\x1b", 11)).endswith(r"\u885b\x1b")


def test_umlauts_are_drawn_where_matplotlib_is(monkeypatch):
    pytest.importorskip("matplotlib")
    assert "".join(part for _, part in fonts._runs("Zürich", 11)) == "Zürich"


def test_long_name_keeps_its_end_and_stays_within_its_width():
    image = Image.new("L", (300, 20), 255)
    fonts.draw_text(ImageDraw.Draw(image), (4, 2), "a" * 80 + "_end.png", 11, "black", 200)
    columns = np.flatnonzero((np.asarray(image) < 128).any(axis=0))
    assert 150 < columns.max() <= 205


def test_pillows_own_font_lacks_letters_that_names_have():
    """The reason why this file is there."""
    font = ImageFont.load_default(11)
    assert bytes(font.getmask("衛")) == bytes(font.getmask(fonts.NO_LETTER))
