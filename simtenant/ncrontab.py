"""
NCRONTAB as Azure Functions reads it: ``second minute hour day month day-of-week``, in UTC.

Source: learn.microsoft.com/azure/azure-functions/functions-bindings-timer#ncrontab-expressions. Unlike in
Unix cron, a day must satisfy the day *and* the day-of-week field. Where NCrontab quietly swaps the ends of
a range such as ``5-2``, this refuses it: it is more likely a mistake than a wish.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

_MONTHS: Final = {
    name: n
    for n, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_DAYS: Final = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_LOOK_AHEAD_DAYS: Final = 366 * 41  # 29 February on one weekday comes back after 28 years, over 2100 after 40


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed expression. Each field holds the sorted values that match."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]  # 0 is Sunday

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read an expression. Raises: ValueError that names the field at fault."""
        parts = text.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"a schedule has six fields (second minute hour day month day-of-week), not {len(parts)}: {text!r}"
            )
        fields = [_field(part, *field) for part, field in zip(parts, _FIELDS, strict=True)]
        return cls(*fields)

    def next_after(self, moment: datetime) -> datetime:
        """
        Give the first occurrence later than ``moment`` (aware), in UTC.

        Raises: ValueError when there is none, as on 30 February.
        """
        start = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        day = start.date()
        earliest = start.time()
        for _ in range(_LOOK_AHEAD_DAYS):
            fits = day.day in self.days and day.month in self.months and day.isoweekday() % 7 in self.weekdays
            if fits and (found := self._first_time(earliest)) is not None:
                return datetime.combine(day, found, UTC)
            day, earliest = day + timedelta(days=1), time.min
        raise ValueError("a schedule that never comes round")

    def _first_time(self, earliest: time) -> time | None:
        for hour in self.hours:
            if hour < earliest.hour:
                continue
            for minute in self.minutes:
                if (hour, minute) < (earliest.hour, earliest.minute):
                    continue
                for second in self.seconds:
                    if (found := time(hour, minute, second)) >= earliest:
                        return found
        return None


def _field(text: str, name: str, low: int, high: int, names: dict[str, int]) -> tuple[int, ...]:
    values: set[int] = set()
    try:
        for item in text.split(","):
            values |= _item(item, low, high, names)
    except ValueError as error:
        raise ValueError(f"the {name} of a schedule is wrong: {text!r}: {error}") from None
    return tuple(sorted(values))


def _item(item: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    """Read one of: ``*``, ``5``, ``5-9``, ``*/10``, ``5-30/10``, ``5/10`` (from 5 to the end)."""
    span, slash, step_text = item.partition("/")
    step = int(step_text) if slash else 1
    if step < 1:
        raise ValueError("a step is 1 or more")
    if span == "*":
        first, last = low, high
    else:
        first_text, dash, last_text = span.partition("-")
        first = _value(first_text, names)
        last = _value(last_text, names) if dash else (high if slash else first)
    if not low <= first <= last <= high:
        raise ValueError(f"not within {low}-{high}")
    return set(range(first, last + 1, step))


def _value(text: str, names: dict[str, int]) -> int:
    known = names.get(text.lower()[:3]) if text.isalpha() else None
    return int(text) if known is None else known
