"""Hits on a map, drawn as SVG."""

import html
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..geo.footprint import Bounds
from ..inference.figures import BLUE, ORANGE

if TYPE_CHECKING:
    from ..index.hit import Hit


MAP_SIZE = (480, 340)  # pixels, about what the page gives it
MAP_MARGIN = 0.15  # of the hits' extent, left free on each side
MIN_MAP_EXTENT = 0.0005  # degrees, about 50 m: a single chip is not blown up further
GRID_STEPS = (
    60,
    30,
    20,
    10,
    5,
    2,
    1,
    0.5,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
    0.005,
    0.002,
    0.001,
    0.0005,
    0.0002,
    0.0001,
)  # degrees


def draw_map(hits: Sequence["Hit"]) -> str:
    """A map of the hits: footprints with their ranks on a grid of degrees, with no background from elsewhere.

    Args:
        hits: of a search; those without a place are counted below the map.

    Returns:
        HTML with an inline SVG. North is up; distances are true to scale in the middle of the map.
    """
    placed = [(rank, hit) for rank, hit in enumerate(hits, start=1) if hit.bounds is not None]
    if not placed:
        return "<p>None of these images has a place on the ground.</p>"
    turn = _map_turn([hit.bounds for _, hit in placed])
    boxes = [_unwrap(hit.bounds, turn) for _, hit in placed]
    project, (west, south, east, north) = _projection(boxes)
    width, height = MAP_SIZE
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="map of the hits" '
        'style="width:100%;background:white;border:1px solid #999" xmlns="http://www.w3.org/2000/svg">',
        *_grid_lines(project, west, south, east, north),
        *(_marker(project, rank, hit, box) for (rank, hit), box in reversed(list(zip(placed, boxes, strict=True)))),
        "</svg>",
    ]
    if len(placed) < len(hits):
        parts.append(f"<p>{len(hits) - len(placed)} of {len(hits)} images have no place on the ground.</p>")
    return "\n".join(parts)


def _map_turn(boxes: Sequence[Bounds]) -> float:
    """Longitude at which the map is cut open: -180, or 0 where that keeps the hits closer together."""
    spans = []
    for turn in (-180.0, 0.0):
        unwrapped = [_unwrap(box, turn) for box in boxes]
        spans.append(max(box[2] for box in unwrapped) - min(box[0] for box in unwrapped))
    return 0.0 if spans[1] < spans[0] else -180.0


def _unwrap(box: Bounds, turn: float) -> Bounds:
    """Bounds with west in [turn, turn + 360) and east not below it."""
    west, south, east, north = box
    shifted = turn + (west - turn) % 360
    return shifted, south, shifted + (east - west) % 360, north


def _projection(boxes: Sequence[Bounds]) -> tuple[Callable[[float, float], tuple[float, float]], Bounds]:
    """From degrees to the map's pixels, and the degrees that the map's edges show."""
    wests, souths, easts, norths = zip(*boxes, strict=True)
    lon, lat = (min(wests) + max(easts)) / 2, (min(souths) + max(norths)) / 2
    squeeze = max(0.05, math.cos(math.radians(lat)))  # a degree of longitude against one of latitude
    width, height = MAP_SIZE
    extent_x = max(MIN_MAP_EXTENT, max(easts) - min(wests)) * squeeze * (1 + 2 * MAP_MARGIN)
    extent_y = max(MIN_MAP_EXTENT, max(norths) - min(souths)) * (1 + 2 * MAP_MARGIN)
    scale = min(width / extent_x, height / extent_y)  # pixels per degree of latitude

    def project(x: float, y: float) -> tuple[float, float]:
        return width / 2 + (x - lon) * squeeze * scale, height / 2 - (y - lat) * scale

    half_x, half_y = width / 2 / (squeeze * scale), height / 2 / scale
    return project, (lon - half_x, lat - half_y, lon + half_x, lat + half_y)


def _grid_lines(
    project: Callable[[float, float], tuple[float, float]], west: float, south: float, east: float, north: float
) -> list[str]:
    """Meridians and parallels at round degrees, three to about eight of each, with their names."""
    step = next((step for step in GRID_STEPS if min(east - west, north - south) / step >= 2), GRID_STEPS[-1])
    lines = []
    for axis, (low, high) in enumerate(((west, east), (south, north))):
        for number in range(math.ceil(low / step), math.floor(high / step) + 1):
            degrees = round(number * step, 6)
            x, y = project(degrees if axis == 0 else west, degrees if axis == 1 else south)
            end = f'x2="{x:.1f}" y2="0"' if axis == 0 else f'x2="{MAP_SIZE[0]}" y2="{y:.1f}"'
            start = f'x1="{x:.1f}" y1="{MAP_SIZE[1]}"' if axis == 0 else f'x1="0" y1="{y:.1f}"'
            lines.append(f'<line {start} {end} stroke="#ddd"/>')
            place = f'x="{x + 3:.1f}" y="{MAP_SIZE[1] - 4}"' if axis == 0 else f'x="3" y="{y - 3:.1f}"'
            lines.append(f'<text {place} font-size="11" fill="#666">{_degrees_text(degrees, axis)}</text>')
    return lines


def _degrees_text(degrees: float, axis: int) -> str:
    """Such as 99.5° W."""
    if axis == 0:
        degrees = (degrees + 180) % 360 - 180
    letter = ("E" if degrees >= 0 else "W", "N" if degrees >= 0 else "S")[axis]
    return f"{round(abs(degrees), 6):g}° {letter}"


def _marker(project: Callable[[float, float], tuple[float, float]], rank: int, hit: "Hit", box: Bounds) -> str:
    """A hit's footprint, at least a few pixels wide, with its rank; pointing at it shows its file."""
    polygons = _rings(hit, box)
    paths = "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (project(*p) for p in ring)) + "Z" for ring in polygons
    )
    x, y = project((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    color = ORANGE if rank == 1 else BLUE
    title = html.escape(f"{rank}: {hit.path}, similarity {hit.similarity:.3f}" + (f", {hit.date}" if hit.date else ""))
    return (
        f'<g><title>{title}</title><path d="{paths}" fill="{color}" fill-opacity="0.2" stroke="{color}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{color}"/><text x="{x:.1f}" y="{y + 4:.1f}" font-size="11" '
        f'font-weight="bold" fill="white" text-anchor="middle">{rank}</text></g>'
    )


def _rings(hit: "Hit", box: Bounds) -> list[list[tuple[float, float]]]:
    """The outlines of a hit, on the map's turn of longitude."""
    west, south, east, north = box
    if hit.footprint is None:
        return [[(west, south), (east, south), (east, north), (west, north)]]
    polygons = hit.footprint["coordinates"]
    if hit.footprint["type"] == "Polygon":
        polygons = [polygons]
    middle = (west + east) / 2
    return [[(middle + (x - middle + 180) % 360 - 180, y) for x, y, *_ in polygon[0]] for polygon in polygons]
