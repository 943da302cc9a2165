import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.crawl.dates import format_date, parse_date, to_micros

BERLIN = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("2024-01-05T12:00:00Z", "2024-01-05T12:00:00Z"),
        ("2024-01-05T12:00:00.25+01:00", "2024-01-05T11:00:00.250000Z"),
        ("2024-01-05 12:00", "2024-01-05T12:00:00Z"),
        ("2024-01-05 12:00:00 UTC", "2024-01-05T12:00:00Z"),
        (" 2024-01-05\n", "2024-01-05T00:00:00Z"),
        ("20240105", "2024-01-05T00:00:00Z"),
        (20240105, "2024-01-05T00:00:00Z"),
        (20240105.0, "2024-01-05T00:00:00Z"),
        ("20240105123456", "2024-01-05T12:34:56Z"),
        (20240105123456, "2024-01-05T12:34:56Z"),
        (1704067200, "2024-01-01T00:00:00Z"),
        (1704067200.5, "2024-01-01T00:00:00.500000Z"),
        ("1704067200.5", "2024-01-01T00:00:00.500000Z"),
        ("1704067200", "2024-01-01T00:00:00Z"),
        (1704067200123, "2024-01-01T00:00:00.123000Z"),
        (1704067200123456, "2024-01-01T00:00:00.123456Z"),
        (1704067200123456000, "2024-01-01T00:00:00.123456Z"),
        (999_999_999, "2001-09-09T01:46:39Z"),
        (999_999_999_999, "2001-09-09T01:46:39.999000Z"),
        (0, "1970-01-01T00:00:00Z"),
        ("Fri, 05 Jan 2024 12:00:00 GMT", "2024-01-05T12:00:00Z"),
        ("Friday, 05-Jan-24 12:00:00 GMT", "2024-01-05T12:00:00Z"),
        ("Fri Jan  5 12:00:00 2024", "2024-01-05T12:00:00Z"),
        ("Fri, 05 Jan 2024 12:00:00 -0000", "2024-01-05T12:00:00Z"),
        ("2024", "2024-01-01T00:00:00Z"),
        (2024, "2024-01-01T00:00:00Z"),
        (2024.0, "2024-01-01T00:00:00Z"),
        ("2024-02", "2024-02-01T00:00:00Z"),
        ("2024/01/05", "2024-01-05T00:00:00Z"),
        ("2024/01/05 12:00:00", "2024-01-05T12:00:00Z"),
        ("5 Jan 2024", "2024-01-05T00:00:00Z"),
        ("05-Jan-2024", "2024-01-05T00:00:00Z"),
        ("Fri, 5 January 2024", "2024-01-05T00:00:00Z"),
        ("January 5, 2024", "2024-01-05T00:00:00Z"),
        ("5 Jan 2024 12:00", "2024-01-05T12:00:00Z"),
        ("CC-MAIN-2024-10", "2024-03-04T00:00:00Z"),
        (datetime.date(2024, 1, 5), "2024-01-05T00:00:00Z"),
        (datetime.datetime(2024, 1, 5, 12), "2024-01-05T12:00:00Z"),
        (datetime.datetime(2024, 1, 5, 12, tzinfo=BERLIN), "2024-01-05T11:00:00Z"),
    ],
)
def test_forms(value, written):
    moment = parse_date(value)
    assert format_date(moment) == written
    assert to_micros(moment) == to_micros(datetime.datetime.fromisoformat(written))


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "05.01.2024", "2024-13-01", "20241301", 20241301, "20240105250000"),
        *(
            "",
            "CC-MAIN-2024-99",
            "0001-01-01T00:00+23:59",
            "٢٠٢٤٠١٠٥",
            "1" * 25,
            "2024-01-05T12:00:00." + "1" * 50,
        ),
        *("01/05/2024", "2024-13", "2024/13/01", "5 Foo 2024", "32 Jan 2024", "Jan 2024"),
        *(-2024, -999, 20241, -1, 10**30, 1e300, float("nan"), float("inf")),
        *(True, None, ["2024"], {"a": 1}),
        *(b"2024", datetime.time(12), datetime.datetime.min.replace(tzinfo=BERLIN)),
    ],
    ids=repr,
)
def test_what_is_not_a_date(value):
    assert parse_date(value) is None


@given(st.one_of(st.text(), st.integers(), st.floats(), st.datetimes(), st.dates()))
def test_whatever_comes_is_a_date_or_none(value):
    moment = parse_date(value)
    if moment is not None:
        assert parse_date(format_date(moment)) == moment


@given(st.datetimes(datetime.datetime(1986, 1, 1), datetime.datetime(2286, 1, 1)))
def test_units_are_told_apart(moment):
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    seconds = int(moment.timestamp())
    assert {parse_date(seconds * unit) for unit in (1, 10**3, 10**6, 10**9)} == {moment}
