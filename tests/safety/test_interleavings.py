"""
Whatever order things happen in: incidents, redeliveries, approvals, rejections, undos, kill switch, faults, deaths.

Several processes share one store; every call of theirs lets others run a drawn number of times, their clocks differ by
up to two minutes, and the store and Graph fail as they do. The simulated tenant keeps the risk states; what stands
between is the app's own code, whole. After each step the sentences with "never" are asked, at the end the one with
"always": once nothing fails any more, everything comes to rest and nothing is lost.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from memory import Memory

from clients.errors import OutcomeUnknown, Refused, Throttled
from clients.logs import Rows
from clients.policies import policy_from_graph
from clients.stores import Conflict, StoreOutcomeUnknown, StoreUnreachable
from clients.terms import (
    AppId,
    Dossier,
    Kind,
    ObjectId,
    Risk,
    RiskLevel,
    ServicePrincipal,
    TenantId,
)
from response import alive, approving, batches, flow, gathering, ledger, turns, undoing
from response.containment import Containment, State
from response.finding import Finding, Source, Tier
from response.policy import Mode, ResponsePolicy
from response.turns import Turns
from response.world import World
from simtenant.tenant import Tenant, TenantSettings

START = datetime(2026, 3, 3, 12, tzinfo=UTC)
TENANT = TenantId("11111111-1111-4111-8111-111111111111")
OURSELVES = ObjectId("aaaaaaaa-0000-4000-8000-000000000001")
PEOPLE = tuple(f"bbbbbbbb-0000-4000-8000-00000000000{n}" for n in range(3))
AGENTS = 3
SETTLED = {
    State.CONFIRMED,
    State.PROVEN,
    State.AWAITING_APPROVAL,
    State.REJECTED,
    State.EXPIRED,
    State.FAILED,
    State.HALF_OPEN,
    State.CLOSED,
    State.VETOED,
}
BLOCKS_HIGH_RISK = {
    "id": "cccccccc-0000-4000-8000-000000000001",
    "displayName": "CA-Agents-HighRisk",
    "state": "enabled",
    "conditions": {
        "clientAppTypes": ["all"],
        "applications": {"includeApplications": ["All"]},
        "users": {"includeUsers": ["None"]},
        "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
        "servicePrincipalRiskLevels": ["high"],
    },
    "grantControls": {"operator": "OR", "builtInControls": ["block"]},
}
POLICY = {
    "mode": Mode.ENFORCE,
    "rule_modes": {},
    "automatic_per_hour": 100,
    "automatic_per_day": 1000,
    "automatic_share_percent": 100,
    "automatic_per_owner": 100,
}


class Died(BaseException):
    """The process is gone."""


class Outside:
    """What all processes share: the tenant, the store, what is to fail next, and what must never be."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now = START
        self.tenant = Tenant(TenantSettings(risk_takes_effect_after=timedelta(0)))
        self.tenant.clock.now = lambda: self.now
        self.agents = [self.tenant.add_application(f"agent-{n}") for n in range(AGENTS)]
        self.protected = self.tenant.add_application("payroll")
        self.store = Memory()
        self.graph_faults = []
        self.store_faults = []
        self.never = []
        self.stopped_since_step = False
        self.comments = {}

    async def others(self):
        self.now += timedelta(milliseconds=20)
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)


class OneProcess:
    """One process: its clock, its life, and the app's own code on top."""

    def __init__(self, outside, skew):
        self.outside, self.skew, self.dead = outside, skew, False
        self.world = World(
            graph=Door(self, GraphOfTenant(outside)),
            logs=Door(self, SilentLogs()),
            sentinel=Door(self, Comments(outside)),
            store=Door(self, FailingStore(outside)),
            turns=Turns(outside.store),
            policy=ResponsePolicy(protected=frozenset({outside.protected.object_id}), **POLICY),
            own_principals=frozenset(),
            policies_max_age=timedelta(days=999),
            batch_size=50,
            now=lambda: outside.now + skew,
        )


class Door:
    """A client as one process holds it: others run before and after each call, and the dead call nobody."""

    def __init__(self, process, inside):
        self._process, self._inside = process, inside

    def __getattr__(self, name):
        method = getattr(self._inside, name)

        async def call(*arguments, **options):
            await self._alive()
            answer = await method(*arguments, **options)
            await self._alive()
            return answer

        return call

    async def _alive(self):
        if self._process.dead:
            raise Died
        await self._process.outside.others()
        if self._process.dead:
            raise Died


class FailingStore:
    def __init__(self, outside):
        self._outside = outside

    async def get(self, key):
        return await self._outside.store.get(key)

    async def scan(self, prefix, **options):
        return await self._outside.store.scan(prefix, **options)

    async def commit(self, writes):
        fault = self._outside.store_faults.pop() if self._outside.store_faults else None
        if fault == "conflict":
            raise Conflict(writes[0].key)
        if fault == "unreachable":
            raise StoreUnreachable("the store cannot be reached")
        done = await self._outside.store.commit(writes)
        if fault == "unknown":
            raise StoreOutcomeUnknown("no clear answer")
        return done


