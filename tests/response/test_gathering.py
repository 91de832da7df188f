"""What is asked before a judgement, what is kept of it, and what an answer that does not come makes of it."""

import asyncio
from datetime import timedelta

import pytest
from builders import AGENT, ANALYST, NOON, finding, principal
from little_world import ADA, BOB, Clock, Directory, Log, world_on

from clients.errors import Refused, Unavailable
from clients.stores import Insert, Put
from clients.stores.sqlite import SqliteStore
from clients.terms import Kind, Mark, NotAsked, Unknown
from response import flow, gathering, verification
from response.brake import Counts
from response.containment import Containment, State
from response.decision import Verdict
from response.evidence import ChangeWindow
from response.finding import Finding, Source, Tier
from response.gathering import gather
from response.privilege import Privilege
from workbench.engine import LogEngine

DOWN = Unavailable("Log Analytics", "down")
LONE = {"tier": Tier.CORROBORATED}


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "state.db", "tenant")
    yield opened
    await opened.close()


@pytest.fixture
def log():
    engine = LogEngine(":memory:")
    yield Log(engine)
    engine.close()


@pytest.fixture
def directory():
    return Directory()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world(store, directory, log, clock):
    return world_on(store, directory, log, clock)


def entry(start="2026-11-24T00:00Z", end="2026-11-25T00:00Z", **more):
    """A row of the inventory as people type it."""
    return {
        "SearchKey": f" {AGENT.upper()} ",
        "ChangeWindowStart": start,
        "ChangeWindowEnd": end,
        "ExpiresOn": "",
    } | more


# --- how often it asks ---------------------------------------------------------------------------


async def test_before_a_containment_graph_is_asked_twice_while_the_policies_are_fresh(world, directory):
    await gather(finding(), world, NOON)
    directory.asked.clear()

    evidence = await gather(finding(), world, NOON)

    assert sorted(directory.asked) == ["dossier", "service_principal"]
    assert evidence.unchecked() == (
        "microsoft risk: not needed for this finding, and asking costs the tenant's one ID Protection call a second",
        "active principals: not needed: the share of active principals is not reached by so few",
    )


async def test_a_lone_sign_asks_id_protection_once(world, directory):
    await gather(finding(), world, NOON)
    directory.asked.clear()

    await gather(finding(**LONE), world, NOON)

    assert sorted(directory.asked) == ["dossier", "risk", "service_principal"]


async def test_what_is_context_only_asks_neither_who_answers_for_it_nor_the_log(world, directory, log):
    evidence = await gather(finding(tier=Tier.CONTEXT), world, NOON)

    assert "dossier" not in directory.asked
    assert log.asked == 0
    assert isinstance(evidence.mark, NotAsked)


async def test_a_persons_order_never_waits_for_the_log(world, log):
    log.failing = DOWN

    evidence = await gather(finding(source=Source.ANALYST, raised_by=ANALYST), world, NOON)

    assert log.asked == 0
    assert isinstance(evidence.change_window, NotAsked)


# --- marks, roles, owners ------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [None, *Mark])
async def test_the_mark_is_what_the_directory_says(world, directory, mark):
    directory.holding(mark=mark)

    assert (await gather(finding(), world, NOON)).mark is mark


@pytest.mark.parametrize("unreadable", [None, Unknown("HTTP 403")])
async def test_without_the_permission_no_mark_is_read_and_nobody_is_asked_for_it(
    world, directory, unreadable
):
    directory.granted = frozenset()
    directory.holding(mark=unreadable)

    evidence, decision = await flow.judge(finding(), world)

    assert isinstance(evidence.mark, NotAsked)
    assert decision.verdict is Verdict.CONTAIN
    assert any("CustomSecAttributeAssignment.Read.All is not granted" in each for each in decision.unchecked)


async def test_with_the_permission_a_mark_that_cannot_be_read_asks(world, directory):
    directory.holding(mark=Unknown("HTTP 403"))

    evidence, decision = await flow.judge(finding(), world)

    assert evidence.mark == Unknown("HTTP 403")
    assert decision.verdict is Verdict.ASK
    assert [veto.guardrail for veto in decision.vetoes] == ["protected-principal"]


