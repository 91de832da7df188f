from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detections.catalog import DETECTIONS, RESULT_COLUMNS, Confidence, Rule
from detections.runner import (
    MAX_WINDOWS,
    AnswerError,
    DetectionRow,
    RejectedRow,
    WindowError,
    bind_window,
    default_window,
    next_windows,
    parse_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE = replace(
    Rule.from_folder(DETECTIONS / "ag_04_first_key_vault_use"),
    window=timedelta(hours=1),
    late_arrival=timedelta(minutes=30),
)
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
QUERY = "let windowStart = ago(90m);\nlet windowEnd = now();\nT | where TimeGenerated between (windowStart .. windowEnd)"
PRINCIPAL = "11111111-2222-4333-8444-000000000004"

minutes = st.integers(min_value=1, max_value=600).map(lambda n: timedelta(minutes=n))
lateness = st.integers(min_value=0, max_value=600).map(lambda n: timedelta(minutes=n))
gaps = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3))


def rule_with(window: timedelta, late: timedelta) -> Rule:
    return replace(RULE, window=window, late_arrival=late)


def row(**changes: Any) -> tuple[Any, ...]:
    values: Mapping[str, Any] = {
        "PrincipalId": PRINCIPAL,
        "PrincipalName": "invoice-reader",
        "AppId": "",
        "FirstSeen": NOON,
        "LastSeen": "2026-03-03T12:01:00Z",
        "Count": 3,
        "Reason": "because",
        "IPAddress": None,
        "Resource": "",
        "EventIds": '["a","b"]',
        "Confidence": "high",
        **changes,
    }
    return tuple(values[name] for name in RESULT_COLUMNS)


@given(window=minutes, late=lateness, behind=gaps)
def test_windows_cover_all_time_since_the_watermark(
    window: timedelta, late: timedelta, behind: timedelta
) -> None:
    rule = rule_with(window, late)
    watermark, looked_until = NOON - behind, NOON - behind
    while watermark < NOON:
        for found in next_windows(watermark, NOON, rule):
            assert found.start <= looked_until  # no moment between two windows is left out
            looked_until = watermark = found.end
    assert watermark == NOON


@given(window=minutes, late=lateness, behind=gaps)
def test_windows_never_go_backwards_and_never_beyond_now(
    window: timedelta, late: timedelta, behind: timedelta
) -> None:
    found = next_windows(NOON - behind, NOON, rule_with(window, late))

    ends = [each.end for each in found]
    assert ends == sorted(set(ends))
    assert all(NOON - behind < end <= NOON for end in ends)
    assert len(found) <= MAX_WINDOWS


@given(window=minutes, late=minutes, behind=gaps, into=st.floats(0, 1))
def test_whatever_happens_within_one_window_lies_whole_in_one(
    window: timedelta, late: timedelta, behind: timedelta, into: float
) -> None:
    rule = rule_with(window, late)
    found = next_windows(NOON - behind, NOON, rule, limit=10_000)
    if not found or NOON - behind + window > NOON:
        return
    start = NOON - behind + (behind - window) * into

    assert any(each.start <= start and start + window <= each.end for each in found)


@given(window=minutes, late=lateness)
def test_a_row_as_late_as_allowed_is_still_looked_at(window: timedelta, late: timedelta) -> None:
    (found,) = next_windows(NOON - min(late or window, window), NOON, rule_with(window, late))

    assert found.start <= NOON - late - min(late or window, window)


def test_a_first_run_looks_at_the_newest_window_only() -> None:
    (found,) = next_windows(None, NOON, RULE)

    assert (found.start, found.end) == (NOON - timedelta(minutes=90), NOON)


def test_a_watermark_in_the_future_asks_for_nothing() -> None:
    assert next_windows(NOON + timedelta(hours=1), NOON, RULE) == []


def test_after_a_standstill_the_oldest_come_first_and_the_rest_is_for_the_next_run() -> None:
    found = next_windows(NOON - timedelta(days=2), NOON, RULE)

    assert len(found) == MAX_WINDOWS
    assert found[0].end == NOON - timedelta(days=2) + timedelta(minutes=30)


def test_binding_replaces_exactly_the_two_lines() -> None:
    bound = bind_window(QUERY, NOON - timedelta(hours=1), NOON)

    assert bound.splitlines() == [
        "let windowStart = datetime(2026-03-03T11:00:00.000000Z);",
        "let windowEnd = datetime(2026-03-03T12:00:00.000000Z);",
        QUERY.splitlines()[2],
    ]


