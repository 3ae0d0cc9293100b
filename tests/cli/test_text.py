"""What reaches the terminal: no file name steers it, and no encoding loses a hit."""

import io
import sys

import pytest

from modeling_pir.cli.text import escape_what_cannot_be_encoded, index_text, printable, table


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[2J\x1b]0;owned\x07.png", r"a\x1b[2J\x1b]0;owned\x07.png"),
        ("a\rb\nc\x9b1m.png", r"a\rb\nc\x9b1m.png"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        ("Straße 衛星 می‌خواهم 👩‍🌾.png", "Straße 衛星 می‌خواهم 👩‍🌾.png"),
    ],
)
def test_file_name_cannot_steer_the_terminal(name, shown):
    assert printable(name) == shown
    assert shown in table([("path",), (name,)])
    result = {"index": name, "rows": 0, "engine": "exact", "errors": [("x", name)], "skipped": [name]}
    assert index_text(result).count(shown) == 3


def test_letters_that_an_output_cannot_encode_are_spelt_out(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    escape_what_cannot_be_encoded()
    print("Straße 衛星.png")
    output.flush()
    assert output.buffer.getvalue().decode("cp1252").strip() == r"Straße \u885b\u661f.png"
