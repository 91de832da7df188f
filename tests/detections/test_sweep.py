"""Watermarks and findings when rows come late and twice, calls fail, runs meet and the app stood still."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import NOON, PRINCIPALS, Clock, Event, Memory, Workspace, rule, world

from clients.errors import BadRequest, Partial, Unavailable
from clients.stores import CorruptRecord, Put, StoreUnreachable
from detections import sweep
from detections.catalog import Confidence, SweepGroup
from detections.news import Known
from detections.runner import MAX_WINDOWS
from detections.sweep import sweep_rules
from response.finding import Tier

PARTIAL = Partial("Log Analytics", "partial result")
DOWN = Unavailable("Log Analytics", "no answer")


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The flow as far as a sweep sees it: it records the finding, after others had their turn."""
    taken: list[Any] = []

    async def respond(finding: Any, about: Any) -> None:
        await asyncio.sleep(0)
        await about.store.commit([Put(finding.key, Known(finding, about.now()).to_body())])
        taken.append(finding)

    monkeypatch.setattr(sweep.flow, "respond", respond)
    return taken


def place(*events: Event) -> tuple[Workspace, Memory, Any]:
    workspace, store = Workspace(list(events), Clock()), Memory()
    return workspace, store, world(workspace, store)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def until(store: Memory, rule_id: str = "AG-07") -> Any:
    record = store.records.get(f"watermark:{rule_id}")
    return None if record is None else record.body["until"]


@pytest.mark.parametrize("failure", [PARTIAL, DOWN, BadRequest("Log Analytics", "query", status=400)])
async def test_a_failed_or_partial_query_moves_no_watermark_and_the_next_sweep_finds_it(
    failure: Any, judged: list[Any]
) -> None:
    workspace, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    workspace.failures = [failure]

    first = await sweep_rules([rule()], about)
    assert (first.failed, until(store), judged) == (("AG-07",), None, [])

    second = await sweep_rules([rule()], about)
    assert (second.failed, second.findings, len(judged)) == ((), 1, 1)
    assert until(store) == NOON.isoformat()


async def test_a_store_that_cannot_record_moves_no_watermark(judged: list[Any]) -> None:
    _, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    store.failures = [StoreUnreachable("store")]

    first = await sweep_rules([rule()], about)
    await sweep_rules([rule()], about)

    assert first.failed == ("AG-07",)
    assert len(judged) == 1


async def test_one_broken_rule_stops_no_other(judged: list[Any]) -> None:
    _, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    broken = rule(id="AG-01", query="no window at all")

    done = await sweep_rules([broken, rule()], about)

    assert done.failed == ("AG-01",)
    assert [finding.rule_id for finding in judged] == ["AG-07"]
    assert (until(store, "AG-01"), until(store)) == (None, NOON.isoformat())


