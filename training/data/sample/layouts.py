"""The drawn scenes: each function lays one out on a canvas and returns its facts, the phrases its captions are made of.

A layout is drawn one way up; the canvas turns it, so sides and places are asked of the canvas. Named things get a box;
what surrounds them (grass, water, roads, trees) does not, and every layout leaves part of the picture to it.
"""

import math
from collections.abc import Callable

from training.data.sample.canvas import GROUND, PAINT, TREE, WATER, Canvas, Colour, moved, shade, spread

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
ROOFS = ("red", "blue", "brown", "white")
DIRT: dict[str, Colour] = {"brown": (140, 92, 56), "red": (176, 70, 48), "yellow": (222, 190, 112)}
CROPS: dict[str, Colour] = {
    "green": (84, 140, 62),
    "yellow": (222, 196, 84),
    "brown": (132, 92, 60),
    "orange": (214, 134, 66),
}
Facts = dict[str, str]


def things(count: int, noun: str, adjective: str = "") -> str:
    """`count` of something in words: "one white plane", "three white planes"."""
    return " ".join(filter(None, (NUMBERS[count], adjective, noun if count == 1 else f"{noun}s")))


def a(phrase: str) -> str:
    """The phrase with its article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def side(canvas: Canvas, name: str) -> str:
    """Where a side of the layout is in the finished picture: "on the left side", "at the top"."""
    name = canvas.side_of(name)
    return f"at the {name}" if name in ("top", "bottom") else canvas.pick((f"on the {name} side", f"on the {name}"))


def place(canvas: Canvas, x: float, y: float) -> str:
    """Where a point is in the finished picture: "in the upper left corner", "on the left side", "in the middle"."""
    column, row = canvas.third_of(x, y)
    if row and column:
        return canvas.pick((f"in the {row} {column} corner", f"in the {row} {column}"))
    if column:
        return canvas.pick((f"on the {column} side", f"on the {column}"))
    return {"upper": "at the top", "": "in the middle", "lower": "at the bottom"}[row]


def across(canvas: Canvas, along_x: bool) -> str:
    """How something that runs through the layout, along x or along y, runs through the finished picture."""
    return "from left to right" if along_x == (canvas.turns % 2 == 0) else "from top to bottom"


def roofed(count: int, noun: str, roof: str) -> str:
    """Buildings by their roofs: "two houses with red roofs"."""
    return f"{things(count, noun)} with {a(f'{roof} roof') if count == 1 else f'{roof} roofs'}"


def border(canvas: Canvas) -> tuple[str, str]:
    """Line the layout's bottom edge with trees, a road or parked cars; returns what it is and the side it is on."""
    kind = canvas.pick(("a row of trees", "a road", "a parking lot"))
    if kind == "a row of trees":
        for x in spread(10, 0.1):
            canvas.tree(x + canvas.jitter(0.015), 0.93 + canvas.jitter(0.01), 0.1, TREE["dark green"])
    elif kind == "a road":
        canvas.rectangle(0.5, 0.93, 1.1, 0.1, GROUND["asphalt"])
        canvas.dashes((0, 0.93), (1, 0.93), 9)
    else:
        canvas.name("parking lot", canvas.rectangle(0.5, 0.92, 0.46, 0.13, GROUND["asphalt"]))
        for x in spread(6, 0.068):
            canvas.line([(x + 0.034, 0.87), (x + 0.034, 0.97)], 0.006, PAINT["white"])
            if canvas.rng.random() < 0.8:
                paint = PAINT[canvas.pick(("white", "black", "grey", "red"))]
                canvas.rectangle(x, 0.92, 0.042, 0.085, paint, shadow=0.006)
    return kind, side(canvas, "bottom")


