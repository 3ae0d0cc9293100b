"""One look for every picture: colours and figures."""

import textwrap
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import need
from .images import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"  # Okabe and Ito


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, apart from pyplot: no window, no global state."""
    return need("matplotlib.figure", "train", "Pictures need").Figure(figsize=(width, height), layout="constrained")


def show(axes: "Axes", image: Image.Image, color: str = GREY, line_width: float = 0.5) -> None:
    """Draw an image without ticks, in a frame."""
    axes.imshow(open_image(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=line_width)


def wrap(text: str, width: int, max_lines: int) -> str:
    """Break a text into at most `max_lines` lines of `width` characters; what is left is cut with dots."""
    return textwrap.fill(text, width, max_lines=max_lines, placeholder=" ...")
