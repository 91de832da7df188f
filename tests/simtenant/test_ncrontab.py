"""Schedules as Azure Functions reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simtenant.ncrontab import Schedule

MONDAY = datetime(2026, 11, 23, 10, 7, 31, 500, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * * *", "2026-11-23T10:07:32"),
        ("*/30 * * * * *", "2026-11-23T10:08:00"),
        ("0 */5 * * * *", "2026-11-23T10:10:00"),
        ("0 0 * * * *", "2026-11-23T11:00:00"),
        ("0 0 9-17 * * *", "2026-11-23T11:00:00"),
        ("0 30 9 * * 1-5", "2026-11-24T09:30:00"),
        ("0 30 9 * * Mon-Fri", "2026-11-24T09:30:00"),
        ("0 0 0 * * 0", "2026-11-29T00:00:00"),
        ("0 0 0 1 Jan *", "2027-01-01T00:00:00"),
        ("0 0 0 1 jan,mar sunday", "2034-01-01T00:00:00"),
        ("5,3,59 7 10 23 11 *", "2026-11-23T10:07:59"),
        ("0 5/20 * * * *", "2026-11-23T10:25:00"),
        ("0 10-30/10 * * * *", "2026-11-23T10:10:00"),
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 0 13 * Fri", "2027-08-13T00:00:00"),
    ],
)
def test_the_next_occurrence(text: str, expected: str) -> None:
    assert Schedule.parse(text).next_after(MONDAY) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "* * * * *", "* * * * * * *", "60 * * * * *", "* 60 * * * *", "* * 24 * * *", "* * * 0 * *", "* * * * 13 *",
        "* * * * * 7", "*/0 * * * * *", "x * * * * *", "5-2 * * * * *", "1- * * * * *", ", * * * * *", "-1 * * * * *",
        "1/x * * * * *", "* * * Mon * *", "00:00:30",
    ],
)  # fmt: skip
def test_a_wrong_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule.parse(text)


def test_a_schedule_that_never_comes_is_refused() -> None:
    with pytest.raises(ValueError, match="never"):
        Schedule.parse("0 0 0 30 2 *").next_after(MONDAY)


def test_other_zones_are_read_as_utc() -> None:
    moment = MONDAY.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert Schedule.parse("0 0 * * * *").next_after(moment) == datetime(2026, 11, 23, 11, tzinfo=UTC)


FIELDS = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
EXPRESSIONS = st.tuples(
    *(
        st.just("*")
        | st.sets(st.integers(low, high), min_size=1, max_size=3).map(lambda v: ",".join(map(str, v)))
        for low, high in FIELDS[:3]
    ),
    *(st.just("*") | st.integers(low, min(high, 28)).map(str) for low, high in FIELDS[3:5]),
    st.just("*"),
)


@given(EXPRESSIONS, st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_the_next_occurrence_is_later_matches_and_nothing_lies_between(
    fields: tuple[str, ...], moment: datetime
) -> None:
    schedule = Schedule.parse(" ".join(fields))

    found = schedule.next_after(moment)

    assert found > moment
    for text, value in zip(
        fields, (found.second, found.minute, found.hour, found.day, found.month), strict=False
    ):
        assert text == "*" or str(value) in text.split(",")
    assert schedule.next_after(found - timedelta(microseconds=1)) == found
    middle = moment + (found - moment) / 2
    assert schedule.next_after(middle) == found
