"""The storm brake in the commit that claims: it counts over all runs, trips once, and stays until a person releases it."""

import asyncio
from datetime import timedelta

import pytest
from builders import ANALYST, NOON, finding, principal
from little_world import ADA, Clock, Directory, Log, world_on

from clients.errors import Unavailable
from clients.stores import Delete, Insert, Put
from clients.stores.sqlite import SqliteStore
from clients.terms import NotAsked, object_id
from response import flow, gathering, ledger
from response.containment import State
from response.decision import Verdict
from response.finding import Source, Tier
from response.opening import open_or_join
from response.policy import Mode
from workbench.engine import LogEngine

AGENTS = [object_id(f"7c9e6679-7425-4de4-944b-{number:012d}") for number in range(12)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def engine():
    opened = LogEngine(":memory:")
    yield opened
    opened.close()


@pytest.fixture
async def worlds(tmp_path, engine, clock):
    """Three processes on one store; ``limits`` are those of the policy."""
    opened = []

    def make(count=1, **limits):
        for _ in range(count):
            store = SqliteStore(tmp_path / "state.db", "tenant")
            known = {agent: principal(object_id=agent) for agent in AGENTS}
            directory = Directory(known=known)
            directory.holding(owners=(ADA,))
            opened.append(world_on(store, directory, Log(engine), clock, **limits))
        return opened[-count:]

    yield make
    for world in opened:
        await world.store.close()


async def claim(world, agent, **changes):
    """Judge a finding and write what follows, without pulling the lever."""
    now = world.now()
    f = finding(principal=agent, **({"first_seen": now, "last_seen": now} | changes))
    evidence, decision = await flow.judge(f, world)
    return await open_or_join(f, decision, evidence, world, now)


async def entries(world, kind):
    return [one.body for one in await world.store.scan("ledger:") if one.body["kind"] == kind]


async def test_of_many_runs_at_once_as_many_as_allowed_are_claimed_and_the_brake_trips_once(worlds):
    processes = worlds(3, automatic_per_owner=100)

    opened = await asyncio.gather(*(claim(processes[n % 3], agent) for n, agent in enumerate(AGENTS)))

    states = [each.containment.state for each in opened]
    assert states.count(State.CLAIMED) == 3
    assert states.count(State.AWAITING_APPROVAL) == 9
    store = processes[0].store
    tripped = await store.get(gathering.BRAKE_TRIPPED)
    assert tripped.body["at"] == NOON.isoformat()
    assert "AGENTBREAKER_AUTOMATIC_PER_HOUR" in tripped.body["why"]
    assert len(await entries(processes[0], "brake_tripped")) == 1
    assert len((await store.get(gathering.BRAKE)).body["times"]) == 3
    assert isinstance(await ledger.verify(store), ledger.Verified)


async def test_once_tripped_everything_automatic_waits_until_a_person_releases_it(worlds, clock):
    (world,) = worlds(automatic_per_hour=1, automatic_per_owner=100)
    await claim(world, AGENTS[0])
    stopped = await claim(world, AGENTS[1])
    assert "the mode is approve until a person releases the brake" in stopped.containment.vetoes[0]

    clock.pass_by(timedelta(hours=3))  # the hour is over, the storm may not be
    later = await claim(world, AGENTS[2])
    assert later.containment.state is State.AWAITING_APPROVAL
    assert later.decision.mode is Mode.APPROVE
    ordered = await claim(world, AGENTS[3], source=Source.ANALYST, rule_id="", raised_by=ANALYST)
    assert ordered.containment.state is State.CLAIMED

    record = await world.store.get(gathering.BRAKE_TRIPPED)
    many = {"at": clock().isoformat(), "count": 1000}  # so that the share does not decide
    await world.store.commit([Delete(record.key, record.etag), Put(gathering.ACTIVE, many)])
    assert (await claim(world, AGENTS[4])).containment.state is State.CLAIMED
    assert len(await entries(world, "brake_tripped")) == 1


async def test_a_brake_that_trips_between_judgement_and_claim_still_stops_the_claim(worlds):
    (world,) = worlds()
    f = finding(principal=AGENTS[0])
    evidence, decision = await flow.judge(f, world)
    assert decision.verdict is Verdict.CONTAIN

    await world.store.commit(
        [Insert(gathering.BRAKE_TRIPPED, {"at": NOON.isoformat(), "why": "three in an hour"})]
    )
    opened = await open_or_join(f, decision, evidence, world, NOON)

    assert opened.containment.state is State.AWAITING_APPROVAL
    assert "three in an hour" in opened.containment.vetoes[0]


@pytest.mark.parametrize(
    ("key", "body"), [(gathering.BRAKE, {"times": 3}), (gathering.BRAKE_TRIPPED, {"why": ""})]
)
async def test_a_record_of_the_brake_that_nobody_can_read_stops_the_claim(worlds, key, body):
    (world,) = worlds()
    f = finding(principal=AGENTS[0])
    evidence, decision = await flow.judge(f, world)

    await world.store.commit([Put(key, body)])
    opened = await open_or_join(f, decision, evidence, world, NOON)

    assert opened.containment.state is State.AWAITING_APPROVAL
    assert await entries(world, "brake_tripped") == []


async def test_one_owner_gets_as_many_as_allowed_in_a_day(worlds, clock):
    (world,) = worlds(automatic_per_owner=1)
    await claim(world, AGENTS[0])
    clock.pass_by(timedelta(hours=23))

    second = await claim(world, AGENTS[1])
    assert "AGENTBREAKER_AUTOMATIC_PER_OWNER" in second.containment.vetoes[0]

    world.graph.holding(owners=())
    await world.store.commit([Delete(r.key, r.etag) for r in await world.store.scan("brake:tripped")])
    assert (await claim(world, AGENTS[2])).containment.state is State.CLAIMED


async def test_the_day_counts_over_hours_and_the_share_by_the_log(worlds, clock, engine):
    (world,) = worlds(automatic_per_hour=2, automatic_per_day=4, automatic_per_owner=100)
    signed_in = [
        {"TimeGenerated": NOON.isoformat(), "Id": str(n), "ServicePrincipalId": f"sp-{n}", "ResultType": "0"}
        for n in range(60)
    ]
    engine.insert("AADServicePrincipalSignInLogs", signed_in)

    states = []
    for number in range(4):
        clock.pass_by(timedelta(minutes=90))
        states.append((await claim(world, AGENTS[number])).containment.state)

    # Two an hour are no question of the share; 5 per cent of 60 are three in a day.
    assert states == [State.CLAIMED] * 3 + [State.AWAITING_APPROVAL]
    assert "60 principals" in (await world.store.get(gathering.BRAKE_TRIPPED)).body["why"]


def claimed_at(*hours_ago):
    return {"times": [{"at": (NOON - timedelta(hours=one)).isoformat(), "owners": []} for one in hours_ago]}


@pytest.mark.parametrize(("answers", "tripped"), [(True, True), (False, False)])
async def test_what_was_claimed_meanwhile_lets_the_claim_itself_ask_for_the_share(worlds, answers, tripped):
    """The judgement had no reason to ask; when it comes to claiming there is one."""
    (world,) = worlds(automatic_per_hour=1)
    f = finding(principal=AGENTS[0])
    evidence, decision = await flow.judge(f, world)
    assert isinstance(evidence.active_principals, NotAsked)

    await world.store.commit([Put(gathering.BRAKE, claimed_at(2))])
    world.logs.failing = None if answers else Unavailable("Log Analytics", "down")
    opened = await open_or_join(f, decision, evidence, world, NOON)

    assert opened.containment.state is State.AWAITING_APPROVAL
    assert "storm-brake" in opened.containment.vetoes[0]
    assert (await world.store.get(gathering.BRAKE_TRIPPED) is not None) is tripped


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({"tier": Tier.APPROVAL}, {}),
        ({"doubts": ("two principals in one incident",)}, {}),
        ({"only_failures": True}, {}),
        ({}, {"mode": Mode.OBSERVE}),
        ({}, {"mode": Mode.APPROVE}),
        ({"source": Source.ANALYST, "rule_id": "", "raised_by": ANALYST}, {}),
    ],
    ids=["a question", "a doubt", "vetoed anyway", "observing", "approving", "a person's order"],
)
async def test_what_would_not_have_been_contained_by_itself_trips_nothing(worlds, changes, limits):
    (world,) = worlds(**limits)
    await world.store.commit([Put(gathering.BRAKE, claimed_at(0.1, 0.2, 0.3))])

    await claim(world, AGENTS[0], **changes)

    assert await world.store.get(gathering.BRAKE_TRIPPED) is None


