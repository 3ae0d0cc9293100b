"""Text files of any usual encoding."""

import codecs
import logging
import re
from pathlib import Path

import charset_normalizer

logger = logging.getLogger(__name__)
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark its own begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, what a byte-order mark says, or else the encoding that its bytes look like.

    Args:
        path: a file, such as one of Excel's, which writes the encoding of its Windows.

    Returns:
        The text, with its line ends as they are.

    Raises:
        ValueError: empty, or no encoding fits.
    """
    return decode_text(path.read_bytes(), repr(str(path)))


def decode_text(content: bytes, name: str) -> str:
    """The text of a file's bytes, see [`read_text`].

    Args:
        content: of the file.
        name: what errors call it.

    Raises:
        ValueError: empty, or no encoding fits.
    """
    if not content.strip():
        raise ValueError(f"{name} is empty: give a table with a line for each caption.")
    encoding = next((own for mark, own in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        if "\0" not in text:  # there is none in UTF-8, but in UTF-16 without a mark
            return text
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{name} is damaged {encoding} ({error}): save it as UTF-8.") from error
    matches = charset_normalizer.from_bytes(content)
    names = {own for match in matches for own in (match.encoding, *match.could_be_from_charset)}
    if not names:
        raise ValueError(f"{name} is not text in any known encoding: save the table as CSV in UTF-8.")
    encoding = matches.best().encoding
    # Western text often reads as Central European, too; there is more of it. A few words of it read as Chinese, whose
    # letters are two bytes, mostly both beyond ASCII.
    lone = len(content.decode(encoding)) < len(content) and not re.search(rb"[\x80-\xff]{2}|\0", content)
    encoding = "cp1252" if "cp1252" in names or lone else encoding
    logger.warning("%s is not UTF-8: read as %s. Look at its accents, or save it as UTF-8.", name, encoding)
    return content.decode(encoding, errors="replace" if lone else "strict")