def cluster(count: int, per_row: int, gap_x: float, gap_y: float, x: float, y: float) -> list[tuple[float, float]]:
    """Places for `count` things in rows around (x, y), the rows as even as they can be."""
    num_rows = math.ceil(count / per_row)
    rows = [count // num_rows + (row < count % num_rows) for row in range(num_rows)]
    heights = spread(num_rows, gap_y, y)
    return [(px, py) for row, py in zip(rows, heights, strict=True) for px in spread(row, gap_x, x)]


def airport(canvas: Canvas) -> Facts:
    """Terminal along one side, planes on the apron before it, runways along the opposite side."""
    grass, roof, paint = (
        canvas.pick(("green grass", "dry grass")),
        canvas.pick(ROOFS),
        canvas.pick(("white", "red", "blue")),
    )
    num_runways, num_planes = canvas.count(1, 2), canvas.count(1, 6)
    canvas.ground(GROUND[grass])
    for x in (0.2, 0.8):
        canvas.rectangle(x, 0.68, 0.06, 0.3, GROUND["asphalt"])
    for y in spread(num_runways, 0.15, 0.85 if num_runways == 1 else 0.84):
        canvas.rectangle(0.5, y, 1.1, 0.1, shade(GROUND["asphalt"], -16))
        canvas.dashes((0, y), (1, y), 7, width=0.012)
    apron = [(0.06, 0.14), (0.94, 0.14), (0.94, 0.64), (0.06, 0.64)]
    canvas.area(apron, GROUND["concrete"], 8)
    canvas.building(0.5, 0.1, 0.6, 0.13, roof, "terminal")
    for x, y in cluster(num_planes, 3, 0.27, 0.225, 0.5, 0.4):
        canvas.plane(x + canvas.jitter(0.015), y, 0.2, paint)
    return {
        "planes": things(num_planes, "plane", paint), "are": "is" if num_planes == 1 else "are",
        "runways": things(num_runways, "runway"), "roof": a(f"{roof} roof"), "side": side(canvas, "top"),
        "far": side(canvas, "bottom"), "grass": grass,
    }  # fmt: skip


def storage_tanks(canvas: Canvas) -> Facts:
    """Round tanks in one or two rows at a side or in the middle, a building in a corner."""
    ground, paint = (
        canvas.pick(("bare earth", "green grass", "concrete")),
        canvas.pick(("white", "grey", "red", "blue")),
    )
    count, y = canvas.count(2, 8), canvas.pick((0.28, 0.47))
    roof, corner_x = canvas.pick(("red", "blue", "brown")), canvas.pick((0.16, 0.84))
    canvas.ground(GROUND[ground])
    canvas.trees(5, 0.3, 0.86, 0.7, 0.97)
    spots = cluster(count, 4, 0.215, 0.22, 0.5, y)
    for row in sorted({spot[1] for spot in spots}):
        canvas.line([(spot[0], row) for spot in spots if spot[1] == row], 0.012, (120, 116, 108))
    canvas.line([(0.5, y), (corner_x, 0.85)], 0.012, (120, 116, 108))
    for spot in spots:
        canvas.tank(*spot, 0.185, paint)
    canvas.building(corner_x, 0.86, 0.26, 0.18, roof)
    return {
        "tanks": things(count, "tank", paint), "place": place(canvas, 0.5, y), "ground": ground,
        "roof": a(f"{roof} roof"), "corner": place(canvas, corner_x, 0.86), "colour": paint,
    }  # fmt: skip


def diamond(canvas: Canvas, x: float, y: float, size: float, dirt: str) -> None:
    """A baseball field: a fan of mown grass, home plate at its lower tip, the infield a square of dirt."""
    home, paint = (x, y + size / 2), DIRT[dirt]
    bend = [(math.sin(step * math.pi / 32), -math.cos(step * math.pi / 32)) for step in range(-8, 9)]
    canvas.polygon(moved([(0, 0), *[(px * size, py * size) for px, py in bend]], *home, 0), paint)
    canvas.polygon(
        moved([(0, -0.02), *[(px * size * 0.94, py * size * 0.94) for px, py in bend]], *home, 0), (84, 150, 70)
    )
    canvas.polygon(moved([(0, 0), *[(px * size * 0.62, py * size * 0.62) for px, py in bend]], *home, 0), paint)
    inner = size * 0.2
    canvas.rectangle(x, home[1] - size * 0.31, inner, inner, (84, 150, 70), math.pi / 4)
    canvas.ellipse(x, home[1] - size * 0.31, size * 0.08, size * 0.08, paint)
    for corner in moved([(0, -inner), (inner, 0), (0, inner), (-inner, 0)], x, home[1] - size * 0.31, 0):
        canvas.rectangle(*corner, 0.014, 0.014, PAINT["white"])
    wide = size * math.sin(math.pi / 4)
    canvas.name("baseball field", [(x - wide, y - size / 2), (x + wide, y + size / 2)])


def baseball_field(canvas: Canvas) -> Facts:
    """One field in a corner, or two or three side by side; a building opposite; an edge of trees, road or cars."""
    count, dirt, roof = canvas.count(1, 3), canvas.pick(tuple(DIRT)), canvas.pick(ROOFS)
    canvas.ground(GROUND["green grass"])
    canvas.trees(6, 0.05, 0.62, 0.95, 0.68)
    size = {1: 0.5, 2: 0.32, 3: 0.22}[count]
    x = canvas.pick((0.26, 0.74)) if count == 1 else 0.5
    for field_x in spread(count, 0.32 if count == 3 else 0.48, x):
        diamond(canvas, field_x, 0.29, size, dirt)
    corner_x = canvas.pick((0.14, 0.86))
    canvas.building(corner_x, 0.76, 0.21, 0.13, roof)
    edge, edge_side = border(canvas)
    return {
        "fields": things(count, "baseball field"), "are": "is" if count == 1 else "are", "dirt": f"{dirt} dirt",
        "place": place(canvas, x, 0.29), "roof": a(f"{roof} roof"), "corner": place(canvas, corner_x, 0.76),
        "edge": edge, "edge_side": edge_side,
    }  # fmt: skip


def tennis_courts(canvas: Canvas) -> Facts:
    """Courts in one or two rows at one side, a building opposite, an edge of trees, road or cars."""
    count, roof, corner_x = canvas.count(1, 6), canvas.pick(ROOFS), canvas.pick((0.14, 0.86))
    court, surround = canvas.pick_two(("blue", "green", "red", "grey"))
    court, surround = (surround, court) if court == "grey" else (court, surround)
    canvas.ground(GROUND["green grass"])
    canvas.trees(5, 0.3, 0.72, 0.7, 0.8)
    for x, y in cluster(count, 3, 0.23, 0.25, 0.5, 0.26):
        points = canvas.rectangle(x, y, 0.2, 0.23, shade(PAINT[surround], -14))
        canvas.rectangle(x, y, 0.126, 0.176, PAINT["white"])
        canvas.rectangle(x, y, 0.11, 0.16, shade(PAINT[court], 10))
        canvas.rectangle(x, y, 0.11, 0.008, PAINT["white"])
        canvas.rectangle(x, y, 0.08, 0.1, PAINT["white"])
        canvas.rectangle(x, y, 0.068, 0.088, shade(PAINT[court], 10))
        canvas.rectangle(x, y, 0.008, 0.1, PAINT["white"])
        canvas.name("tennis court", points)
    canvas.building(corner_x, 0.75, 0.21, 0.14, roof)
    edge, edge_side = border(canvas)
    return {
        "courts": things(count, "tennis court", court), "are": "is" if count == 1 else "are", "court": court,
        "surround": surround, "place": place(canvas, 0.5, 0.26), "roof": a(f"{roof} roof"),
        "corner": place(canvas, corner_x, 0.75), "edge": edge, "edge_side": edge_side,
    }  # fmt: skip


def harbor(canvas: Canvas) -> Facts:
    """A quay with warehouses along one side, piers into the water, boats moored at them."""
    water, roof, paint = canvas.pick(("blue", "green")), canvas.pick(ROOFS), canvas.pick(("white", "red", "yellow"))
    num_piers, num_boats, num_sheds = canvas.count(1, 3), canvas.count(2, 8), canvas.count(1, 3)
    canvas.ground(WATER[water], 14)
    canvas.area([(-0.1, -0.1), (1.1, -0.1), (1.1, 0.25), (-0.1, 0.25)], GROUND["concrete"])
    for x in spread(num_sheds, 0.3):
        canvas.building(x, 0.11, 0.22, 0.13, roof, "warehouse")
    piers = spread(num_piers, 0.33)
    for x in piers:
        canvas.name("pier", canvas.rectangle(x, 0.465, 0.04, 0.47, (150, 128, 98), shadow=0.01))
    berths = [(x, way, y) for x in piers for way in (-1, 1) for y in (0.34, 0.44, 0.54, 0.64)]
    for index in sorted(canvas.rng.choice(len(berths), size=num_boats, replace=False).tolist()):
        x, way, y = berths[index]
        canvas.boat(x + way * 0.092, y, 0.14, paint, way * math.pi / 2 + canvas.jitter(0.08))
    return {
        "boats": things(num_boats, "boat", paint), "piers": things(num_piers, "pier"), "water": f"{water} water",
        "sheds": roofed(num_sheds, "warehouse", roof), "side": side(canvas, "top"), "colour": paint,
        "open": side(canvas, "bottom"),
    }  # fmt: skip


def bank(canvas: Canvas, kind: str, left: float, right: float) -> None:
    """What covers one bank of the river, between two x."""
    corners = [(left, -0.1), (right, -0.1), (right, 1.1), (left, 1.1)]
    if kind == "bare earth":
        canvas.area(corners, GROUND["bare earth"])
    elif kind == "trees":
        canvas.trees(42, left, 0.0, right, 1.0)
    elif kind == "houses":
        for y in (0.1, 0.3, 0.7, 0.9):
            canvas.house((left + right) / 2 + canvas.jitter(0.06), y, 0.15, 0.11, "red", angle=canvas.jitter(0.2))
    else:
        canvas.area(corners, CROPS["yellow"], 10)
        for y in spread(26, 0.04):
            canvas.line([(left, y), (right, y)], 0.006, shade(CROPS["yellow"], -30))


def bridge(canvas: Canvas) -> Facts:
    """A river through the picture, a bridge over it with cars, two different banks."""
    water, paint = canvas.pick(tuple(WATER)), canvas.pick(("white", "red", "yellow", "grey"))
    num_cars, car, y = canvas.count(1, 4), canvas.pick(("white", "black", "red")), canvas.pick((0.24, 0.5))
    near, far = canvas.pick_two(("trees", "houses", "bare earth", "yellow fields"))
    canvas.ground(GROUND["green grass"])
    bank(canvas, near, -0.02, 0.28)
    bank(canvas, far, 0.72, 1.02)
    steps = [step / 10 for step in range(-1, 12)]
    bend, phase = canvas.jitter(0.03), canvas.jitter(3.0)
    left = [(0.3 + bend * math.sin(6 * step + phase), step) for step in steps]
    right = [(0.7 + bend * math.sin(6 * step + phase + 0.5), step) for step in reversed(steps)]
    canvas.area(left + right, WATER[water], 14)
    canvas.rectangle(0.5, y, 1.1, 0.12, GROUND["asphalt"])
    canvas.rectangle(0.5, y + 0.03, 0.5, 0.2, shade(WATER[water], -26))
    canvas.name("bridge", canvas.rectangle(0.5, y, 0.5, 0.18, PAINT[paint]))
    canvas.rectangle(0.5, y, 0.5, 0.115, GROUND["asphalt"])
    canvas.dashes((0, y), (1, y), 11)
    for i, x in enumerate(spread(num_cars, 0.12)):
        canvas.car(x + canvas.jitter(0.01), y + (0.028 if i % 2 else -0.028), car, along_x=True)
    return {
        "bridge": a(f"{paint} bridge"), "cars": things(num_cars, "car", car), "river": a(f"{water} river"),
        "way": across(canvas, along_x=False), "place": place(canvas, 0.5, y), "near": near, "far": far,
        "near_side": side(canvas, "left"), "far_side": side(canvas, "right"),
    }  # fmt: skip


def farmland(canvas: Canvas) -> Facts:
    """A quilt of fields in two colours, one round field, barns, a dirt road in between."""
    crops = [str(crop) for crop in canvas.rng.permutation(list(CROPS))[:3]]
    num_barns, roof = canvas.count(1, 3), canvas.pick(("red", "blue", "white"))
    x = canvas.pick((0.25, 0.75))
    canvas.ground(CROPS[crops[0]])
    for row, (top, bottom) in enumerate(((-0.02, 0.46), (0.54, 0.78), (0.78, 1.02))):
        cuts = (-0.02, 0.33 + canvas.jitter(0.06), 0.67 + canvas.jitter(0.06), 1.02)
        for column, (left, right) in enumerate(zip(cuts, cuts[1:], strict=False)):
            paint = CROPS[crops[(row + column) % 2]]
            canvas.area([(left, top), (right, top), (right, bottom), (left, bottom)], paint, 12)
            for step in range(1, 9):
                line_x = left + (right - left) * step / 9
                canvas.line([(line_x, top), (line_x, bottom)], 0.006, shade(paint, -16))
    canvas.rectangle(0.5, 0.5, 1.1, 0.07, (196, 174, 134))
    canvas.ellipse(x, 0.23, 0.42, 0.42, (196, 186, 140))
    canvas.name("round field", canvas.ellipse(x, 0.23, 0.39, 0.39, CROPS[crops[2]]))
    canvas.line([(x, 0.23), (x + 0.14, 0.1)], 0.008, PAINT["grey"])
    canvas.rectangle(1 - x, 0.77, 0.4, 0.26, GROUND["dry grass"])
    for barn_x in spread(num_barns, 0.125, 1 - x):
        canvas.house(barn_x, 0.77 + canvas.jitter(0.03), 0.1, 0.17, roof, "barn")
    return {
        "crops": f"{crops[0]} and {crops[1]}", "round": a(f"round {crops[2]} field"),
        "round_place": place(canvas, x, 0.23), "barns": roofed(num_barns, "barn", roof),
        "barn_place": place(canvas, 1 - x, 0.77), "way": across(canvas, along_x=True),
    }  # fmt: skip


def forest(canvas: Canvas) -> Facts:
    """Dense trees around a pond and a clearing with cabins, with or without a path."""
    tone, water, roof = canvas.pick(tuple(TREE)), canvas.pick(("blue", "brown")), canvas.pick(("red", "blue", "white"))
    num_cabins, with_path = canvas.count(1, 3), canvas.count(0, 1)
    pond, clearing = canvas.pick_two(((0.23, 0.23), (0.77, 0.23), (0.23, 0.77), (0.77, 0.77)))
    canvas.ground(shade(TREE[tone], -20))
    for row in spread(13, 0.083):
        for column in spread(13, 0.083):
            size = 0.1 + canvas.jitter(0.025)
            canvas.tree(column + canvas.jitter(0.03), row + canvas.jitter(0.03), size, TREE[tone])
    if with_path:
        canvas.line(
            [(-0.05, 0.5), (0.3, 0.5 + canvas.jitter(0.03)), (0.7, 0.5 + canvas.jitter(0.03)), (1.05, 0.5)],
            0.04,
            (186, 160, 116),
        )
    canvas.ellipse(*pond, 0.38, 0.33, (150, 140, 100))
    canvas.name("pond", canvas.ellipse(*pond, 0.35, 0.3, WATER[water]))
    canvas.ellipse(*clearing, 0.42, 0.38, GROUND["green grass"] if tone != "light green" else GROUND["dry grass"])
    for x in spread(num_cabins, 0.13, clearing[0]):
        canvas.house(x, clearing[1] + canvas.jitter(0.04), 0.1, 0.13, roof, "cabin", angle=canvas.jitter(0.2))
    return {
        "forest": a(f"{tone} forest"), "tone": tone, "pond": a(f"{water} pond"), "pond_place": place(canvas, *pond),
        "cabins": roofed(num_cabins, "cabin", roof), "cabin_place": place(canvas, *clearing),
        "path": f"a path {across(canvas, along_x=True)}" if with_path else "no path",
    }  # fmt: skip


def strip(canvas: Canvas, kind: str) -> None:
    """What lies along the layout's top edge beside the housing."""
    corners = [(-0.1, -0.1), (1.1, -0.1), (1.1, 0.23), (-0.1, 0.23)]
    if kind == "a canal":
        canvas.area(corners, WATER["blue"], 14)
    elif kind == "a wood":
        canvas.trees(60, 0.0, 0.02, 1.0, 0.19)
    else:
        canvas.area(corners, CROPS["yellow"], 10)
        for y in spread(6, 0.04, 0.11):
            canvas.line([(0, y), (1, y)], 0.006, shade(CROPS["yellow"], -30))


def dense_residential(canvas: Canvas) -> Facts:
    """Rows of small houses along two parallel streets, one large building among them, something else at one side."""
    roof, hall = canvas.pick_two(("red", "grey", "blue", "brown", "white"))
    kind, hall_x, upper = (
        canvas.pick(("a canal", "a wood", "a yellow field")),
        canvas.pick((0.16, 0.5, 0.84)),
        canvas.count(0, 1),
    )
    canvas.ground(shade(GROUND["green grass"], 10))
    strip(canvas, kind)
    hall_y = 0.34 if upper else 0.92
    for y in (0.45, 0.8):
        canvas.rectangle(0.5, y, 1.1, 0.07, GROUND["asphalt"])
        canvas.dashes((0, y), (1, y), 12, width=0.006)
    for y in (0.35, 0.55, 0.7, 0.9):
        for x in spread(8, 0.125):
            if abs(y - hall_y) > 0.05 or abs(x - hall_x) > 0.19:
                width = 0.09 + canvas.jitter(0.008)
                canvas.house(x + canvas.jitter(0.01), y + canvas.jitter(0.008), width, 0.09, roof)
    for x in spread(9, 0.11):
        canvas.tree(x + canvas.jitter(0.03), 0.625, 0.05, TREE["dark green"])
    canvas.building(hall_x, hall_y, 0.28, 0.12, hall, "school")
    return {
        "roofs": f"{roof} roofs", "way": across(canvas, along_x=True), "strip": kind, "side": side(canvas, "top"),
        "school": f"a school with {a(f'{hall} roof')}", "place": place(canvas, hall_x, hall_y),
    }  # fmt: skip


def sparse_residential(canvas: Canvas) -> Facts:
    """A few houses with gardens and pools, a road along one side."""
    count, num_pools, roof = (
        canvas.count(2, 5),
        canvas.count(1, 2),
        canvas.pick(("red", "grey", "blue", "brown", "white")),
    )
    ground, surface = canvas.pick(("green grass", "dry grass")), canvas.pick(("paved road", "dirt road"))
    canvas.ground(GROUND[ground])
    canvas.trees(16, 0.02, 0.02, 0.98, 0.7)
    road = GROUND["asphalt"] if surface == "paved road" else (186, 134, 86)
    canvas.rectangle(0.5, 0.88, 1.1, 0.1, road)
    if surface == "paved road":
        canvas.dashes((0, 0.88), (1, 0.88), 9)
    lots = [(x, y) for y in (0.2, 0.58) for x in (0.18, 0.5, 0.82)]
    taken = sorted(canvas.rng.choice(len(lots), size=count, replace=False).tolist())
    for i, lot in enumerate(taken):
        x, y = lots[lot]
        canvas.line([(x, y), (x, 0.86)], 0.028, road)
        canvas.rectangle(x, y + 0.03, 0.26, 0.24, shade(GROUND[ground], 14))
        canvas.house(x - 0.02, y, 0.17, 0.13, roof, angle=canvas.jitter(0.15))
        if i < num_pools:
            corners = [(x - 0.05, y + 0.095), (x + 0.07, y + 0.155)]
            canvas.rectangle(x + 0.01, y + 0.125, 0.14, 0.08, GROUND["concrete"])
            canvas.rectangle(x + 0.01, y + 0.125, 0.12, 0.06, (70, 190, 222))
            canvas.name("swimming pool", corners)
    return {
        "houses": roofed(count, "house", roof), "pools": things(num_pools, "swimming pool"),
        "ground": ground, "road": a(surface), "side": side(canvas, "bottom"),
    }  # fmt: skip


def parking_lot(canvas: Canvas) -> Facts:
    """Rows of cars of two colours before a building, full or half empty."""
    num_rows, roof, full = canvas.count(1, 4), canvas.pick(("red", "blue", "brown", "white")), canvas.count(0, 1)
    colours = canvas.pick_two(("white", "red", "blue", "black", "yellow"))
    edge = canvas.pick(("trees", "green grass", "bare earth"))
    canvas.ground(GROUND["bare earth" if edge == "bare earth" else "green grass"])
    if edge == "trees":
        canvas.trees(60, 0.0, 0.02, 1.0, 0.98)
    canvas.area([(0.07, 0.24), (0.93, 0.24), (0.93, 0.74), (0.07, 0.74)], GROUND["asphalt"], 10)
    canvas.building(0.5, 0.12, 0.7, 0.16, roof)
    slots = spread(11, 0.075)
    for y in spread(num_rows, 0.115, 0.49):
        for x in spread(12, 0.075):
            canvas.line([(x, y - 0.05), (x, y + 0.05)], 0.006, PAINT["white"])
        taken = slots if full else [slots[i] for i in sorted(canvas.rng.choice(11, size=5, replace=False).tolist())]
        paints = canvas.rng.permutation([i % 2 for i in range(len(taken))]).tolist()
        for x, paint in zip(taken, paints, strict=True):
            canvas.car(x, y, colours[paint])
    return {
        "rows": things(num_rows, "row"), "cars": f"{colours[0]} and {colours[1]} cars",
        "full": "full" if full else "half empty", "roof": a(f"{roof} roof"), "side": side(canvas, "top"),
        "edge": edge,
    }  # fmt: skip


def stadium(canvas: Canvas) -> Facts:
    """Oval stands around a track and a pitch, an edge of trees, road or cars."""
    stands, track = canvas.pick(("white", "grey", "blue", "yellow", "red")), canvas.pick(("red", "blue", "black"))
    if stands == track:
        track = "black"
    roof, corner_x = canvas.pick(ROOFS), canvas.pick((0.14, 0.86))
    ground, x = canvas.pick(("green grass", "concrete", "dry grass")), canvas.pick((0.32, 0.68))
    canvas.ground(GROUND[ground])
    canvas.trees(7, 0.02, 0.6, 0.98, 0.75)
    paint = PAINT[stands]
    corners = canvas.ellipse(x, 0.26, 0.6, 0.44, shade(paint, -50), shadow=0.03)
    for shrink, step in ((0.02, 0), (0.06, -22), (0.08, 0), (0.12, -22), (0.14, 0)):
        canvas.ellipse(x, 0.26, 0.6 - shrink, 0.44 - shrink, shade(paint, step))
    canvas.ellipse(x, 0.26, 0.43, 0.27, PAINT[track])
    canvas.ellipse(x, 0.26, 0.35, 0.19, (70, 140, 62))
    for i, stripe in enumerate(spread(6, 0.039, x)):
        canvas.rectangle(stripe, 0.26, 0.039, 0.12, (84, 160, 74) if i % 2 else (64, 132, 58))
    canvas.rectangle(x, 0.26, 0.008, 0.12, PAINT["white"])
    canvas.name("stadium", corners)
    canvas.building(corner_x, 0.75, 0.21, 0.14, roof)
    edge, edge_side = border(canvas)
    return {
        "stands": f"{stands} stands", "track": a(f"{track} running track"), "ground": ground,
        "place": place(canvas, x, 0.26), "edge": edge, "edge_side": edge_side,
        "roof": a(f"{roof} roof"), "corner": place(canvas, corner_x, 0.75), "way": across(canvas, along_x=True),
    }  # fmt: skip


def roundabout(canvas: Canvas) -> Facts:
    """A ring with an island in the middle, three or four roads, cars, houses in the corners."""
    num_roads, num_cars, num_houses = canvas.count(3, 4), canvas.count(1, 4), canvas.count(1, 3)
    car, roof = canvas.pick(("white", "red", "black", "yellow")), canvas.pick(ROOFS)
    island = canvas.pick(("green grass", "a blue fountain", "orange flowers", "bare earth"))
    canvas.ground(GROUND["green grass"])
    middle, road = (0.5, 0.5), GROUND["asphalt"]
    for end in ((0.5, 1.1), (-0.1, 0.5), (1.1, 0.5), (0.5, -0.1))[:num_roads]:
        canvas.line([middle, end], 0.13, road)
        canvas.dashes(middle, end, 9, width=0.006)
    canvas.name("roundabout", canvas.ellipse(*middle, 0.5, 0.5, road))
    canvas.ellipse(*middle, 0.27, 0.27, PAINT["white"])
    paints = {"green grass": (78, 150, 62), "bare earth": GROUND["bare earth"], "orange flowers": PAINT["orange"]}
    canvas.ellipse(*middle, 0.25, 0.25, paints.get(island, GROUND["concrete"]))
    if island == "a blue fountain":
        canvas.ellipse(*middle, 0.18, 0.18, (60, 150, 220))
        canvas.ellipse(*middle, 0.05, 0.05, PAINT["white"])
    spots = [(0.5 + 0.19 * math.cos(angle), 0.5 + 0.19 * math.sin(angle)) for angle in (0.8, 2.4, 3.9, 5.5)]
    for i in sorted(canvas.rng.choice(4, size=num_cars, replace=False).tolist()):
        canvas.car(*spots[i], car, along_x=bool(i % 2))
    lots = [(0.16, 0.16), (0.84, 0.16), (0.16, 0.84), (0.84, 0.84)]
    chosen = canvas.rng.permutation(4).tolist()
    for i in chosen[:num_houses]:
        canvas.house(*lots[i], 0.2, 0.15, roof, angle=canvas.jitter(0.2))
    for i in chosen[num_houses:]:
        canvas.trees(6, lots[i][0] - 0.1, lots[i][1] - 0.1, lots[i][0] + 0.1, lots[i][1] + 0.1)
    return {
        "roads": things(num_roads, "road"), "cars": things(num_cars, "car", car),
        "are": "is" if num_cars == 1 else "are",
        "houses": roofed(num_houses, "house", roof), "island": island,
        "reach": "all four sides" if num_roads == 4 else f"all sides but the {canvas.side_of('top')}",
    }  # fmt: skip


def beach(canvas: Canvas) -> Facts:
    """Sea along one side with boats, umbrellas on the sand, an edge of trees, road or cars."""
    water, umbrella, boat = (
        canvas.pick(("blue", "green")),
        canvas.pick(("red", "blue", "white", "green")),
        canvas.pick(("white", "red", "yellow")),
    )
    num_umbrellas, num_boats = canvas.count(2, 6), canvas.count(1, 3)
    canvas.ground(GROUND["sand"], 12)
    phase = canvas.jitter(3.0)
    shore = [(step / 12, 0.42 + 0.025 * math.sin(step + phase)) for step in range(-1, 14)]
    canvas.area([(-0.1, -0.1), *[(x, y) for x, y in shore], (1.1, -0.1)], WATER[water], 14)
    canvas.line(shore, 0.03, (236, 240, 238))
    for x in spread(num_boats, 0.3):
        canvas.boat(x + canvas.jitter(0.05), 0.2 + canvas.jitter(0.06), 0.17, boat, canvas.jitter(1.2))
    for x, y in cluster(num_umbrellas, 3, 0.2, 0.15, 0.5 + canvas.jitter(0.12), 0.65):
        x, y = x + canvas.jitter(0.02), y + canvas.jitter(0.02)
        canvas.rectangle(x + 0.03, y + 0.045, 0.03, 0.07, (170, 130, 96))
        corners = canvas.ellipse(x, y, 0.11, 0.11, PAINT[umbrella], shadow=0.02)
        canvas.ellipse(x, y, 0.03, 0.03, shade(PAINT[umbrella], -40))
        canvas.name("umbrella", corners)
    edge, edge_side = border(canvas)
    return {
        "umbrellas": things(num_umbrellas, "umbrella", umbrella), "boats": things(num_boats, "boat", boat),
        "water": f"{water} sea", "side": side(canvas, "top"), "edge": edge, "edge_side": edge_side,
    }  # fmt: skip


LAYOUTS: dict[str, Callable[[Canvas], Facts]] = {
    layout.__name__: layout
    for layout in (
        airport, baseball_field, beach, bridge, dense_residential, farmland, forest, harbor, parking_lot, roundabout,
        sparse_residential, stadium, storage_tanks, tennis_courts,
    )
}  # fmt: skip
