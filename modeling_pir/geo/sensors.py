"""Sensor, date and colour bands, from the tags and the name of a file."""

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


SENSOR_TAGS = ("satelliteid", "spacecraft_id", "satellite", "platform", "sensor", "sensor_name")
DATE_TAGS = ("acquisitiondatetime", "acquisition_date", "date_acquired", "datetime")
SENSOR_PATTERNS = (  # of a lower-case file name or tag; {} takes the mission's number
    (r"landsat[-_ ]?0?([1-9])(?!\d)", "Landsat-{}"),
    (r"^l[cotem]0?([1-9])[_\d]", "Landsat-{}"),
    (r"landsat", "Landsat"),
    (r"sentinel[-_ ]?([12])|^s([12])[abc]_", "Sentinel-{}"),
    (r"^t\d\d[a-z]{3}_\d{8}t\d{6}", "Sentinel-2"),
    (r"naip|national agriculture imagery|^m_\d{7}_[ns][ew]_", "NAIP"),
    (r"planetscope|_3b_(?:analytic|visual)", "PlanetScope"),
    (r"(?<![a-z])hro(?![a-z])", "USGS HRO"),
    (r"(?<![a-z])neon(?![a-z])", "NEON AOP"),
)
COLORS = ("red", "green", "blue")
BAND_NAME_TAGS = ("bandname", "band_name", "name", "description", "long_name")  # of a band without a description
BAND_ORDERS = (  # sensor, numbers of bands, where red, green and blue are; the first that fits
    (r"Landsat-[89]", range(7, 12), (4, 3, 2)),  # band 1 is the coastal one
    (r"Landsat", range(6, 9), (3, 2, 1)),
    (r"Sentinel-2", (12, 13), (4, 3, 2)),
    (r"Sentinel-2", (4, 10), (3, 2, 1)),  # without the 60 m bands
    (r"PlanetScope", (4, 5), (3, 2, 1)),
    (r"PlanetScope", (8,), (6, 4, 2)),
    (r"", (1, 2), (1, 1, 1)),
    (r"", (3, 4), (1, 2, 3)),  # 4: near infrared last, as NAIP
    (r"", (5, 6), (3, 2, 1)),  # by wavelength, as the sensors that deliver so many
)


def check_bands(bands: Sequence[int] | None, dataset: "DatasetReader", path: str | Path) -> tuple[int, ...] | None:
    """The declared bands if the file has them; None where none are declared."""
    if bands is not None and (len(bands) != 3 or not all(1 <= band <= dataset.count for band in bands)):
        raise ValueError(
            f"bands is {tuple(bands)}, but {path} has {dataset.count} bands: name three of them, red, green and blue, "
            "counted from 1."
        )
    return None if bands is None else tuple(int(band) for band in bands)


def guess_bands(dataset: "DatasetReader", num_bands: int, sensor: str | None, path: str | Path) -> tuple[int, int, int]:
    """Find red, green and blue: by the bands' names, a declared order, the sensor, the number of bands.

    Red, green, blue in this order is what GDAL says of any file of three 8-bit bands or more, so it counts last.

    Args:
        dataset: an open raster.
        num_bands: without an alpha band.
        sensor: as in [`Chip`].
        path: what an error calls the file.

    Returns:
        Three band numbers from 1; one band three times for greyscale.

    Raises:
        ValueError: nothing tells.
    """
    described = _described(dataset, sensor)
    interpreted: dict[str, int] = {}
    for band, color in enumerate(dataset.colorinterp, start=1):
        interpreted.setdefault(color.name, band)
    for found in (described, interpreted):
        if set(COLORS) <= set(found):
            order = found["red"], found["green"], found["blue"]
            if found is described or order != (1, 2, 3):
                return order
    for pattern, counts, order in BAND_ORDERS:
        if num_bands in counts and re.match(pattern, sensor or "") and (pattern or not set(COLORS) <= set(interpreted)):
            return order
    if set(COLORS) <= set(interpreted):
        return 1, 2, 3
    raise ValueError(
        f"{path} has {num_bands} bands and does not say which are red, green and blue: name them, such as "
        "bands=(4, 3, 2)."
    )


