"""Tables and lists on the terminal."""

from collections.abc import Sequence

MAX_LISTED = 20  # paths that are printed; --json has them all


def index_text(result: dict) -> str:
    """What was done, in lines."""
    lines = [f"{result['index']}: {result['rows']:,} rows ({result['engine']} index)"]
    if "added" in result:
        lines[0] += f", {result['added']:,} added, {result['unchanged']:,} files unchanged"
    if result.get("deleted"):
        lines[0] += f", {result['deleted']:,} deleted"
    if "exported" in result:
        lines.append(f"{result['exported']:,} rows written to {result['export']}")
    if "recall@10" in result:
        lines.append(f"recall@10 against exact search: {result['recall@10']:.3f}")
    if result.get("text_side"):
        lines.append(result["text_side"])
    if result.get("unplaced"):
        lines.append(f"{len(result['unplaced'])} scenes do not say where they lie, and have no footprint:")
        lines += listed(result["unplaced"])
    if result.get("skipped"):
        lines.append(f"{len(result['skipped'])} files are no images, or links to what is there, and were passed over:")
        lines += listed(result["skipped"])
    if result.get("errors"):
        lines.append(f"{len(result['errors'])} files could not be indexed:")
        lines += listed([sentence for _, sentence in result["errors"]])
    return "\n".join(lines)


def listed(items: Sequence[str]) -> list[str]:
    """Indented lines, not too many."""
    lines = [f"  {item}" for item in items[:MAX_LISTED]]
    return lines if len(items) <= MAX_LISTED else [*lines, f"  ... and {len(items) - MAX_LISTED} more (--json has all)"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest entry; empty ones are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = (zip(row, widths, strict=True) for row in zip(*columns, strict=True))
    return "\n".join("  ".join(text.ljust(width) for text, width in line).rstrip() for line in lines)
