"""Texts of any script on matplotlib's pictures: in a font of this machine, or spelt out, and never as boxes."""

import warnings

import pytest

from modeling_pir.inference import figures
from modeling_pir.inference.figures import drawable
from tests.support.tiny import draw_scene
from training.report.pictures import confusion_picture, gallery_picture

CHINESE = "\u5de6\u8fb9\u662f\u519c\u7530"


@pytest.fixture
def without_other_scripts(monkeypatch):
    """A machine that has matplotlib's own font alone."""
    figures._letters.cache_clear()
    monkeypatch.setattr(figures, "FONT_FAMILIES", ())
    yield
    figures._letters.cache_clear()


def test_letters_without_a_font_are_spelt_out_and_all_others_stay(without_other_scripts):
    assert drawable(f"caf\u00e9\n{CHINESE[0]} field \U00013000") == "caf\u00e9\n\\u5de6 field \\U00013000"


@pytest.mark.parametrize("fonts", ["without_other_scripts", "tmp_path"])
def test_no_picture_has_boxes_for_letters(fonts, request, tmp_path):
    request.getfixturevalue(fonts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = [draw_scene("forest", 1)]
        path = tmp_path / "gallery.png"
        gallery_picture([CHINESE], images, [[0]], [[0.5]], [[True]], path, notes=[CHINESE], caption=CHINESE)
        confusion_picture([[1, 0], [0, 1]], [CHINESE, "port"], tmp_path / "confusion.png", CHINESE)