async def test_a_mark_that_is_seen_counts_whatever_our_token_says(world, directory):
    directory.granted = frozenset()
    directory.holding(mark=Mark.PROTECTED)

    assert (await flow.judge(finding(), world))[1].forbidden


async def test_when_our_own_token_cannot_be_read_a_missing_permission_is_no_excuse(world, directory):
    directory.failing["own_claims"] = Refused("Entra", "no token", status=401)
    directory.holding(mark=Unknown("HTTP 403"), directory_roles=Unknown("HTTP 403"))

    evidence = await gather(finding(), world, NOON)

    assert evidence.mark == Unknown("HTTP 403")
    assert evidence.privilege == Unknown("HTTP 403")


async def test_a_dossier_that_does_not_come_leaves_every_part_of_it_unknown(world, directory):
    directory.failing["dossier"] = Unavailable("Graph", "HTTP 503", status=503)

    evidence, decision = await flow.judge(finding(), world)

    assert all(isinstance(part, Unknown) for part in (evidence.mark, evidence.privilege, evidence.owners))
    assert {veto.guardrail for veto in decision.vetoes} == {"protected-principal", "storm-brake"}


@pytest.mark.parametrize(
    ("held", "granted", "expected"),
    [
        ({"app_roles": frozenset({"Microsoft Graph/Application.ReadWrite.All"})}, True, 0),
        ({"directory_roles": frozenset({"62e90394-69f5-4237-9190-012177145e10"})}, True, 0),
        ({"app_roles": frozenset({"Microsoft Graph/Mail.Read"})}, True, 1),
        ({"directory_roles": frozenset({"88d8e3e3-8f55-4a1e-953a-9b9898b8876b"})}, True, 1),
        ({"app_roles": frozenset({"invoices/Invoices.Read"})}, True, 2),
        ({"app_roles": frozenset({"Own API/00000000-0000-0000-0000-000000000000"})}, True, 2),
        ({"app_roles": frozenset({"Own API/5b567255-7703-4780-807c-7be8301ae99b"})}, True, Unknown),
        ({"app_roles": Unknown("HTTP 503")}, True, Unknown),
        ({"directory_roles": Unknown("HTTP 403")}, True, Unknown),
        ({"directory_roles": Unknown("HTTP 403")}, False, NotAsked),
        ({"app_roles": Unknown("HTTP 503"), "directory_roles": Unknown("HTTP 403")}, False, Unknown),
        (
            {
                "app_roles": frozenset({"Microsoft Graph/RoleManagement.ReadWrite.Directory"}),
                "directory_roles": Unknown("HTTP 403"),
            },
            True,
            0,
        ),
    ],
)
async def test_privilege_is_the_highest_tier_of_what_could_be_read(world, directory, held, granted, expected):
    directory.granted = directory.granted if granted else frozenset()
    directory.holding(**held)

    privilege = (await gather(finding(), world, NOON)).privilege

    if isinstance(expected, int):
        assert isinstance(privilege, Privilege)
        assert privilege.tier == expected
    else:
        assert isinstance(privilege, expected)


@pytest.mark.parametrize(
    ("sponsors", "granted", "expected"),
    [
        ((ADA, BOB), True, (ADA, BOB)),
        (Unknown("HTTP 503"), True, Unknown("HTTP 503")),
        (Unknown("HTTP 403"), False, (ADA,)),
    ],
)
async def test_owners_are_owners_and_sponsors_each_once(world, directory, sponsors, granted, expected):
    directory.granted = directory.granted if granted else frozenset()
    directory.holding(owners=(ADA,), sponsors=sponsors)

    assert (await gather(finding(), world, NOON)).owners == expected


# --- announced changes ---------------------------------------------------------------------------


async def test_an_open_change_window_asks_a_person_and_says_until_when(world, log):
    log.engine.set_watchlist("AgentInventory", [entry()])

    evidence, decision = await flow.judge(finding(), world)

    assert evidence.change_window == ChangeWindow(NOON.replace(hour=0) + timedelta(days=1))
    assert decision.verdict is Verdict.ASK
    assert "until 2026-11-25 00:00 UTC" in str(decision.vetoes[0])