async def test_what_joins_a_containment_that_stands_trips_nothing(worlds):
    """The storm's own principals go on being seen after the last one that was allowed: that is no further one."""
    (world,) = worlds()
    for agent in AGENTS[:3]:
        await claim(world, agent)

    joined = await claim(world, AGENTS[0], rule_id="AG-19", family="control")

    assert joined.containment.state is State.CLAIMED
    assert [veto.guardrail for veto in joined.decision.vetoes] == ["storm-brake"]
    assert await world.store.get(gathering.BRAKE_TRIPPED) is None


async def test_what_would_be_contained_again_on_probation_can_trip_it_too(worlds, clock):
    (world,) = worlds()
    opened = (await claim(world, AGENTS[0])).containment
    back = opened.changed(NOON, state=State.HALF_OPEN, probation_until=NOON + timedelta(hours=24))
    claimed = await world.store.get(f"claimed:{opened.id}")
    await world.store.commit(
        [
            Put(opened.key, back.to_body()),
            Delete(claimed.key, claimed.etag),
            Put(f"undone:{AGENTS[0]}", {"at": NOON.isoformat()}),
            Put(gathering.BRAKE, claimed_at(0.1, 0.2, 0.3)),
        ]
    )

    clock.pass_by(timedelta(minutes=1))
    again = await claim(world, AGENTS[0], tier=Tier.CORROBORATED)

    assert again.containment.state is not State.CLAIMED
    assert [veto.guardrail for veto in again.decision.vetoes] == ["storm-brake"]
    assert await world.store.get(gathering.BRAKE_TRIPPED) is not None
    assert len(await entries(world, "brake_tripped")) == 1


async def test_on_probation_one_finding_newer_than_the_undo_is_claimed_and_an_older_one_joins(worlds, clock):
    (world,) = worlds()
    opened = (await claim(world, AGENTS[0])).containment
    back = opened.changed(NOON, state=State.HALF_OPEN, probation_until=NOON + timedelta(hours=24))
    claimed = await world.store.get(f"claimed:{opened.id}")
    await world.store.commit(
        [
            Put(opened.key, back.to_body()),
            Delete(claimed.key, claimed.etag),
            Put(f"undone:{AGENTS[0]}", {"at": NOON.isoformat()}),
        ]
    )
    clock.pass_by(timedelta(minutes=5))

    older = await claim(
        world, AGENTS[0], tier=Tier.CORROBORATED, first_seen=NOON - timedelta(hours=1), last_seen=NOON
    )
    assert older.containment.state is State.HALF_OPEN
    newer = await claim(world, AGENTS[0], tier=Tier.CORROBORATED)
    assert newer.containment.state is State.CLAIMED
    assert newer.containment.id == opened.id
