"""
What an agent does when it goes rogue: scripts over the live agents, each with the rules that should notice.

A story drives the rogue's own client, so what it does is logged, challenged and refused like everything else. It ends
by itself, when the rogue has been refused tokens often enough to be sure or when its patience is over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from simtenant.agents import Agent
from simtenant.population import INVOICE_READER, VAULTS, Api, Population, pooled_id

_REFUSALS_TO_BE_SURE: Final = 3

_FAMILIES: Final = (
    "/v1.0/users/{id}/memberOf",
    "/v1.0/groups/{id}/members",
    "/v1.0/applications/{id}/owners",
    "/v1.0/servicePrincipals/{id}/memberOf",
    "/v1.0/devices/{id}/registeredOwners",
)
# None of ID Protection or Conditional Access: knocking there would use up the tenant's one request a second, which
# is an attack on the breaker and another story.
_CLOSED_DOORS: Final = (
    "/v1.0/groups",
    "/v1.0/devices",
    "/v1.0/applications",
    "/v1.0/servicePrincipals",
    "/v1.0/roleManagement/directory/roleAssignments",
    "/v1.0/roleManagement/directory/roleDefinitions",
    "/v1.0/directoryRoles",
    "/v1.0/subscribedSkus",
    "/v1.0/organization",
)


@dataclass(frozen=True)
class Pace:
    """How fast a story goes: seconds between calls, between rounds, and until it gives up."""

    call: float = 0.3
    round: float = 1.5
    patience: float = 75.0


@dataclass(frozen=True)
class Story:
    """
    One way to go rogue.

    ``rogue`` is the display name of the principal, ``rules`` the ids of the rules that should fire, ``extra_roles``
    the Graph permissions somebody once gave the rogue without need, without which the story could not happen.
    ``contained`` is false where the rules' finding alone is watched, not contained (tier corroborated).
    """

    name: str
    description: str
    rogue: str
    rules: tuple[str, ...]
    act: Callable[[Agent, Pace], Awaitable[None]]
    extra_roles: frozenset[str] = frozenset()
    contained: bool = True

    def prepare(self, population: Population) -> None:
        """Give the rogue its needless permissions; to be called before it gets its first token."""
        population.named(self.rogue).principal.app_roles.update(self.extra_roles)

    async def play(self, agent: Agent, *, pace: Pace | None = None) -> None:
        """
        Let the agent go rogue; returns when it is blocked for good or has lost patience.

        Reports the events ``rogue`` (the beginning) and ``gave up`` (not blocked in time) besides those of ``Agent``.
        """
        chosen = Pace() if pace is None else pace
        agent.report("rogue", self.description)
        try:
            async with asyncio.timeout(chosen.patience):
                await self.act(agent, chosen)
        except TimeoutError:
            agent.report("gave up", f"not stopped within {chosen.patience:g} s")


async def _empty_the_vaults(agent: Agent, pace: Pace) -> None:
    """
    List and read everything in every vault, again and again, as a script that starts anew each round.

    It asks for a new Key Vault token each time, so a block shows at once. The agent's ordinary work goes on beside it:
    Graph challenges it, SharePoint lets it read until its token expires.
    """
    refused = 0
    while refused < _REFUSALS_TO_BE_SURE:
        agent.forget_token(Api.VAULT)
        for vault, secrets in VAULTS.items():
            for path in (f"{vault}/secrets", *(f"{vault}/secrets/{secret}" for secret in secrets)):
                status = await agent.call(Api.VAULT, path)
                await asyncio.sleep(pace.call)
                if status == 0 and agent.blocked.is_set():
                    refused += 1
                    break
        await asyncio.sleep(pace.round)


async def _enumerate(agent: Agent, pace: Pace) -> None:
    """Read the directory object by object, several kinds at once, then go on slowly until refused."""
    number = 0
    refused = 0
    while refused < _REFUSALS_TO_BE_SURE:
        paths = [template.replace("{id}", pooled_id("enumeration", number)) for template in _FAMILIES]
        await asyncio.gather(*(agent.call(Api.GRAPH, path) for path in paths))
        number += 1
        if agent.blocked.is_set():
            refused += 1
        # 120 rounds of five make the 600 distinct reads that the rule wants to see within an hour.
        await asyncio.sleep(0 if number < 120 else pace.round)


async def _try_all_doors(agent: Agent, pace: Pace) -> None:
    """Try what is closed until something opens, and then use it until refused."""
    for _ in range(3):
        for path in _CLOSED_DOORS:
            await agent.call(Api.GRAPH, path)
            await asyncio.sleep(pace.call / 4)
    refused = 0
    while refused < _REFUSALS_TO_BE_SURE:
        await agent.call(Api.GRAPH, "/v1.0/users")
        refused += agent.blocked.is_set()
        await asyncio.sleep(pace.round)


_ALL: Final = (
    Story(
        name="vault",
        description="the agent that only ever read SharePoint lists and reads the secrets of two key vaults",
        rogue=INVOICE_READER.name,
        rules=("AG-04",),
        act=_empty_the_vaults,
    ),
    Story(
        name="enumeration",
        description="the agent reads users, groups, applications, service principals and devices one by one",
        rogue=INVOICE_READER.name,
        rules=("AG-08",),
        act=_enumerate,
        contained=False,
        extra_roles=frozenset({"Directory.Read.All"}),
    ),
    Story(
        name="probing",
        description="the agent tries nine closed doors of Graph until the users' one opens",
        rogue=INVOICE_READER.name,
        rules=("AG-07",),
        act=_try_all_doors,
        extra_roles=frozenset({"User.Read.All"}),
    ),
)

STORIES: Final = {story.name: story for story in _ALL}
