"""A store on disk, the local log engine, and a directory in memory: what a judgement asks, without sockets."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from builders import AGENT, NOON, OURSELVES, policy, principal

from clients.errors import ClientError, NotFound
from clients.logs import Rows
from clients.policies import policy_from_graph
from clients.terms import Dossier, ObjectId, Person, Policy, Risk, ServicePrincipal
from response.turns import Turns
from response.world import World
from workbench.engine import LogEngine

ADA, BOB = (
    Person("11111111-0000-4000-8000-000000000001", "Ada"),
    Person("22222222-0000-4000-8000-000000000002", "Bob"),
)
EVERYTHING = frozenset(
    {"CustomSecAttributeAssignment.Read.All", "RoleManagement.Read.Directory", "AgentIdentity.Read.All"}
)
NOTHING_HELD = Dossier(owners=(), sponsors=(), app_roles=frozenset(), directory_roles=frozenset(), mark=None)
BLOCKS = policy_from_graph(
    {
        "id": "policy-1",
        "displayName": "Block risky agents",
        "state": "enabled",
        "conditions": {
            "applications": {"includeApplications": ["All"]},
            "clientApplications": {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]},
            "clientAppTypes": ["all"],
            "servicePrincipalRiskLevels": ["high"],
        },
        "grantControls": {"operator": "OR", "builtInControls": ["block"]},
    }
)


@dataclass
class Directory:
    """Graph as far as a judgement asks it. ``failing`` names the questions that get no answer; ``asked`` counts all."""

    known: dict[ObjectId, ServicePrincipal] = field(default_factory=lambda: {AGENT: principal()})
    held: Dossier = NOTHING_HELD
    granted: frozenset[str] = EVERYTHING
    failing: dict[str, ClientError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    at_risk: Risk | None = None

    async def _question(self, name: str) -> None:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name in self.failing:
            raise self.failing[name]

    async def service_principal(self, wanted: ObjectId) -> ServicePrincipal:
        await self._question("service_principal")
        if wanted not in self.known:
            raise NotFound("Graph", "read service principal", status=404)
        return self.known[wanted]

    async def own_claims(self) -> tuple[ObjectId, frozenset[str]]:
        await asyncio.sleep(0)
        if "own_claims" in self.failing:
            raise self.failing["own_claims"]
        return OURSELVES, self.granted

    async def policies(self) -> tuple[Policy, ...]:
        await self._question("policies")
        return (BLOCKS,)

    async def dossier(self, _of: ServicePrincipal) -> Dossier:
        await self._question("dossier")
        return self.held

    async def risk(self, _of: ObjectId) -> Risk | None:
        await self._question("risk")
        return self.at_risk

    def holding(self, **changes: object) -> None:
        self.held = replace(self.held, **changes)


@dataclass
class Log:
    """Log Analytics as the local engine answers it: the very text of the query runs."""

    engine: LogEngine
    failing: ClientError | None = None
    takes: float = 0.0
    asked: int = 0

    async def query(self, kql: str, _start: datetime, end: datetime) -> Rows:
        self.asked += 1
        await asyncio.sleep(self.takes)
        if self.failing is not None:
            raise self.failing
        result = self.engine.query(kql, now=end)
        return Rows(tuple(name for name, _ in result.columns), tuple(map(tuple, result.rows)))


@dataclass
class Clock:
    """The time of one world."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, span: timedelta) -> None:
        self.at += span


def world_on(store, directory: Directory, log: Log, clock: Clock, **changes: object) -> World:
    """Give a world as one process has it."""
    return World(
        graph=directory,
        logs=log,
        sentinel=None,
        store=store,
        turns=Turns(store),
        policy=policy(**changes),
        own_principals=frozenset(),
        policies_max_age=timedelta(minutes=15),
        batch_size=50,
        now=clock,
    )