@pytest.mark.parametrize(
    "row",
    [
        entry(end=""),
        entry(end="soon"),
        entry(end="9999-12-31"),
        entry(start="2026-11-24T13:00Z"),
        entry(end="2026-11-24T11:59Z"),
        entry(start=""),
        entry(ExpiresOn="2026-11-23"),
        entry(ExpiresOn="never"),
        entry(SearchKey="invoice-reader"),
        entry(SearchKey="11111111-2222-4333-8444-555555555555"),
    ],
    ids=[
        "without an end",
        "an end that is no date",
        "an end in 8,000 years",
        "not yet open",
        "closed",
        "without a start",
        "of an entry that has expired",
        "of an entry whose end is no date",
        "named by name",
        "of another",
    ],
)
async def test_what_is_no_open_change_window(world, log, row):
    log.engine.set_watchlist("AgentInventory", [row])

    assert (await gather(finding(), world, NOON)).change_window is None


async def test_many_judgements_at_once_read_the_inventory_once(world, log):
    log.engine.set_watchlist("AgentInventory", [entry()])

    found = await asyncio.gather(*(gather(finding(), world, NOON) for _ in range(20)))

    assert all(isinstance(each.change_window, ChangeWindow) for each in found)
    assert log.asked == 1


async def test_many_judgements_at_once_share_one_failure_and_none_contains(world, log):
    log.failing = DOWN

    found = await asyncio.gather(*(flow.judge(finding(), world) for _ in range(20)))

    assert all(isinstance(evidence.change_window, Unknown) for evidence, _ in found)
    assert {decision.verdict for _, decision in found} == {Verdict.ASK}
    assert log.asked == 1


async def test_the_inventory_is_read_again_when_it_is_old_or_unreadable(world, log, clock, store):
    await gather(finding(), world, clock())
    log.engine.set_watchlist("AgentInventory", [entry()])
    assert (await gather(finding(), world, clock())).change_window is None

    clock.pass_by(timedelta(minutes=16))
    assert isinstance((await gather(finding(), world, clock())).change_window, ChangeWindow)

    await store.commit([Put(gathering.WINDOWS, {"something": "else"})])
    assert isinstance((await gather(finding(), world, clock())).change_window, ChangeWindow)
    assert log.asked == 3


async def test_a_log_that_does_not_answer_in_time_is_no_answer(world, log):
    log.takes = 60

    found = await gathering.answered(gathering.change_windows(world, within=timedelta(milliseconds=20)))

    assert isinstance(found, Unknown)
    assert "no answer within" in found.why


async def test_more_windows_than_can_be_kept_are_unknown_not_fewer(world, log):
    rows = [entry(SearchKey=f"11111111-2222-4333-8444-{number:012d}") for number in range(301)]
    log.engine.set_watchlist("AgentInventory", rows)

    assert isinstance((await gather(finding(), world, NOON)).change_window, Unknown)


# --- undo and probation --------------------------------------------------------------------------


async def seen_before(world, **changes):
    other = finding(rule_id="AG-07", family="probing", tier=Tier.CORROBORATED, **changes)
    await world.store.commit([Put(other.key, other.to_body())])
    return other


async def test_what_is_older_than_an_undo_corroborates_nothing_and_the_look_for_more_signs_ends(world, store):
    await seen_before(world, first_seen=NOON - timedelta(minutes=30), last_seen=NOON - timedelta(minutes=20))
    lone = finding(**LONE)
    assert (await flow.judge(lone, world))[1].verdict is Verdict.CONTAIN

    await store.commit([Put(f"undone:{AGENT}", {"at": (NOON - timedelta(minutes=10)).isoformat()})])

    assert (await flow.judge(lone, world))[1].verdict is Verdict.WATCH
    opened = await asyncio.wait_for(flow.respond(lone, world), 20)
    assert opened.containment is None


async def test_what_goes_on_after_an_undo_counts_and_what_ended_before_does_not(world, store):
    other = await seen_before(
        world, first_seen=NOON - timedelta(hours=5), last_seen=NOON - timedelta(hours=5)
    )
    await store.commit([Put(f"undone:{AGENT}", {"at": (NOON - timedelta(minutes=30)).isoformat()})])

    async def said_until(minutes_ago):
        until = NOON - timedelta(minutes=minutes_ago)
        await store.commit([Put(other.key, other.to_body() | {"repeated_until": until.isoformat()})])
        return (await flow.judge(finding(**LONE), world))[1].verdict

    assert await said_until(40) is Verdict.WATCH
    assert await said_until(20) is Verdict.ASK


