"""Convert dates in any common notation to ISO, so that they sort and compare as text."""

import re
from datetime import UTC, date, datetime

PARTS = re.compile(r"(?P<year>\d{4})(?:[-/.:](?P<month>\d{1,2})(?:[-/.:](?P<day>\d{1,2}))?)?(?:[T ](?P<time>.+))?")
COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})?(?:[T ]?(\d{2}:?\d{2}(?::?\d{2})?.*))?")


def iso_date(text: str) -> str:
    """A date as ISO 8601: "2019", "2019-09", "2019-09-04" or with a time, in UTC where its zone is told.

    Args:
        text: such as "2019/9/4", "20190904", "2019:09:04 10:20:00" (as cameras write it) or "2019-09-04T10:20:00Z".

    Raises:
        ValueError: no date, or one whose day and month could be either, such as "04/09/2019".
    """
    plain = text.strip()
    compact = COMPACT.fullmatch(plain)
    if compact and not (len(plain) == 4 or len(plain) == 6):
        year, month, day, time = compact.groups()
        plain = f"{year}-{month}-{day}" + (f"T{time}" if time else "")
    elif compact and len(plain) == 6:
        plain = f"{plain[:4]}-{plain[4:]}"
    found = PARTS.fullmatch(plain)
    try:
        if found is None:
            raise ValueError("it does not begin with the year")
        numbers = [int(found[name]) for name in ("year", "month", "day") if found[name]]
        day = date(*numbers, *[1] * (3 - len(numbers))).isoformat()
        if not found["time"]:
            return day[: (4, 7, 10)[len(numbers) - 1]]
        moment = datetime.fromisoformat(f"{day}T{found['time'].strip()}")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date: write it as 2019-09-04, 2019-09 or 2019.") from error
    if moment.tzinfo is not None:
        return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return moment.isoformat(timespec="seconds")
