"""Queries over HTTP: their fields, their limits, and the `Query` they become."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_HITS = 500
MAX_TEXT = 1000  # characters of a sentence; a model reads about 60 tokens of it
MAX_MARKS = 100  # hits that are marked right or wrong
MAX_SENTENCES = 100  # that are ranked for one picture
RowId = Field(pattern="^[0-9a-f]{32}$")


class Question(BaseModel):
    """A question: at least one of `text`, `picture` and `like`.

    Attributes:
        text: what is to be seen, in English.
        without: what is not to be seen.
        picture: the name that `POST /api/pictures` gave to an image.
        like: ids of rows that are right.
        unlike: ids of rows that are wrong.
        k: hits at most.
        scene: only rows with one of these labels.
        sensor: only rows of one of these sensors.
        only: "COLUMN=VALUE" each: only rows with one of the values that are given for a column that labels brought.
        after: only from this day, month or year on.
        before: only up to this day, month or year, itself included.
        box: only what touches west, south, east, north, in degrees.
        group: "place" shows the best of overlapping parts and dates of one place and counts the others.
    """

    model_config = ConfigDict(extra="forbid")

    text: str = ""
    without: str = ""
    picture: str = ""
    like: list[str] = []
    unlike: list[str] = []
    k: int = Field(24, ge=1, le=MAX_HITS)
    scene: list[str] = []
    sensor: list[str] = []
    only: list[str] = []
    after: str = ""
    before: str = ""
    box: str = ""
    group: Literal["place", "none"] = "none"

    @field_validator("text", "without")
    @classmethod
    def _short(cls, text: str) -> str:
        if len(text) > MAX_TEXT:
            raise ValueError(
                f"the sentence has {len(text):,} characters, and at most {MAX_TEXT:,} are read: shorten it"
            )
        return text.strip()

    @field_validator("like", "unlike")
    @classmethod
    def _rows(cls, ids: list[str]) -> list[str]:
        if len(ids) > MAX_MARKS:
            raise ValueError(f"{len(ids)} rows are marked, and at most {MAX_MARKS} are used")
        for row_id in ids:
            check_row_id(row_id)
        return ids


class Ranking(BaseModel):
    """Sentences that are to be ranked for a picture or for a row.

    Attributes:
        sentences: at most `MAX_SENTENCES`.
        picture: the name that `POST /api/pictures` gave to an image; or
        row: the id of a row.
    """

    model_config = ConfigDict(extra="forbid")

    sentences: list[str] = Field(min_length=1, max_length=MAX_SENTENCES)
    picture: str = ""
    row: str = ""

    @field_validator("sentences")
    @classmethod
    def _short(cls, sentences: list[str]) -> list[str]:
        if any(len(text) > MAX_TEXT for text in sentences):
            raise ValueError(f"a sentence has more than {MAX_TEXT:,} characters: shorten it")
        return sentences


Format = Literal["json", "geojson", "csv", "parquet"]


def check_row_id(row_id: str) -> str:
    """An id if it is one.

    Raises:
        ValueError: it is none.
    """
    if len(row_id) != 32 or set(row_id) - set("0123456789abcdef"):
        raise ValueError(f"{row_id[:40]!r} is not the id of a row: it has 32 hexadecimal digits")
    return row_id