def names_colors(dataset: "DatasetReader") -> bool:
    """Whether a file itself names its red, green and blue band."""
    return set(COLORS) <= set(_described(dataset, None))


def _described(dataset: "DatasetReader", sensor: str | None) -> dict[str, int]:
    """Bands by colour, as far as descriptions or tags name them: "Red", "B04", "SR_B4", "band 4"."""
    is_old_landsat = bool(sensor and re.match(r"Landsat-[4-7]", sensor))
    number_of = {"red": 3, "green": 2, "blue": 1} if is_old_landsat else {"red": 4, "green": 3, "blue": 2}
    found: dict[str, int] = {}
    for band, description in enumerate(dataset.descriptions, start=1):
        tags = {key.lower(): value for key, value in dataset.tags(band).items()}
        text = (description or next((tags[key] for key in BAND_NAME_TAGS if tags.get(key)), "")).lower()
        number = re.search(r"(?:^|[^a-z])b(?:and)?[ _]?0*(\d+)(?:_\d+m)?$", text)
        for color in COLORS:
            named = re.search(rf"(?<![a-z]){color}(?![a-z])", text) and not re.search("edge|infra|nir", text)
            if named or text.strip() == color[0] or (number and int(number[1]) == number_of[color]):
                found.setdefault(color, band)
    return found


def date_and_sensor(dataset: "DatasetReader", name: str) -> tuple[str | None, str | None]:
    """When and by what a scene was taken: by its tags, else by its file name.

    TIFFTAG_DATETIME comes last, since many programs write there when the file was made.
    """
    tags = {key.lower(): str(value) for key, value in (dataset.tags() | dataset.tags(ns="IMAGERY")).items()}
    declared = next((tags[tag] for tag in SENSOR_TAGS if tags.get(tag)), None)
    described = f"{name}\n{tags.get('tifftag_imagedescription', '')}"
    sensor = (find_sensor(declared) or declared) if declared else find_sensor(described)
    dates = [find_date(tags[tag]) for tag in DATE_TAGS if tag in tags]
    dates += [find_date(name, with_year=sensor is not None), find_date(tags.get("tifftag_datetime", ""))]
    return next((found for found in dates if found), None), sensor


def find_sensor(text: str) -> str | None:
    """The sensor that a file name or tag speaks of, by `SENSOR_PATTERNS`; None where it speaks of none."""
    for pattern, sensor in SENSOR_PATTERNS:
        match = re.search(pattern, text.lower(), flags=re.MULTILINE)
        if match:
            return sensor.format(next((group for group in match.groups() if group), ""))
    return None


def find_date(text: str, with_year: bool = False) -> str | None:
    """The first date that a file name or tag speaks of.

    Args:
        text: such as "m_3607717_sw_18_1_20160620" or "LC80150342013162LGN00" (year and day of the year).
        with_year: whether a year standing alone counts; only a text known to speak of a sensor's scene earns it.

    Returns:
        "YYYY-MM-DD", "YYYY", or None. Only dates from 1900 until today count.
    """
    found = []
    for match in re.finditer(r"(?<!\d)(\d{4})([-:/._]?)(\d\d)\2(\d\d)(?!\d)", text):
        found.append((match[1], match[3], match[4]))
    landsat = re.search(r"^L[COTEM]\d{7}(\d{4})(\d{3})[A-Z]{3}\d\d", text)
    if landsat:
        day = date(int(landsat[1]), 1, 1) + timedelta(days=int(landsat[2]) - 1)
        found.append((str(day.year), f"{day.month:02}", f"{day.day:02}"))
    for parts in found:
        try:
            day = date(*map(int, parts))
        except ValueError:  # eight digits that are no day, such as a tile's number
            continue
        if date(1900, 1, 1) <= day <= date.today():
            return day.isoformat()
    years = re.findall(r"(?<![^\W_])(\d{4})(?![^\W_])", text) if with_year else []
    return next((year for year in years if 1900 <= int(year) <= date.today().year), None)