class GraphOfTenant:
    """The calls of GraphClient that a containment makes, answered by the simulated tenant's own risk states."""

    def __init__(self, outside):
        self._outside, self._tenant = outside, outside.tenant

    async def service_principal(self, principal):
        found = self._tenant.principals[principal]
        app_id = AppId(found.app_id)
        return ServicePrincipal(
            ObjectId(principal), app_id, found.display_name, Kind.APPLICATION, TENANT, True
        )

    async def own_claims(self):
        return OURSELVES, frozenset({"IdentityRiskEvent.Read.All"})

    async def dossier(self, _principal):
        return Dossier((), (), frozenset(), frozenset(), None)

    async def policies(self):
        return (policy_from_graph(BLOCKS_HIGH_RISK),)

    async def risk(self, principal):
        state = self._tenant.risk.get(principal)
        if state is None:
            return None
        return Risk(ObjectId(principal), RiskLevel(state.level), state.state, state.is_processing)

    async def high_risks(self):
        risks = [await self.risk(agent.object_id) for agent in self._outside.agents]
        return {risk.object_id: risk for risk in risks if risk and risk.level is RiskLevel.HIGH}

    async def risk_detections(self, _principal):
        return ()

    async def confirm_compromised(self, principals):
        for principal in principals:
            risk = await self.risk(principal)
            if risk is not None and risk.state == "confirmedCompromised":
                self._outside.never.append("confirmed what was confirmed already")
            if principal == self._outside.protected.object_id:
                self._outside.never.append("confirmed a protected principal")
        if self._outside.stopped_since_step:
            self._outside.never.append("confirmed while the kill switch was on")
        await self._send(lambda: self._tenant.risk.confirm(principals))
        return self._outside.now

    async def dismiss(self, principals):
        await self._send(lambda: self._tenant.risk.dismiss(principals))
        return self._outside.now

    async def _send(self, take_effect):
        fault = self._outside.graph_faults.pop() if self._outside.graph_faults else None
        await self._outside.others()
        if fault == "throttled":
            raise Throttled("Microsoft Graph", "too many", retry_after=None)
        if fault == "refused":
            raise Refused("Microsoft Graph", "no", status=403)
        if fault != "lost before":
            take_effect()
            self._tenant.risk.settle()
        await self._outside.others()
        if fault in ("lost before", "lost after"):
            raise OutcomeUnknown("Microsoft Graph", "no answer")


class SilentLogs:
    async def query(self, _kql, _start, _end):
        columns = ("ServicePrincipalId", "CreatedDateTime", "Id", "ResultType", "ConditionalAccessPolicies")
        return Rows(columns, ())


class Comments:
    def __init__(self, outside):
        self._outside = outside

    async def put_comment(self, incident, comment, text):
        self._outside.comments[(incident, comment)] = text


which = st.integers(0, AGENTS - 1)
process = st.integers(0, 1)
faults = st.lists(st.sampled_from(["throttled", "refused", "lost before", "lost after"]), max_size=2)
store_faults = st.lists(st.sampled_from(["conflict", "unreachable", "unknown", None, None]), max_size=3)


