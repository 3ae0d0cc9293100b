"""A common style for all figures."""

import textwrap
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import need
from .images import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"  # Okabe and Ito
FONT_FAMILIES = (  # of other scripts, on Linux, macOS and Windows; those that are installed are asked in this order
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Malgun Gothic", "Yu Gothic", "Arial Unicode MS",
    "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew", "Nirmala UI", "Unifont",
)  # fmt: skip


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, apart from pyplot: no window. Its texts look for letters in all our fonts."""
    figure = need("matplotlib.figure", "train", "Pictures need").Figure(figsize=(width, height), layout="constrained")
    families = need("matplotlib", "train", "Pictures need").rcParams["font.family"]
    families.extend(family for family in _letters()[1] if family not in families)  # behind the reader's own choice
    return figure


@cache
def _letters() -> tuple[frozenset[int], tuple[str, ...]]:
    """The letters that pictures can show, and the families of other scripts that are installed."""
    manager = need("matplotlib.font_manager", "train", "Pictures need")
    installed = {entry.name for entry in manager.fontManager.ttflist}
    families = tuple(family for family in FONT_FAMILIES if family in installed)
    fonts = [manager.get_font(manager.findfont(family)) for family in ("DejaVu Sans", *families)]
    return frozenset(letter for font in fonts for letter in font.get_charmap()), families


def drawable(text: str) -> str:
    """A text whose letters that no font here has are spelt out by their numbers, where matplotlib would draw boxes."""
    known = _letters()[0] | {ord("\n")}
    return "".join(letter if ord(letter) in known else ascii(letter)[1:-1] for letter in text)


def show(axes: "Axes", image: Image.Image, color: str = GREY, line_width: float = 0.5) -> None:
    """Draw an image without ticks, in a frame."""
    axes.imshow(open_image(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=line_width)


def wrap(text: str, width: int, max_lines: int) -> str:
    """Break a text into at most `max_lines` lines of `width` characters; what is left is cut with dots."""
    return textwrap.fill(drawable(text), width, max_lines=max_lines, placeholder=" ...")