async def test_a_record_of_an_undo_that_nobody_can_read_asks(world, store):
    await store.commit([Put(f"undone:{AGENT}", {"at": "yesterday"})])

    evidence, decision = await flow.judge(finding(), world)

    assert isinstance(evidence.undone_at, Unknown)
    assert decision.verdict is Verdict.ASK


def taken_back(**changes) -> Containment:
    values = {
        "id": "20261124T110000-aaaaaaaa",
        "principal": AGENT,
        "principal_name": "invoice-reader",
        "app_id": "",
        "kind": "application",
        "state": State.HALF_OPEN,
        "mode": "enforce",
        "lever": "confirm-compromised",
        "automatic": True,
        "requested_by": "agentbreaker",
        "opened_at": NOON - timedelta(hours=2),
        "updated_at": NOON - timedelta(hours=1),
        "reasons": (),
        "unchecked": (),
        "vetoes": (),
        "armed": "",
        "probation_until": NOON + timedelta(hours=23),
    }
    return Containment(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"probation_until": NOON}, False),
        ({"probation_until": None}, False),
        ({"state": State.PROVEN}, False),
    ],
)
async def test_probation_is_read_from_the_containment_that_is_open(world, store, changes, expected):
    c = taken_back(**changes)
    await store.commit([Insert(c.key, c.to_body()), Insert(f"open:{AGENT}", {"containment": c.id})])

    assert (await gather(finding(), world, NOON)).on_probation is expected


async def test_probation_that_cannot_be_read_is_unknown(world, store):
    c = taken_back()
    await store.commit([Insert(c.key, {"state": "?"}), Insert(f"open:{AGENT}", {"containment": c.id})])

    assert isinstance((await gather(finding(), world, NOON)).on_probation, Unknown)


# --- the storm brake's numbers, the ledger -------------------------------------------------------


def at(minutes_ago, *owners):
    return {"at": (NOON - timedelta(minutes=minutes_ago)).isoformat(), "owners": list(owners)}


async def test_automatic_containments_are_counted_by_hour_day_and_owner(world, directory, store):
    directory.holding(owners=(ADA,), sponsors=(BOB,))
    times = [
        at(59, ADA.object_id),
        at(61, BOB.object_id),
        at(120, BOB.object_id),
        at(23 * 60, "somebody else"),
        at(24 * 60, ADA.object_id),
    ]
    await store.commit([Put(gathering.BRAKE, {"times": times})])

    assert (await gather(finding(), world, NOON)).brake == Counts(last_hour=1, last_day=4, by_owner=2)


async def test_times_written_before_owners_were_counted_still_count(world, store):
    await store.commit([Put(gathering.BRAKE, {"times": [(NOON - timedelta(minutes=5)).isoformat()]})])

    assert (await gather(finding(), world, NOON)).brake == Counts(1, 1, 0)


@pytest.mark.parametrize("body", [{}, {"times": [{"at": "x"}]}, {"times": 3}])
async def test_a_count_that_nobody_can_read_is_a_veto(world, store, body):
    await store.commit([Put(gathering.BRAKE, body)])

    evidence, decision = await flow.judge(finding(), world)

    assert isinstance(evidence.brake, Unknown)
    assert [veto.guardrail for veto in decision.vetoes] == ["storm-brake"]


def signed_in(engine, principals, code="0", minutes_ago=60):
    when = NOON - timedelta(minutes=minutes_ago)
    rows = [
        {
            "TimeGenerated": when.isoformat(),
            "Id": f"{one}-{code}-{minutes_ago}",
            "ServicePrincipalId": one,
            "ResultType": code,
        }
        for one in principals
    ]
    engine.insert("AADServicePrincipalSignInLogs", rows)