async def test_a_finding_that_cannot_be_judged_keeps_no_other_from_it_and_is_tried_again(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, about = place(*(Event(p, NOON - minutes(5), NOON) for p in PRINCIPALS[:3]))
    good, broken = sweep.flow.respond, {PRINCIPALS[1]}

    async def respond(finding: Any, there: Any) -> Any:
        if finding.principal in broken:
            raise ZeroDivisionError
        return await good(finding, there)

    monkeypatch.setattr(sweep.flow, "respond", respond)

    done = await sweep_rules([rule()], about)
    assert done.failed == ("AG-07",)
    assert (len(judged), until(store)) == (2, None)
    broken.clear()
    await sweep_rules([rule()], about)
    assert sorted(finding.principal for finding in judged) == list(PRINCIPALS[:3])


async def test_a_record_nobody_can_read_hides_no_finding(judged: list[Any]) -> None:
    _, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    await store.commit([Put(f"finding:{PRINCIPALS[0]}:AG-07:2026", {"half": "a record"})])

    await sweep_rules([rule()], about)

    assert len(judged) == 1


async def test_a_missed_hour_is_caught_up_oldest_first_and_bounded_per_run() -> None:
    workspace, store, about = place()
    await store.commit([Put("watermark:AG-07", {"until": (NOON - minutes(300)).isoformat()})])

    await sweep_rules([rule()], about)

    now, *missed = workspace.windows
    assert now[1] == NOON  # what happens now waits for nothing
    assert len(missed) == MAX_WINDOWS
    assert missed == sorted(missed)
    assert missed[0][1] == NOON - minutes(290)
    assert until(store) == (NOON - minutes(180)).isoformat()
    await sweep_rules([rule()], about)
    await sweep_rules([rule()], about)
    assert until(store) == NOON.isoformat()


async def test_an_old_window_that_cannot_be_answered_does_not_hide_what_happens_now(
    judged: list[Any],
) -> None:
    workspace, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    stuck = (NOON - minutes(300)).isoformat()
    await store.commit([Put("watermark:AG-07", {"until": stuck})])
    workspace.failures = [None, PARTIAL]

    done = await sweep_rules([rule()], about)

    assert (done.failed, until(store)) == (("AG-07",), stuck)
    assert len(judged) == 1


@pytest.mark.parametrize("behind", [15, 20, 24, 60])
async def test_a_window_that_is_stuck_hides_nothing_however_young_it_is(
    behind: int, judged: list[Any]
) -> None:
    workspace, store, about = place(Event(PRINCIPALS[0], NOON - minutes(1), NOON))
    await store.commit([Put("watermark:AG-07", {"until": (NOON - minutes(behind)).isoformat()})])
    workspace.failures = [PARTIAL]

    assert (await sweep_rules([rule()], about)).failed == ("AG-07",)
    assert len(judged) == 1


async def test_a_newest_window_that_cannot_be_answered_keeps_nothing_from_being_caught_up(
    judged: list[Any],
) -> None:
    workspace, store, about = place(Event(PRINCIPALS[0], NOON - minutes(290), NOON))
    await store.commit([Put("watermark:AG-07", {"until": (NOON - minutes(300)).isoformat()})])
    workspace.failures = [PARTIAL]

    done = await sweep_rules([rule()], about)

    assert (done.failed, until(store)) == (("AG-07",), (NOON - minutes(180)).isoformat())
    assert len(judged) == 1


@pytest.mark.parametrize(("hours", "doubted"), [(23, False), (26, True), (24 * 60, True)])
async def test_what_was_missed_for_long_acts_only_with_a_person(
    hours: int, doubted: bool, judged: list[Any]
) -> None:
    """A rule that comes back after two months must not contain for what was dealt with then."""
    then = NOON - timedelta(hours=hours)
    _, store, about = place(Event(PRINCIPALS[0], then, then))
    await store.commit([Put("watermark:AG-07", {"until": (then - minutes(5)).isoformat()})])

    await sweep_rules([rule(tier=Tier.AUTO)], about)

    assert [bool(finding.doubts) for finding in judged] == [doubted]


async def test_a_clock_that_was_ahead_blinds_no_rule_and_takes_no_watermark_back(judged: list[Any]) -> None:
    _, store, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    ahead = (NOON + timedelta(days=300)).isoformat()
    await store.commit([Put("watermark:AG-07", {"until": ahead})])

    done = await sweep_rules([rule()], about)

    assert (done.failed, until(store), len(judged)) == ((), ahead, 1)


async def test_a_slow_rule_leaves_what_it_missed_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer waits for its slowest rule, and the platform ends a run after ten minutes."""
    workspace, store, about = place()
    await store.commit([Put("watermark:AG-07", {"until": (NOON - minutes(300)).isoformat()})])
    asked = workspace.query

    async def slow(*arguments: Any) -> Any:
        workspace.clock.now += minutes(2)
        return await asked(*arguments)

    monkeypatch.setattr(workspace, "query", slow)

    done = await sweep_rules([rule()], about)

    assert done.failed == ()
    assert workspace.clock.now - NOON <= minutes(6)
    assert until(store) == (NOON - minutes(280)).isoformat()


async def test_rules_that_have_time_leave_a_query_to_those_that_have_none(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON))
    asked, client = workspace.query, asyncio.Semaphore(4)
    begun, answered = asyncio.Event(), asyncio.Event()

    async def query(kql: str, *span: Any) -> Any:
        async with client:  # as the client: four at once, first come first served
            if "slow" in kql:
                begun.set()
                await answered.wait()
            return await asked(kql, *span)

    monkeypatch.setattr(workspace, "query", query)
    slow = [
        rule(id=f"AG-{number}", sweep=group, query=f"// slow\n{rule().query}")
        for number, group in enumerate([SweepGroup.WINDOWED] * 5 + [SweepGroup.BASELINE] * 5, 10)
    ]
    waiting = asyncio.create_task(sweep_rules(slow, about))
    await begun.wait()

    async with asyncio.timeout(60):
        done = await sweep_rules([rule(sweep=SweepGroup.FAST)], about)

    assert (done.findings, waiting.done()) == (1, False)
    answered.set()
    assert (await waiting).failed == ()


async def test_a_corrupt_record_of_one_principal_hides_nobody_else(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, about = place(*(Event(p, NOON - minutes(5), NOON) for p in PRINCIPALS[:3]))
    scan = store.scan

    async def broken(prefix: str, **how: Any) -> Any:
        if PRINCIPALS[0] in prefix:
            raise CorruptRecord("a finding does not hold JSON")
        return await scan(prefix, **how)

    monkeypatch.setattr(store, "scan", broken)

    done = await sweep_rules([rule()], about)

    assert (done.failed, until(store)) == (("AG-07",), None)
    assert [finding.principal for finding in judged] == list(PRINCIPALS[1:3])


async def test_a_watermark_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, store, about = place()
    ahead = (NOON + minutes(10)).isoformat()
    asked = workspace.query

    async def slow(*arguments: Any) -> Any:
        await store.commit([Put("watermark:AG-07", {"until": ahead})])  # the run that came after this one
        return await asked(*arguments)

    monkeypatch.setattr(workspace, "query", slow)

    await sweep_rules([rule()], about)

    assert until(store) == ahead


async def test_a_group_runs_its_own_rules_only() -> None:
    _, store, about = place()
    rules = [rule(id=f"AG-0{number}", sweep=group) for number, group in enumerate(SweepGroup, 1)]

    await sweep_rules(rules, about, SweepGroup.BASELINE)

    assert list(store.records) == ["watermark:AG-03"]


async def test_duplicates_of_a_row_are_one_finding(judged: list[Any]) -> None:
    twice = [Event(PRINCIPALS[0], NOON - minutes(5), NOON)] * 4
    workspace, _, about = place(*twice)

    for _ in range(3):
        await sweep_rules([rule()], about)
        workspace.clock.now += minutes(5)

    assert len(judged) == 1


async def test_a_repetition_within_the_quiet_time_is_recorded_and_not_judged(judged: list[Any]) -> None:
    first = Event(PRINCIPALS[0], NOON - minutes(5), NOON, "vault")
    again = Event(PRINCIPALS[0], NOON + timedelta(hours=5), NOON + timedelta(hours=5), "vault")
    other = Event(PRINCIPALS[0], NOON + timedelta(hours=5), NOON + timedelta(hours=5), "graph")
    workspace, store, about = place(first, again)
    quiet = rule(quiet_for=timedelta(hours=26))

    await sweep_rules([quiet], about)
    workspace.clock.now = NOON + timedelta(hours=5, minutes=1)
    store.records.pop("watermark:AG-07")  # a first run looks at the newest window only
    await sweep_rules([quiet], about)

    assert len(judged) == 1
    (record,) = [r for key, r in store.records.items() if key.startswith("finding:")]
    assert record.body["repeated_until"] == again.at.isoformat()
    assert record.body["last_seen"] == first.at.isoformat()
    workspace.events.append(other)
    workspace.clock.now += minutes(1)
    await sweep_rules([quiet], about)
    assert [finding.resource for finding in judged] == ["vault", "graph"]


async def test_what_a_person_decides_is_not_hidden_by_a_sign_that_was_only_watched(judged: list[Any]) -> None:
    """Corroborated weighs more and, alone, tells nobody; approval asks."""
    workspace, _, about = place(Event(PRINCIPALS[0], NOON - minutes(5), NOON, "vm"))
    quiet = rule(quiet_for=timedelta(hours=26), tier_by_confidence={Confidence.LOW: Tier.APPROVAL})
    await sweep_rules([quiet], about)
    workspace.confidence = "low"

    for _ in range(4):
        workspace.clock.now += minutes(31)
        now = workspace.clock.now
        workspace.events.append(Event(PRINCIPALS[0], now - minutes(1), now, "vm"))
        await sweep_rules([quiet], about)

    assert [finding.tier for finding in judged] == [Tier.CORROBORATED, Tier.APPROVAL]


# --- what comes late, fails and stands still, in any order -----------------------------------------

WINDOW, LATE = minutes(15), minutes(10)
happened = st.lists(
    st.tuples(
        st.sampled_from(PRINCIPALS),
        st.integers(1, 180),
        st.integers(0, int(LATE.total_seconds()) // 60),
        st.sampled_from(["vault", "graph"]),
    ),
    max_size=12,
)
runs = st.lists(
    st.tuples(
        st.integers(0, 90),  # minutes until this run
        st.lists(st.sampled_from([None, None, PARTIAL, DOWN]), max_size=4),  # its queries
        st.lists(st.sampled_from([None, None, None, StoreUnreachable("store")]), max_size=6),  # its writes
        st.booleans(),  # two runs at once
    ),
    max_size=12,
)
quiet_times = st.sampled_from([timedelta(0), timedelta(hours=26)])


async def _played(said: Any, ran: Any, quiet_for: timedelta) -> tuple[Workspace, Memory]:
    events = [Event(p, NOON + minutes(at), NOON + minutes(at + late), what) for p, at, late, what in said]
    workspace, store, about = place(*events)
    mine = rule(quiet_for=quiet_for)
    await sweep_rules([mine], about)
    for wait, queries, writes, twice in ran:
        workspace.clock.now += minutes(wait)
        workspace.failures, store.failures = list(queries), list(writes)
        await asyncio.gather(*(sweep_rules([mine], about) for _ in range(2 if twice else 1)))
    workspace.failures, store.failures = [], []
    workspace.clock.now = max(workspace.clock.now, NOON + minutes(200))
    while until(store) != workspace.clock.now.isoformat():
        await sweep_rules([mine], about)
    return workspace, store


def _findings(store: Memory) -> list[Known]:
    return [Known.from_body(r.body) for key, r in store.records.items() if key.startswith("finding:")]


@settings(deadline=None)
@given(happened, runs, quiet_times)
async def test_nothing_is_lost(said: Any, ran: Any, quiet_for: timedelta) -> None:
    workspace, store = await _played(said, ran, quiet_for)

    claims = _findings(store)
    for event in workspace.events:
        mine = [c for c in claims if c.finding.principal == event.principal]
        # What is found late lies before the beginning of the claim it belongs to, within one look of the rule or, for
        # the same resource, within its quiet time.
        assert any(
            c.finding.first_seen - max(WINDOW + LATE, quiet_for * c.names(event.resource)) <= event.at
            and event.at <= c.said_until
            for c in mine
        )


@settings(deadline=None)
@given(happened, runs, quiet_times)
async def test_nothing_is_claimed_twice(said: Any, ran: Any, quiet_for: timedelta) -> None:
    once = {principal: (principal, *rest) for principal, *rest in said}
    workspace, store = await _played(once.values(), ran, quiet_for)

    assert sorted(c.finding.principal for c in _findings(store)) == sorted(
        e.principal for e in workspace.events
    )


@settings(deadline=None)
@given(happened, runs)
async def test_the_watermark_only_moves_forward(said: Any, ran: Any) -> None:
    _, store = await _played(said, ran, timedelta(0))

    assert store.watermarks() == sorted(store.watermarks())
