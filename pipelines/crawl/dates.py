"""Parses dates in the many forms that users' data has."""

import contextlib
import datetime
import email.utils
import re
from typing import Any

ACCEPTED = (
    "ISO 8601, YYYY, YYYY-MM, YYYYMMDD, YYYYMMDDhhmmss, 5 Jan 2024, an HTTP date, seconds, "
    "milliseconds, microseconds or nanoseconds since 1970, CC-MAIN-YYYY-WW"
)

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")
#: Longer text is refused, because input may be hostile.
_LONGEST_CHARACTERS = 64
_DUMP = re.compile(r"CC-MAIN-(\d{4})-(\d{2})", re.ASCII)
_YEAR_DIGITS, _DAY_DIGITS, _SECOND_DIGITS = 4, 8, 14
_MONTH_CHARACTERS = len("YYYY-MM")
#: Smallest number that is read as seconds; it means March 1973. Numbers from 10**11 are
#: milliseconds, from 10**14 microseconds, from 10**17 nanoseconds. So dates until the year 5138 are
#: unambiguous.
_LEAST_SECONDS = 10**8
_UNITS_PER_SECOND = (1, 10**3, 10**6, 10**9)


def parse_date(value: Any) -> datetime.datetime | None:
    """Return a date in UTC, or None if it cannot be parsed. A date without a zone is UTC.

    Text may be ISO 8601 (a day may have slashes; a year or month means its first day), RFC 1123 or
    another HTTP form, a day with the English name of its month, or a number. The name of a Common
    Crawl dump means the Monday of its week. Numbers of 4, 8 and 14 digits are YYYY, YYYYMMDD and
    YYYYMMDDhhmmss, as in CDX. Other numbers are seconds, milliseconds, microseconds or nanoseconds
    since 1970, depending on their size; 0 is 1970.
    """
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        moment = _parse_moment(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.astimezone(datetime.UTC)
    return None


def format_date(moment: datetime.datetime) -> str:
    """Format a date in UTC like WARC-Date; omit fractions of a second that are zero."""
    return moment.replace(tzinfo=None).isoformat() + "Z"


def to_micros(moment: datetime.datetime) -> int:
    """Return a date in microseconds since 1970."""
    return (moment - EPOCH) // datetime.timedelta(microseconds=1)


def is_dump(value: Any) -> bool:
    """Return whether a value is the name of a Common Crawl dump."""
    return isinstance(value, str) and _DUMP.fullmatch(value.strip()) is not None


def _parse_moment(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _parse_number(value)
    if isinstance(value, str):
        return _parse_text(value.strip())
    raise TypeError


def _parse_text(value: str) -> datetime.datetime:
    if len(value) > _LONGEST_CHARACTERS:
        raise ValueError
    if dump := _DUMP.fullmatch(value):
        return _parse_moment(datetime.date.fromisocalendar(int(dump[1]), int(dump[2]), 1))
    # Try numbers before ISO 8601, because Python reads long numbers as a day and a time.
    if _NUMBER.fullmatch(value):
        return _parse_number(float(value) if "." in value else int(value))
    iso = value.removesuffix(" UTC").replace("/", "-")
    try:
        return datetime.datetime.fromisoformat(iso + "-01" * (len(iso) == _MONTH_CHARACTERS))
    except ValueError:
        return email.utils.parsedate_to_datetime(value if ":" in value else f"{value} 00:00 GMT")


def _parse_number(value: float) -> datetime.datetime:
    if value == int(value):  # if values are missing, pandas turns integers into floats
        value = int(value)
        digits = str(value)
        if len(digits) == _YEAR_DIGITS:
            return datetime.datetime(value, 1, 1)
        if len(digits) in (_DAY_DIGITS, _SECOND_DIGITS):
            day, time = digits[:_DAY_DIGITS], digits[_DAY_DIGITS:]
            return datetime.datetime.fromisoformat(f"{day}T{time}" if time else day)
    if value == 0:
        return EPOCH
    for units in reversed(_UNITS_PER_SECOND):
        if value >= _LEAST_SECONDS * units:
            return EPOCH + datetime.timedelta(microseconds=round(value * 1_000_000 / units))
    raise ValueError