async def test_active_principals_are_those_that_signed_in_in_a_day_each_once(world, log, store):
    await store.commit([Put(gathering.BRAKE, {"times": [at(120), at(180), at(240)]})])
    signed_in(log.engine, [f"sp-{n}" for n in range(70)])
    signed_in(log.engine, [f"sp-{n}" for n in range(70)], minutes_ago=90)
    signed_in(log.engine, [f"forged-{n}" for n in range(500)], code="7000215")
    signed_in(log.engine, [f"gone-{n}" for n in range(500)], minutes_ago=25 * 60)

    found = await asyncio.gather(*(gather(finding(), world, NOON) for _ in range(5)))

    assert {each.active_principals for each in found} == {70}
    assert log.asked == 2  # one for the inventory, one for this
    assert (await store.get(gathering.ACTIVE)).body == {"at": NOON.isoformat(), "count": 70}


async def test_the_number_of_active_principals_is_an_hour_old_at_most(world, log, store, clock):
    signed_in(log.engine, ["sp-1"], minutes_ago=5)
    assert await gathering.active_principals(world, clock()) == 1
    signed_in(log.engine, ["sp-2"], minutes_ago=4)

    clock.pass_by(timedelta(minutes=59))
    assert await gathering.active_principals(world, clock()) == 1
    clock.pass_by(timedelta(minutes=2))
    assert await gathering.active_principals(world, clock()) == 2


async def test_a_number_of_active_principals_that_cannot_be_had_stops_what_is_automatic(world, log, store):
    await gather(finding(), world, NOON)
    await store.commit([Put(gathering.BRAKE, {"times": [at(120), at(180), at(240)]})])
    log.failing = DOWN

    evidence, decision = await flow.judge(finding(), world)

    assert isinstance(evidence.active_principals, Unknown)
    assert [veto.guardrail for veto in decision.vetoes] == ["storm-brake"]
    assert not decision.vetoes[0].trips


@pytest.mark.parametrize("body", [{"at": "2026-11-24", "number": 7, "why": "entry 7"}, {}, {"why": None}])
async def test_a_broken_ledger_stops_whatever_its_record_says(world, store, body):
    await store.commit([Put(gathering.LEDGER_BROKEN, body)])

    for source in (Source.RULE, Source.ANALYST):
        _, decision = await flow.judge(finding(source=source), world)
        assert decision.verdict is Verdict.ASK
        assert [veto.guardrail for veto in decision.vetoes] == ["ledger-intact"]


async def test_a_finding_keeps_that_it_rests_on_failures_and_an_old_record_does_not_say_so():
    body = finding(only_failures=True).to_body()

    assert Finding.from_body(body).only_failures
    del body["only_failures"]
    assert not Finding.from_body(body).only_failures


@pytest.mark.parametrize("kind", [Kind.MICROSOFT, Kind.AGENT_USER])
async def test_nothing_is_asked_about_what_nobody_here_may_contain(world, directory, kind):
    directory.known[AGENT] = principal(kind=kind)

    await gather(finding(), world, NOON)

    assert "dossier" not in directory.asked


async def test_old_tokens_of_a_whole_storm_are_asked_for_in_one_query_a_table(world, log):
    """The service takes 200 queries in 30 seconds of one identity, and a storm confirms a hundred in one pass."""
    confirmed = [
        taken_back(
            id=f"20261124T110000-{number:08x}",
            principal=f"00000000-0000-4000-8000-{number:012x}",
            kind="managed_identity" if number % 10 == 0 else "application",
            state=State.CONFIRMED,
            confirmed_at=NOON - timedelta(minutes=number),
        )
        for number in range(100)
    ]
    last_of = confirmed[7].principal
    log.engine.insert(
        "AADServicePrincipalSignInLogs",
        [
            {
                "TimeGenerated": NOON - timedelta(minutes=20),
                "CreatedDateTime": NOON - timedelta(minutes=20),
                "ServicePrincipalId": last_of,
                "ResultType": "0",
                "ResourceIdentity": "vault",
            }
        ],
    )

    found = await verification._with_residual(confirmed, (), world)

    assert log.asked == 2
    assert set(found) == {c.id for c in confirmed}
    assert [c.principal for c in found.values() if any("vault" in one for one in c.residual)] == [last_of]
    assert all(c.residual_until is not None for c in found.values())
