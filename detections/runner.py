"""
Which windows a rule has to look at, its query for one of them, and what the answer says. No I/O, no clock.

The sweep asks Log Analytics; this module tells it what to ask. Rows arrive late, so windows overlap, and a rule looks
again at what may have changed: finding the same thing twice is for the one who stores findings to notice.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from detections.catalog import RESULT_COLUMNS, Confidence, Rule

MAX_WINDOWS: Final = 12
_START = re.compile(r"^let windowStart = ago\((?P<ago>[^)\n]+)\);[ \t]*$", re.MULTILINE)
_END = re.compile(r"^let windowEnd = now\(\);[ \t]*$", re.MULTILINE)
_KQL_SPAN = re.compile(r"(\d+)([mhd])")


class WindowError(ValueError):
    """A query has no window that could be set, or the window is none."""


class AnswerError(ValueError):
    """An answer does not have the columns that every rule projects; nothing in it can be trusted."""


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """
    What one run of a rule looks at, and how far the watermark may move when the answer is complete.

    ``start`` to ``end`` is what the query reads, UTC. ``end`` is the next watermark.
    """

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class DetectionRow:
    """
    One row of a rule's answer: this rule says that this principal did this.

    ``principal_id`` is an Entra object id in lower case; times are UTC. Text fields may carry text from the tenant.
    """

    rule_id: str
    principal_id: str
    principal_name: str
    app_id: str
    first_seen: datetime
    last_seen: datetime
    count: int
    reason: str
    ip_address: str
    resource: str
    event_ids: tuple[str, ...]
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row of an answer that is no finding, and why. To be told to people, never dropped."""

    rule_id: str
    why: str
    values: tuple[Any, ...]


def bind_window(kql: str, start: datetime, end: datetime) -> str:
    """
    Give the query over one window: its two ``let`` lines become datetime literals.

    The window must be aware. Everything else, ``now()`` elsewhere included, stays as it is.
    Raises: WindowError when a line is missing or there twice, when the window is empty or its times lack a zone.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise WindowError("a window needs times with a zone")
    if start >= end:
        raise WindowError(f"the window from {start.isoformat()} to {end.isoformat()} is empty")
    for name, pattern in (("let windowStart = ago(...);", _START), ("let windowEnd = now();", _END)):
        found = len(pattern.findall(kql))
        if found != 1:
            raise WindowError(
                f"the query has {found} lines `{name}`, it needs exactly one, alone on its line"
            )
    bound = _START.sub(f"let windowStart = {_literal(start)};", kql)
    return _END.sub(f"let windowEnd = {_literal(end)};", bound)


def default_window(kql: str) -> timedelta:
    """Give how far back the query looks when nobody binds it, as in Sentinel. Raises: WindowError."""
    found = _START.search(kql)
    span = _KQL_SPAN.fullmatch(found["ago"].strip()) if found else None
    if span is None:
        raise WindowError("the query has no line `let windowStart = ago(<number>m|h|d);`")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[span[2]]
    return timedelta(**{unit: int(span[1])})


def next_windows(
    watermark: datetime | None, now: datetime, rule: Rule, *, limit: int = MAX_WINDOWS
) -> list[Window]:
    """
    Say what a rule has to look at next, oldest first.

    Each window is ``window + late_arrival`` long. Ends move from the watermark to ``now`` in steps of at most the
    late arrival (the window, where nothing comes late), so that no moment is left out and whatever happens within
    one ``window`` lies whole inside one of them. Never more than ``limit``: after a long standstill the rest is for
    the next run. A first run looks at the newest window only. A watermark at or after ``now`` needs nothing.
    """
    length = rule.window + rule.late_arrival
    if watermark is None:
        return [newest_window(rule, now)]
    step = min(rule.late_arrival or rule.window, rule.window)
    ends: list[datetime] = []
    while watermark < now and len(ends) < limit:
        watermark = min(watermark + step, now)
        ends.append(watermark)
    return [Window(end - length, end) for end in ends]


def newest_window(rule: Rule, now: datetime) -> Window:
    """Give the window that ends now."""
    return Window(now - rule.window - rule.late_arrival, now)


def parse_rows(
    rule: Rule, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[DetectionRow | RejectedRow]:
    """
    Read the answer of a rule's query, one item a row, in its order.

    Times may be datetimes or ISO text, event ids a list or a JSON array as text: Log Analytics and the local engine
    differ. A row whose principal is no GUID, or with any other value that cannot be read, becomes a ``RejectedRow``.
    Raises: AnswerError when the columns are not the agreed ones.
    """
    if tuple(columns) != RESULT_COLUMNS:
        raise AnswerError(
            f"{rule.id}: expected the columns {', '.join(RESULT_COLUMNS)}; got {', '.join(columns)}"
        )
    return [_parse_row(rule, row) for row in rows]


def _parse_row(rule: Rule, row: Sequence[Any]) -> DetectionRow | RejectedRow:
    try:
        values = dict(zip(RESULT_COLUMNS, row, strict=True))
        return DetectionRow(
            rule_id=rule.id,
            principal_id=_principal(values["PrincipalId"]),
            principal_name=_text(values, "PrincipalName"),
            app_id=_text(values, "AppId"),
            first_seen=_moment(values, "FirstSeen"),
            last_seen=_moment(values, "LastSeen"),
            count=int(values["Count"]),
            reason=_text(values, "Reason"),
            ip_address=_text(values, "IPAddress"),
            resource=_text(values, "Resource"),
            event_ids=_event_ids(values["EventIds"]),
            confidence=Confidence(str(values["Confidence"])),
        )
    except (ValueError, TypeError) as error:
        return RejectedRow(rule.id, str(error), tuple(row))


def _principal(value: object) -> str:
    text = str(value)
    # Not UUID(): that also reads braces, a urn and 32 bare digits, and Entra writes none of these.
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is None:
        raise ValueError(f"PrincipalId {text!r} is no GUID")
    return text.lower()


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} {value!r} is no text")
    return value


def _moment(values: Mapping[str, Any], name: str) -> datetime:
    value = values[name]
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} {value!r} is no time") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _event_ids(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        if not value:
            return ()
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"EventIds {value!r} is no JSON array") from error
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError(f"EventIds {value!r} is no array")
    return tuple(str(item) for item in value if item not in (None, ""))


def _literal(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"datetime({text})"
