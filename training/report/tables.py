"""Markdown tables and the names of the metrics."""

from collections.abc import Sequence

HEADER = {
    "i2t_R@1": "image to text R@1",
    "i2t_R@5": "R@5",
    "i2t_R@10": "R@10",
    "t2i_R@1": "text to image R@1",
    "t2i_R@5": "R@5",
    "t2i_R@10": "R@10",
    "mR": "mR",
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """A Markdown table whose first `num_left` columns are flush left and whose others are flush right."""
    align = ["---"] * num_left + ["---:"] * (len(header) - num_left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))