@given(
    start=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1)),  # noqa: DTZ001
    length=st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=14)),
    offset=st.integers(-12, 12),
)
def test_a_bound_window_says_the_same_moment_in_any_zone(
    start: datetime, length: timedelta, offset: int
) -> None:
    aware = start.replace(tzinfo=timezone(timedelta(hours=offset)))
    first, second, _ = bind_window(QUERY, aware, aware + length).splitlines()

    assert datetime.fromisoformat(first.split("(")[1].rstrip(");")) == aware
    assert datetime.fromisoformat(second.split("(")[1].rstrip(");")) == aware + length


@pytest.mark.parametrize(
    "query",
    [
        "T | where TimeGenerated > ago(1h)",
        "let windowStart = ago(90m);\nT",
        "let windowStart = ago(90m); let windowEnd = now();\nT",
        QUERY + "\nlet windowEnd = now();\n",
        "// let windowStart = ago(90m);\n// let windowEnd = now();\nT",
    ],
)
def test_a_query_without_its_two_lines_is_refused(query: str) -> None:
    with pytest.raises(WindowError, match="exactly one"):
        bind_window(query, NOON - timedelta(hours=1), NOON)


def test_an_empty_window_and_one_without_zone_are_refused() -> None:
    with pytest.raises(WindowError, match="empty"):
        bind_window(QUERY, NOON, NOON)
    with pytest.raises(WindowError, match="zone"):
        bind_window(QUERY, NOON.replace(tzinfo=None), NOON)


def test_the_default_window_is_read_from_the_query() -> None:
    assert default_window(QUERY) == timedelta(minutes=90)
    with pytest.raises(WindowError):
        default_window("let windowStart = ago(someSpan);")


def test_an_answer_is_read_in_the_form_of_either_engine() -> None:
    (found, other) = parse_rows(
        RULE, RESULT_COLUMNS, [row(), row(EventIds=["a", "b"], FirstSeen="2026-03-03T12:00:00Z")]
    )

    assert found == other
    assert found == DetectionRow(
        rule_id="AG-04",
        principal_id=PRINCIPAL,
        principal_name="invoice-reader",
        app_id="",
        first_seen=NOON,
        last_seen=NOON + timedelta(minutes=1),
        count=3,
        reason="because",
        ip_address="",
        resource="",
        event_ids=("a", "b"),
        confidence=Confidence.HIGH,
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PrincipalId": "invoice-reader"}, "no GUID"),
        ({"PrincipalId": ""}, "no GUID"),
        ({"PrincipalId": None}, "no GUID"),
        ({"PrincipalId": "{" + PRINCIPAL + "}"}, "no GUID"),
        ({"FirstSeen": None}, "FirstSeen"),
        ({"LastSeen": "yesterday"}, "LastSeen"),
        ({"Count": "many"}, "many"),
        ({"Count": None}, "int"),
        ({"Confidence": "certain"}, "certain"),
        ({"EventIds": "a, b"}, "EventIds"),
        ({"EventIds": 7}, "EventIds"),
        ({"Reason": 7}, "Reason"),
    ],
)
def test_a_row_that_cannot_be_read_is_rejected_and_not_dropped(changes: dict[str, Any], why: str) -> None:
    good, bad = parse_rows(RULE, RESULT_COLUMNS, [row(), row(**changes)])

    assert isinstance(good, DetectionRow)
    assert isinstance(bad, RejectedRow)
    assert why in bad.why
    assert bad.values == row(**changes)


@given(
    st.lists(
        st.one_of(st.none(), st.text(), st.integers(), st.booleans(), st.lists(st.text())),
        min_size=0,
        max_size=13,
    )
)
def test_no_row_of_any_shape_is_lost_or_raises(values: list[Any]) -> None:
    assert len(parse_rows(RULE, RESULT_COLUMNS, [values])) == 1


@pytest.mark.parametrize("confidence", list(Confidence))
def test_every_confidence_of_the_catalogue_is_read(confidence: Confidence) -> None:
    (found,) = parse_rows(RULE, RESULT_COLUMNS, [row(Confidence=str(confidence))])

    assert isinstance(found, DetectionRow)
    assert found.confidence is confidence


def test_other_columns_are_no_answer() -> None:
    with pytest.raises(AnswerError, match="AG-04"):
        parse_rows(RULE, RESULT_COLUMNS[:-1], [])