class Interleavings(RuleBasedStateMachine):
    """Steps are batches: what is drawn for one step runs at the same time."""

    @initialize(seed=st.integers(0, 2**32), skew=st.integers(-120, 120))
    def begin(self, seed, skew):
        self.loop = asyncio.new_event_loop()
        self.outside = Outside(seed)
        self.processes = [
            OneProcess(self.outside, timedelta(0)),
            OneProcess(self.outside, timedelta(seconds=skew)),
        ]
        self.pending = []
        self.number = 0

    def world(self, n):
        return self.processes[n].world

    def finding(self, agent, *, tier=Tier.AUTO, incident=""):
        self.number += 1
        now = self.outside.now
        return Finding(
            source=Source.INCIDENT if incident else Source.RULE,
            rule_id="AG-04",
            family="reach",
            tier=tier,
            principal=ObjectId(agent.object_id),
            first_seen=now - timedelta(seconds=self.number % 50),
            last_seen=now,
            reason="first Key Vault use",
            raised_by="agentbreaker",
            incident_name=incident,
            incident_arm_id=f"/incidents/{incident}",
        )

    # --- what is drawn waits until ``at_once`` runs it all together ---

    @rule(agent=which, n=process, tier=st.sampled_from([Tier.AUTO, Tier.AUTO, Tier.APPROVAL]))
    def incident(self, agent, n, tier):
        found = self.finding(self.outside.agents[agent], tier=tier, incident=f"incident-{self.number}")
        self.pending.append(flow.respond(found, self.world(n)))

    @rule(agent=which, times=st.integers(2, 4))
    def redelivery(self, agent, times):
        found = self.finding(self.outside.agents[agent], incident=f"incident-{self.number}")
        self.pending += [flow.respond(found, self.world(k % 2)) for k in range(times)]

    @rule(n=process)
    def about_a_protected_principal(self, n):
        self.pending.append(flow.respond(self.finding(self.outside.protected), self.world(n)))

    @rule(
        agent=which,
        n=process,
        who=st.sampled_from(PEOPLE),
        said=st.sampled_from(["approve", "approve", "reject"]),
    )
    def decision(self, agent, n, who, said):
        for c in self.containments(agent):
            self.pending.append(flow.approve_or_reject(c.id, who, said, "looked at it", self.world(n)))

    @rule(agent=which, n=process, who=st.sampled_from(PEOPLE))
    def undo(self, agent, n, who):
        for c in self.containments(agent):
            self.pending.append(flow.undo(c.id, who, "a mistake", (), self.world(n)))

    @rule(n=process)
    def settle(self, n):
        self.pending.append(flow.settle(self.world(n)))

    @rule(graph=faults, store=store_faults)
    def at_once(self, graph, store):
        self.outside.graph_faults, self.outside.store_faults = graph, store
        self.run()

    @rule(n=process, after=st.integers(1, 60))
    def a_process_dies(self, n, after):
        """It dies in the middle of what is going on; another one takes its place."""
        dying = self.processes[n]

        async def dies():
            for _ in range(after):
                await asyncio.sleep(0)
            dying.dead = True

        self.pending.append(dies())
        self.run()
        self.processes[n] = OneProcess(self.outside, dying.skew)

    @rule(stopped=st.booleans())
    def kill_switch(self, stopped):
        self.run()
        body = {"stopped": stopped, "reason": "x"}
        self.loop.run_until_complete(self.outside.store.commit([gathering.Put(gathering.KILL_SWITCH, body)]))
        self.outside.stopped_since_step = stopped

    @rule(minutes=st.sampled_from([1, 2, 31, 250]))
    def time_passes(self, minutes):
        self.run()
        self.outside.now += timedelta(minutes=minutes)

    def run(self):
        waiting, self.pending = self.pending, []

        async def together():
            return await asyncio.wait_for(
                asyncio.gather(*map(self.guarded, waiting), return_exceptions=True), timeout=60
            )

        for result in self.loop.run_until_complete(together()):
            if isinstance(result, BaseException):
                raise result

    async def guarded(self, coroutine):
        """What callers are told about is no surprise: a store that fails, a decision that does not count."""
        try:
            await coroutine
        except (
            Died,
            StoreUnreachable,
            StoreOutcomeUnknown,
            Conflict,
            approving.CannotDecide,
            undoing.CannotUndo,
        ):
            return

    def containments(self, agent=None):
        bodies = [r.body for r in self.outside.store.records.values() if r.key.startswith("containment:")]
        found = [Containment.from_body(body) for body in bodies]
        wanted = None if agent is None else self.outside.agents[agent].object_id
        return [c for c in found if wanted in (None, c.principal)]

    # --- never ---

    @invariant()
    def nothing_happened_that_never_may(self):
        if hasattr(self, "outside"):
            assert self.outside.never == []

    @invariant()
    def one_open_containment_a_principal(self):
        if not hasattr(self, "outside"):
            return
        held = [c.principal for c in self.containments() if c.is_open]
        assert len(held) == len(set(held))

    @invariant()
    def what_was_rejected_was_not_pulled_for_it(self):
        if not hasattr(self, "outside"):
            return
        rejected = {c.id for c in self.containments() if c.state is State.REJECTED}
        pulled = {
            r.body["containment"]
            for r in self.outside.store.records.values()
            if r.key.startswith("ledger:") and r.body["kind"] == "pulled"
        }
        assert not rejected & pulled

    # --- always ---

    def teardown(self):
        if not hasattr(self, "outside"):
            return
        try:
            self.comes_to_rest()
        finally:
            for coroutine in self.pending:
                coroutine.close()
            self.loop.close()

    def comes_to_rest(self):
        self.outside.graph_faults, self.outside.store_faults = [], []
        self.kill_switch(stopped=False)
        for _ in range(3):
            self.pending.append(flow.settle(self.world(0)))
            self.run()
            self.outside.now += timedelta(seconds=61)
        left = [
            r.key for r in self.outside.store.records.values() if r.key.startswith(("claimed:", "undoing:"))
        ]
        assert left == []
        assert {c.state for c in self.containments()} <= SETTLED
        for c in self.containments():
            risk = self.outside.tenant.risk.get(c.principal)
            if c.state in (State.CONFIRMED, State.PROVEN):
                assert risk is not None
                assert risk.state == "confirmedCompromised"
            if c.state is State.HALF_OPEN:
                assert risk is None or risk.state == "dismissed"
        verified = self.loop.run_until_complete(ledger.verify(self.outside.store))
        assert isinstance(verified, ledger.Verified)
        assert self.outside.never == []


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(turns, "INTERVAL", timedelta(milliseconds=2))
    monkeypatch.setattr(batches, "_WATCH", 0.001)
    for module in (alive, batches):
        monkeypatch.setattr(module, "SILENT_FOR", timedelta(milliseconds=30))
    monkeypatch.setattr(alive, "_BEAT", timedelta(milliseconds=1))


@pytest.mark.timeout(280)
@pytest.mark.usefixtures("_hurry")
def test_whatever_order_things_happen_in():
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=150,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
