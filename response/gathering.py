"""Gather evidence: ask Graph and the store what can be known about a finding, and keep what could not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clients.errors import ClientError, NotFound
from clients.stores import Put, StoreError
from clients.terms import AppId, NotAsked, ServicePrincipal, Unknown
from response import breaker
from response.decision import corroborates, lifts
from response.evidence import Armed, Evidence, NoSuchPrincipal, NotArmed
from response.finding import CORROBORATION_WINDOW, Finding, Source, Tier
from response.levers import CONFIRM_COMPROMISED

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from clients.stores import Store
    from clients.terms import ObjectId, Policy, RiskLevel
    from response.world import World

T = TypeVar("T")
KILL_SWITCH: Final = "killswitch"
BRAKE: Final = "brake:automatic"
BRAKE_TRIPPED: Final = "brake:tripped"
POLICIES: Final = "policies"
BRAKE_WINDOW: Final = timedelta(hours=1)


async def gather(finding: Finding, world: World, now: datetime) -> Evidence:
    """
    Check a finding. Never raises for a question that could not be answered: the answer is Unknown then.

    Graph: one read of the principal; the policies only when the last reading is too old; the risk only when
    one finding is not enough and no other agrees.
    """
    principal, own, earlier, automatic, stopped, policies = await asyncio.gather(
        find_principal(finding.principal, world),
        own_identities(world),
        answered(earlier_findings(finding, world.store, now)),
        answered(automatic_last_hour(world.store, now)),
        answered(kill_switch_stopped(world.store)),
        answered(current_policies(world)),
    )
    return Evidence(
        principal=principal,
        armed=armed_for(principal, policies),
        own_identities=own,
        microsoft_risk=await _microsoft_risk(finding, principal, earlier, world, now),
        earlier=earlier,
        automatic_last_hour=automatic,
        kill_switch_stopped=stopped,
        ongoing=await answered(ongoing_findings(finding, world.store, now))
        if finding.tier is Tier.CORROBORATED
        else (),
    )


async def find_principal(principal: ObjectId, world: World) -> ServicePrincipal | NoSuchPrincipal | Unknown:
    """Read the principal; when Graph knows no such object id, tell whose id it is if that can be found out."""
    try:
        return await world.graph.service_principal(principal)
    except NotFound:
        return NoSuchPrincipal(await _hint(principal, world))
    except ClientError as error:
        return Unknown(str(error))


async def _hint(given: str, world: World) -> str:
    """Say which service principal was meant, when an appId or an app registration's object id was given."""
    by_app_id = await answered(world.graph.service_principal_by_app_id(AppId(given)))
    if isinstance(by_app_id, ServicePrincipal):
        return f"The id given is an appId; its service principal has object id {by_app_id.object_id}."
    application = await answered(world.graph.application(given))
    if isinstance(application, Unknown):
        return ""
    meant = await answered(world.graph.service_principal_by_app_id(application.app_id))
    owner = "The id given is the object id of an app registration"
    if isinstance(meant, Unknown):
        return f"{owner}; give the object id of its service principal (Enterprise applications)."
    return f"{owner}; its service principal has object id {meant.object_id}."


def armed_for(
    principal: ServicePrincipal | NoSuchPrincipal | Unknown, policies: tuple[Policy, ...] | Unknown
) -> Armed | NotArmed | Unknown:
    """Tell whether the breaker is armed for what we know of the principal."""
    if isinstance(policies, Unknown):
        return policies
    if isinstance(principal, ServicePrincipal):
        return breaker.armed(policies, principal)
    return Unknown("the principal was not read")


async def own_identities(world: World) -> frozenset[ObjectId] | Unknown:
    """Give the object ids that are this system itself: the one in our own Graph token and those in settings."""
    claims = await answered(world.graph.own_claims())
    return claims if isinstance(claims, Unknown) else world.own_principals | {claims[0]}


