"""Tables and lists on the terminal."""

import io
import sys
import unicodedata
from collections.abc import Sequence

JOINERS = "\u200c\u200d"  # of letters, in Persian, Indic scripts and emoji
MAX_LISTED = 20  # paths that are printed; --json has them all


def printable(text: str) -> str:
    """A text without what steers a terminal or turns a line round: such characters of a file name are spelt out."""
    return "".join(letter if _is_plain(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _is_plain(letter: str) -> bool:
    """Whether a character steers nothing: neither control, format (such as right to left) nor line."""
    return letter in JOINERS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def escape_what_cannot_be_encoded() -> None:
    """Keep the output where its encoding lacks a letter, as a pipe on Windows: it is spelt out instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def index_text(result: dict) -> str:
    """What was done, in lines."""
    lines = [f"{printable(result['index'])}: {result['rows']:,} rows ({result['engine']} index)"]
    if "added" in result:
        lines[0] += f", {result['added']:,} added, {result['unchanged']:,} files unchanged"
    for name in ("moved", "relabelled"):
        if result.get(name):
            lines[0] += f", {result[name]:,} files {name}"
    if result.get("deleted") or ("deleted" in result and "added" not in result):
        lines[0] += f", {result['deleted']:,} deleted"
    if "exported" in result:
        lines.append(f"{result['exported']:,} rows written to {printable(result['export'])}")
    if "recall@10" in result:
        lines.append(f"recall@10 against exact search: {result['recall@10']:.3f}")
    if result.get("text_side"):
        lines.append(result["text_side"])
    if result.get("unplaced"):
        lines.append(f"{len(result['unplaced'])} scenes do not say where they lie, and have no footprint:")
        lines += listed(result["unplaced"])
    if result.get("outside"):
        lines.append(f"{len(result['outside'])} links lead out of the archive and were followed:")
        lines += listed(result["outside"])
    if result.get("skipped"):
        lines.append(f"{len(result['skipped'])} files are no images, or links to what is there, and were passed over:")
        lines += listed(result["skipped"])
    if result.get("errors"):
        lines.append(f"{len(result['errors'])} files could not be indexed:")
        lines += listed([sentence for _, sentence in result["errors"]])
    return "\n".join(lines)


def listed(items: Sequence[str]) -> list[str]:
    """Indented lines, not too many."""
    lines = [f"  {printable(item)}" for item in items[:MAX_LISTED]]
    return lines if len(items) <= MAX_LISTED else [*lines, f"  ... and {len(items) - MAX_LISTED} more (--json has all)"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry; empty ones are left out."""
    rows = [[printable(text) for text in row] for row in rows]
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = (zip(row, widths, strict=True) for row in zip(*columns, strict=True))
    return "\n".join("  ".join(text.ljust(width) for text, width in line).rstrip() for line in lines)
