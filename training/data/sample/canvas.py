"""A canvas for overhead scenes: textured ground, shapes and things, each named thing with its box.

Scenes are laid out in one orientation; the canvas turns them by quarter turns and says where things ended up. What is
random are whole numbers and shares from numpy's generator, and the shapes are drawn by Pillow at twice the size without
anti-aliasing of its own, so that a seed gives the same pixels on every machine with these releases of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Option = TypeVar("Option")
OVERSAMPLING = 2
SIDES = ("top", "right", "bottom", "left")  # a clockwise quarter turn moves each side to the next
# What captions name, for things and for the ground.
PAINT: dict[str, Colour] = {
    "white": (240, 240, 236), "grey": (150, 151, 155), "black": (30, 30, 34), "red": (196, 44, 40),
    "orange": (233, 128, 36), "yellow": (240, 208, 50), "green": (40, 150, 70), "blue": (38, 88, 196),
    "brown": (120, 76, 44),
}  # fmt: skip
GROUND: dict[str, Colour] = {
    "green grass": (112, 146, 80), "dry grass": (186, 172, 116), "bare earth": (158, 124, 88),
    "concrete": (186, 184, 176), "asphalt": (92, 92, 96), "sand": (222, 202, 156),
}  # fmt: skip
WATER: dict[str, Colour] = {"blue": (44, 96, 160), "green": (56, 122, 104), "brown": (134, 108, 70)}
TREE: dict[str, Colour] = {"dark green": (46, 84, 44), "light green": (110, 152, 62), "orange": (196, 116, 46)}
SHADOW: Colour = (58, 60, 56)
GLASS: Colour = (40, 48, 60)


def shade(colour: Colour, amount: int) -> Colour:
    """The colour made lighter or, for a negative amount, darker by that many of 255 steps."""
    red, green, blue = (max(0, min(255, value + amount)) for value in colour)
    return red, green, blue


def spread(count: int, gap: float, middle: float = 0.5) -> list[float]:
    """`count` positions `gap` apart around `middle`."""
    return [middle + (i - (count - 1) / 2) * gap for i in range(count)]


@dataclass
class Canvas:
    """The picture being drawn; coordinates are shares of its side, x to the right, y down, before the turn.

    Attributes:
        rng: source of all that is random.
        size: side of the finished picture, in pixels.
        names: what each box holds, in singular.
        boxes: (left, top, right, bottom) of each named thing, in shares of the side, after the turn.
        turns: clockwise quarter turns of the layout.
    """

    rng: np.random.Generator
    size: int
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.turns = int(self.rng.integers(4))
        self.side = self.size * OVERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)

    # Chance

    def pick(self, options: Sequence[Option]) -> Option:
        """One of the options, each equally likely."""
        return options[int(self.rng.integers(len(options)))]

    def pick_two(self, options: Sequence[Option]) -> tuple[Option, Option]:
        """Two different ones of the options."""
        first, second = self.rng.choice(len(options), size=2, replace=False)
        return options[int(first)], options[int(second)]

    def count(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return int(self.rng.integers(low, high + 1))

    def jitter(self, amount: float) -> float:
        """A number within plus or minus `amount`."""
        return float(self.rng.uniform(-amount, amount))

    # Where things are after the turn

    def where(self, x: float, y: float) -> Point:
        """The point after the turn."""
        for _ in range(self.turns):
            x, y = 1 - y, x
        return x, y

    def side_of(self, side: str) -> str:
        """The side of the finished picture that a side of the layout became."""
        return SIDES[(SIDES.index(side) + self.turns) % 4]

    def third_of(self, x: float, y: float) -> tuple[str, str]:
        """The thirds of the finished picture that a point is in: left, "" or right, and upper, "" or lower."""
        x, y = self.where(x, y)
        return ("left", "", "right")[min(int(x * 3), 2)], ("upper", "", "lower")[min(int(y * 3), 2)]

    def name(self, name: str, points: Sequence[Point]) -> None:
        """Record a thing that captions may name, with the box around the points, cut at the picture's edge."""
        xs, ys = zip(*(self.where(*point) for point in points), strict=True)
        edges = (max(0.0, min(xs)), max(0.0, min(ys)), min(1.0, max(xs)), min(1.0, max(ys)))
        self.names.append(name)
        self.boxes.append(tuple(round(edge, 4) for edge in edges))

    # Surfaces

    def _noise(self, cells: int) -> np.ndarray:
        """(size, size) whole numbers in [-128, 127], smooth over 1 / cells of the side."""
        coarse = self.rng.integers(0, 256, (cells, cells), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(smooth).astype(np.int16) - 128

    def _texture(self, colour: Colour, strength: int) -> Image.Image:
        """A mottled surface over the whole picture, its brightness within about `strength` of the colour's."""
        mottle = (4 * self._noise(5) + 4 * self._noise(19) + 2 * self._noise(57)) * strength // 1024
        pixels = np.array(colour, dtype=np.int16) + mottle[..., None]
        texture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        return texture.resize((self.side, self.side), Image.Resampling.NEAREST)

    def ground(self, colour: Colour, strength: int = 22) -> None:
        """Cover the whole picture."""
        self.image.paste(self._texture(colour, strength))

    def area(self, points: Sequence[Point], colour: Colour, strength: int = 18) -> None:
        """Cover a polygon with a mottled surface."""
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._pixels(points), fill=1)
        self.image.paste(self._texture(colour, strength), mask=mask)

    def finish(self) -> Image.Image:
        """The picture at its size, a little brighter or darker as a whole, with the grain of a sensor."""
        pixels = np.asarray(self.image.reduce(OVERSAMPLING)).astype(np.int32)
        light = int(self.rng.integers(238, 269))
        grain = self.rng.integers(-7, 8, (self.size, self.size, 1))
        return Image.fromarray((pixels * light // 256 + grain).clip(0, 255).astype(np.uint8))

    # Shapes

    def _pixels(self, points: Sequence[Point], offset: int = 0) -> list[tuple[int, int]]:
        """Points as whole pixels of the oversampled picture."""
        turned = (self.where(*point) for point in points)
        return [(round(x * self.side) + offset, round(y * self.side) + offset) for x, y in turned]

    def polygon(self, points: Sequence[Point], fill: Colour, shadow: float = 0.0) -> None:
        """A filled polygon; `shadow` is how far it throws one, always to the lower right."""
        if shadow:
            self.draw.polygon(self._pixels(points, max(1, round(shadow * self.side))), fill=SHADOW)
        self.draw.polygon(self._pixels(points), fill=fill)

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: Colour, angle: float = 0.0, shadow: float = 0.0
    ) -> list[Point]:
        """A filled rectangle around (x, y), turned by `angle` radians; returns its corners."""
        corners = [
            (-width / 2, -height / 2),
            (width / 2, -height / 2),
            (width / 2, height / 2),
            (-width / 2, height / 2),
        ]
        points = moved(corners, x, y, angle)
        self.polygon(points, fill, shadow)
        return points

    def ellipse(
        self, x: float, y: float, width: float, height: float, fill: Colour, shadow: float = 0.0
    ) -> list[Point]:
        """A filled ellipse around (x, y); returns the corners of its box."""
        corners = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
        (x0, y0), (x1, y1) = self._pixels(corners)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if shadow:
            offset = max(1, round(shadow * self.side))
            self.draw.ellipse((left + offset, top + offset, right + offset, bottom + offset), fill=SHADOW)
        self.draw.ellipse((left, top, right, bottom), fill=fill)
        return corners

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A line through the points, `width` as a share of the side."""
        self.draw.line(self._pixels(points), fill=fill, width=max(1, round(width * self.side)), joint="curve")

    def dashes(self, start: Point, end: Point, count: int, fill: Colour = PAINT["white"], width: float = 0.008) -> None:
        """A broken line of `count` dashes."""
        for i in range(count):
            ends = [(i + part) / count for part in (0.2, 0.7)]
            self.line(
                [(start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])) for s in ends], width, fill
            )

    # Things

    def tree(self, x: float, y: float, size: float, colour: Colour) -> None:
        """A crown with its shaded and its sunlit part."""
        colour = shade(colour, self.count(-12, 12))
        self.ellipse(x, y, size, size, shade(colour, -26), shadow=size * 0.18)
        self.ellipse(x, y, size * 0.6, size * 0.6, shade(colour, 16))

    def trees(
        self, count: int, left: float, top: float, right: float, bottom: float, colour: Colour | None = None
    ) -> None:
        """`count` trees strewn over a rectangle."""
        spots = self.rng.uniform((left, top, 0.045), (right, bottom, 0.085), (count, 3))
        for x, y, size in spots.tolist():
            self.tree(x, y, size, colour or TREE["dark green"])

    def house(
        self, x: float, y: float, width: float, height: float, roof: str, name: str = "house", angle: float = 0.0
    ) -> None:
        """A pitched roof: one half in the sun, one in the shade."""
        paint = shade(PAINT[roof], self.count(-8, 8))
        points = self.rectangle(x, y, width, height, paint, angle, shadow=0.014)
        half = [(-width / 2, 0), (width / 2, 0), (width / 2, height / 2), (-width / 2, height / 2)]
        self.polygon(moved(half, x, y, angle), shade(paint, -30))
        self.name(name, points)

    def building(self, x: float, y: float, width: float, height: float, roof: str, name: str = "building") -> None:
        """A flat roof with its parapet and plant on it."""
        paint = shade(PAINT[roof], self.count(-8, 8))
        points = self.rectangle(x, y, width, height, shade(paint, -34), shadow=0.018)
        self.rectangle(x, y, width - 0.025, height - 0.025, paint)
        for _ in range(3):
            at = x + self.jitter(width * 0.35), y + self.jitter(height * 0.25)
            self.rectangle(*at, 0.03, 0.02, shade(paint, -50))
        self.name(name, points)

    def plane(self, x: float, y: float, size: float, colour: str) -> None:
        """An airliner with its nose about up."""
        half = [
            (0.05, -0.45),
            (0.06, -0.14),
            (0.5, 0.12),
            (0.5, 0.22),
            (0.07, 0.1),
            (0.05, 0.32),
            (0.2, 0.45),
            (0.2, 0.5),
        ]
        outline = [(0.0, -0.5), *half, (0.0, 0.44), *[(-px, py) for px, py in reversed(half)]]
        angle = self.jitter(0.35)
        points = moved([(px * size, py * size) for px, py in outline], x, y, angle)
        self.polygon(points, PAINT[colour], shadow=0.018)
        self.line(moved([(0, -0.3 * size), (0, 0.4 * size)], x, y, angle), 0.008, shade(PAINT[colour], -45))
        self.name("plane", points)

    def tank(self, x: float, y: float, size: float, colour: str) -> None:
        """A round tank with rim, lid and ladder."""
        paint = shade(PAINT[colour], self.count(-8, 8))
        corners = self.ellipse(x, y, size, size, shade(paint, -55), shadow=0.024)
        self.ellipse(x, y, size - 0.02, size - 0.02, paint)
        self.ellipse(x, y, size * 0.25, size * 0.25, shade(paint, -28))
        self.line([(x, y), (x + size * 0.45, y)], 0.006, shade(paint, -40))
        self.name("tank", corners)

    def car(self, x: float, y: float, colour: str, along_x: bool = False) -> None:
        """A car with its windows, its length along y or x."""
        angle = (math.pi / 2 if along_x else 0.0) + self.jitter(0.05)
        points = self.rectangle(x, y, 0.046, 0.09, PAINT[colour], angle, shadow=0.007)
        glass = GLASS if colour != "black" else (110, 120, 132)
        for offset in (-0.018, 0.026):
            window = [
                (-0.016, offset - 0.007),
                (0.016, offset - 0.007),
                (0.016, offset + 0.007),
                (-0.016, offset + 0.007),
            ]
            self.polygon(moved(window, x, y, angle), glass)
        self.name("car", points)

    def boat(self, x: float, y: float, length: float, colour: str, angle: float) -> None:
        """A boat with a pointed bow; at angle 0 the bow is up."""
        outline = [(0, -0.5), (0.14, -0.2), (0.16, 0.3), (0.12, 0.5), (-0.12, 0.5), (-0.16, 0.3), (-0.14, -0.2)]
        points = moved([(px * length, py * length) for px, py in outline], x, y, angle)
        self.polygon(points, PAINT[colour], shadow=0.008)
        cabin = [(-0.08, 0.0), (0.08, 0.0), (0.08, 0.24), (-0.08, 0.24)]
        self.polygon(moved([(px * length, py * length) for px, py in cabin], x, y, angle), shade(PAINT[colour], -60))
        self.name("boat", points)


def moved(points: Sequence[Point], x: float, y: float, angle: float) -> list[Point]:
    """Points turned by `angle` radians around the origin, then shifted to (x, y)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in points]