async def earlier_findings(finding: Finding, store: Store, now: datetime) -> tuple[Finding, ...]:
    """
    Read other findings about the principal in the corroboration window. Raises: StoreError.

    The window ends now; for a sign that lifts this rule it ends where the finding begins, because what an agent did
    minutes after a prompt attack may be seen an hour later.
    """
    records = await store.scan(f"finding:{finding.principal}:")
    known = [Finding.from_body(record.body) for record in records if record.key != finding.key]
    return tuple(
        f
        for f in known
        if now - f.last_seen <= CORROBORATION_WINDOW
        or (finding.rule_id in f.lifts and finding.first_seen - f.last_seen <= CORROBORATION_WINDOW)
    )


async def ongoing_findings(finding: Finding, store: Store, now: datetime) -> tuple[Finding, ...]:
    """
    Read other findings about the principal that began earlier and still go on. Raises: StoreError.

    A rule that says what is new keeps quiet while it goes on, so its finding is as old as the novelty. Their end is
    given as when they were last said.
    """
    found = []
    for record in await store.scan(f"finding:{finding.principal}:"):
        if record.key == finding.key or not record.body.get("repeated_until"):
            continue
        until = datetime.fromisoformat(record.body["repeated_until"])
        other = Finding.from_body(record.body)
        if now - until <= CORROBORATION_WINDOW < now - other.last_seen:
            found.append(replace(other, last_seen=until))
    return tuple(found)


async def automatic_last_hour(store: Store, now: datetime) -> int:
    """Count automatic containments of the last 60 minutes. Raises: StoreError."""
    record = await store.get(BRAKE)
    return 0 if record is None else len(recent_times(record.body, now))


def recent_times(body: Any, now: datetime) -> list[str]:
    """Give the times in the storm brake's record that are inside its window."""
    return [text for text in body["times"] if now - datetime.fromisoformat(text) < BRAKE_WINDOW]


async def kill_switch_stopped(store: Store) -> bool:
    """Read the kill switch, afresh. Raises: StoreError; the caller must then act as if it were on."""
    record = await store.get(KILL_SWITCH)
    return False if record is None else record.body["stopped"] is not False


async def current_policies(world: World, *, refresh_after: timedelta | None = None) -> tuple[Policy, ...]:
    """
    Give the Conditional Access policies, from the last reading while it is young enough, else from Graph.

    Raises: ClientError or StoreError; an old reading is never used in place of a failed new one.
    """
    limit = world.policies_max_age if refresh_after is None else refresh_after
    async with world.policies_gate.lock:
        record = await world.store.get(POLICIES)
        if (
            record is not None
            and timedelta(0) <= world.now() - datetime.fromisoformat(record.body["read_at"]) <= limit
        ):
            return tuple(breaker.policy_from_body(body) for body in record.body["policies"])
        world.policies_gate.raise_if_just_failed()
        try:
            policies = await world.graph.policies()
        except ClientError as error:
            world.policies_gate.failed(error)
            raise
        bodies = [breaker.policy_to_body(policy) for policy in policies]
        await world.store.commit([Put(POLICIES, {"read_at": world.now().isoformat(), "policies": bodies})])
    return policies


async def _microsoft_risk(
    finding: Finding,
    principal: ServicePrincipal | NoSuchPrincipal | Unknown,
    earlier: tuple[Finding, ...] | Unknown,
    world: World,
    now: datetime,
) -> RiskLevel | Unknown | NotAsked | None:
    if finding.tier is not Tier.CORROBORATED or finding.source is Source.ANALYST:
        return NotAsked(
            "not needed for this finding, and asking costs the tenant's one ID Protection call a second"
        )
    if not isinstance(principal, ServicePrincipal) or principal.kind not in CONFIRM_COMPROMISED.bites_on:
        return NotAsked("no lever here reaches this kind of identity")
    if isinstance(earlier, tuple) and any(
        corroborates(f, finding, world.policy, now) or lifts(f, finding, world.policy) for f in earlier
    ):
        return NotAsked("another finding agrees already")
    risk = await answered(world.graph.risk(finding.principal))
    if isinstance(risk, Unknown):
        return risk
    return None if risk is None else risk.microsoft_says


async def answered(question: Awaitable[T]) -> T | Unknown:
    """Await an answer; a service or store that does not give one makes it Unknown, with the reason."""
    try:
        return await question
    except (ClientError, StoreError) as error:
        return Unknown(str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Unknown(f"a stored record is unreadable ({type(error).__name__})")
