"""Scene, dates and box as a condition in SQL."""

from datetime import date

from ..geo.footprint import Bounds


def filter_clause(scene: str = "", date_from: str = "", date_to: str = "", box: str = "") -> str | None:
    """The `where` of [`PIRIndex.search`] for what the page's filter fields hold.

    Args:
        scene: a scene label; empty for any, as all fields.
        date_from: "YYYY-MM-DD", or less of it such as "2019"; images without a date are left out.
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
        clauses.append(f"date >= '{_check_date(date_from)}'")
    if date_to.strip():
        clauses.append(f"date <= '{_check_date(date_to)}~'")  # ~ sorts behind digits: "2019~" takes in all of 2019
    if box.strip():
        clauses.append(_box_clause(*_parse_box(box)))
    return " AND ".join(clauses) or None


def _check_date(text: str) -> str:
    """A date as typed if it is one; months and days may be missing."""
    text = text.strip()
    try:
        date.fromisoformat((text + "-01-01")[:10] if len(text) in (4, 7) else text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no date: write it as 2019-09-04, 2019-09 or 2019.") from error
    return text


def _parse_box(text: str) -> Bounds:
    """(west, south, east, north) in degrees."""
    try:
        west, south, east, north = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"{text!r} is no box: write west, south, east, north in degrees.") from error
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
