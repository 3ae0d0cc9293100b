"""Turn scene, dates and box into an SQL condition."""

from ..geo.footprint import Bounds
from .archive.dates import iso_date


def filter_clause(scene: str = "", date_from: str = "", date_to: str = "", box: str = "") -> str | None:
    """The `where` of [`PIRIndex.search`] for what the page's filter fields hold.

    Args:
        scene: a scene label; empty for any, as all fields.
        date_from: "YYYY-MM-DD", less of it or another spelling of [`iso_date`]; images without a date are left out.
        date_to: likewise, itself included.
        box: "west, south, east, north" in degrees; west may be larger than east, across the antimeridian. Images
            that the box touches are kept, those without a place are left out.

    Returns:
        SQL, or None where nothing is filtered.

    Raises:
        ValueError: a field that cannot be read.
    """
    clauses = []
    if scene.strip():
        quoted = scene.strip().replace("'", "''")
        clauses.append(f"scene = '{quoted}'")
    if date_from.strip():
        clauses.append(f"date >= '{iso_date(date_from)}'")
    if date_to.strip():
        clauses.append(f"date <= '{iso_date(date_to)}~'")  # ~ sorts behind digits: "2019~" takes in all of 2019
    if box.strip():
        clauses.append(_box_clause(*_parse_box(box)))
    return " AND ".join(clauses) or None


def _parse_box(text: str) -> Bounds:
    """(west, south, east, north) in degrees."""
    try:
        west, south, east, north = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a box: write west, south, east, north in degrees.") from error
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise ValueError(
            f"The box {text!r} is not on the globe: longitudes go from -180 to 180, latitudes from -90 to 90, and "
            "south is not above north."
        )
    return west, south, east, north


def _box_clause(west: float, south: float, east: float, north: float) -> str:
    """SQL for bounds that touch a box; bounds and box may each cross the antimeridian (west above east)."""
    if west > east:
        longitude = f"(minx > maxx OR maxx >= {west} OR minx <= {east})"
    else:
        longitude = f"((minx <= {east} AND maxx >= {west}) OR (minx > maxx AND (minx <= {east} OR maxx >= {west})))"
    return f"{longitude} AND miny <= {north} AND maxy >= {south}"
