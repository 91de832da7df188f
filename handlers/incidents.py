"""
``POST /api/incidents``: a Sentinel playbook hands over an incident.

The body is a pointer. The incident, its alerts and entities are read again from Sentinel by ARM id, of the
one allowed workspace; every id found there is resolved in Graph before anything is decided about it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeAlias

from clients.errors import NotFound
from clients.sentinel import ForeignIncident, NotAnIncident, incident_arm_id
from clients.terms import AppId, ObjectId, ServicePrincipal, is_guid, object_id
from detections.catalog import Confidence
from handlers.auth import Role, caller, require
from handlers.http import Problem, Request, Response, json_body
from handlers.models import IncidentAnswer, IncidentBody, IncidentResult, Judgement, parsed
from response import flow, gathering
from response.decision import corroborates, newer
from response.evidence import NoSuchPrincipal
from response.finding import BOLDNESS, Finding, Source, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from clients.sentinel import Account, Alert, Incident, IncidentArmId
    from detections.catalog import Rule
    from handlers.process import Process
    from response.world import World

# Alerts and entities sometimes lag the incident (Azure-Sentinel issue 9820): asked again after these seconds.
LAG_WAITS: Final = (1.0, 2.0, 4.0)
MOST_PRINCIPALS: Final = 10
_ID_DETAILS: Final = ("ServicePrincipalId", "AgentId")
Claim: TypeAlias = tuple[Tier, str, str, str]
"""What an alert is worth: tier, rule of ours (empty: none), family, confidence."""


@dataclass(frozen=True, slots=True)
class Named:
    """A principal that an incident names, and what the alerts that name it are worth."""

    principal: ObjectId
    tier: Tier
    rule_id: str
    family: str
    confidence: str
    only_failures: bool = False


async def incidents(request: Request, process: Process) -> Response:
    """Answer a playbook: 200 with what was decided for each principal, also when there is nothing to do."""
    who = caller(request, process.settings)
    require(who, Role.INCIDENT_SUBMIT)
    pointer = parsed(IncidentBody, json_body(request)).object.id
    incident = await _incident(pointer, process)
    if incident.status == "Closed":
        outcome = "nothing to do: the incident is closed"
        return Response(
            200, IncidentAnswer(incident=incident.name, outcome=outcome, results=[], not_used=[]).shown()
        )
    alerts, accounts = await _alerts_and_accounts(incident.arm_id, process.world)
    named, not_used = await _named(alerts, accounts, process)
    results = [
        await _respond(one, incident, named, who.object_id, process.world) for one in named[:MOST_PRINCIPALS]
    ]
    not_used += [
        f"{one.principal}: more than {MOST_PRINCIPALS} principals in one incident"
        for one in named[MOST_PRINCIPALS:]
    ]
    outcome = "handled" if results else "nothing to do: the incident names no service principal"
    return Response(
        200,
        IncidentAnswer(incident=incident.name, outcome=outcome, results=results, not_used=not_used).shown(),
    )


async def _incident(pointer: str, process: Process) -> Incident:
    try:
        arm_id = incident_arm_id(pointer, process.settings.workspace_resource_id)
        return await process.world.sentinel.incident(arm_id)
    except NotAnIncident as error:
        raise Problem(400, "not_an_incident", f"{error}.") from error
    except ForeignIncident as error:
        raise Problem(403, "foreign_workspace", f"{error}. Nothing was read and nothing was done.") from error
    except NotFound as error:
        raise Problem(
            404, "incident_not_found", "Sentinel has no such incident in this workspace."
        ) from error


async def _alerts_and_accounts(
    arm_id: IncidentArmId, world: World
) -> tuple[Sequence[Alert], Sequence[Account]]:
    """Read both; while there is no alert, or nothing names a principal, ask again: both may lag the incident."""
    for wait in (*LAG_WAITS, None):
        alerts, accounts = await asyncio.gather(
            world.sentinel.alerts(arm_id), world.sentinel.accounts(arm_id)
        )
        named = any(account.object_ids for account in accounts) or any(_ids_in(alert) for alert in alerts)
        named = named and bool(alerts)
        if named or wait is None:
            return alerts, accounts
        await asyncio.sleep(wait)
    raise AssertionError("the loop ends by returning")  # pragma: no cover


async def _named(
    alerts: Sequence[Alert], accounts: Sequence[Account], process: Process
) -> tuple[list[Named], list[str]]:
    """
    Resolve which service principals the incident names, and by which alerts.

    Custom details come first, then accounts (an account may be a user: Graph says which), then appIds of
    alerts that give no object id. A display name is never resolved: names are not unique and anyone sets them.
    """
    by_details = {object_id(value) for alert in alerts for value in _ids_in(alert) if is_guid(value)}
    not_used = [
        f"{value[:60]!r}: not a GUID" for alert in alerts for value in _ids_in(alert) if not is_guid(value)
    ]
    found: dict[ObjectId, None] = dict.fromkeys(sorted(by_details))
    for value in sorted({value for account in accounts for value in account.object_ids} - by_details):
        match await gathering.find_principal(object_id(value), process.world):
            case NoSuchPrincipal(hint=hint):
                not_used.append(f"{value}: an account, but no service principal. {hint}".strip())
            case _:  # a principal, or one that could not be read: then it is asked about, never dropped
                found[object_id(value)] = None
    for alert in alerts:
        if not _ids_in(alert):
            await _by_app_id(alert, found, not_used, process.world)
    return [await _worth(principal, alerts, process) for principal in found], not_used


async def _by_app_id(alert: Alert, found: dict[ObjectId, None], not_used: list[str], world: World) -> None:
    for value in alert.custom_details.get("AppId", ()):
        if not is_guid(value):
            not_used.append(f"{value[:60]!r}: not a GUID")
            continue
        try:
            principal: ServicePrincipal = await world.graph.service_principal_by_app_id(AppId(value.lower()))
            found[principal.object_id] = None
        except NotFound:
            not_used.append(f"{value}: no service principal with this appId in the tenant")


def _ids_in(alert: Alert) -> tuple[str, ...]:
    return tuple(value for key in _ID_DETAILS for value in alert.custom_details.get(key, ()) if value)


async def _worth(principal: ObjectId, alerts: Iterable[Alert], process: Process) -> Named:
    """
    Give the boldest tier that the alerts naming this principal are worth.

    Only alerts of our own rules, or of rules that the settings trust, weigh without a person: anybody who may
    write an analytics rule in the workspace could otherwise contain at will. Raises: StoreError.
    """
    rules = process.rules
    naming = [alert for alert in alerts if principal in {value.lower() for value in _ids_in(alert)}]
    claims = [_claim(alert, rules, process.settings.trusted_rules) for alert in naming]
    best = max(
        claims, key=lambda claim: BOLDNESS.index(claim[0]), default=(Tier.APPROVAL, "", "incident", "")
    )
    failures = {rule.id for rule in rules if rule.only_failures}
    if best[0] is Tier.CORROBORATED:
        signs = [
            _sign(principal, claim, alert.last_activity, claim[1] in failures)
            for alert, claim in zip(naming, claims, strict=True)
            if claim[0] is Tier.CORROBORATED
            and alert.last_activity is not None  # without a time it agrees with nothing
        ]
        if await _agree(signs, principal, process.world):
            return Named(principal, Tier.AUTO, *best[1:])
    return Named(principal, *best, only_failures=best[1] in failures)


def _sign(principal: ObjectId, claim: Claim, at: datetime, failing: bool) -> Finding:
    tier, rule_id, family, confidence = claim
    return Finding(
        source=Source.INCIDENT,
        rule_id=rule_id,
        family=family,
        tier=tier,
        principal=principal,
        first_seen=at,
        last_seen=at,
        reason="",
        raised_by="",
        confidence=confidence,
        only_failures=failing,
    )


async def _agree(signs: Sequence[Finding], principal: ObjectId, world: World) -> bool:
    """Tell whether two alerts that Sentinel grouped are independent signs, as two findings are. Raises: StoreError."""
    if len(signs) < 2:
        return False
    counting = newer(signs, await gathering.undone_at(principal, world.store))
    return any(
        corroborates(one, other, world.policy, at) and corroborates(other, one, world.policy, at)
        for one, other in combinations(counting, 2)
        for at in (max(one.last_seen, other.last_seen),)
    )


def _claim(alert: Alert, rules: Sequence[Rule], trusted: frozenset[str]) -> Claim:
    rule = next((rule for rule in rules if str(rule.sentinel_id) in alert.rule_ids), None)
    if rule is not None:
        confidence = _confidence(alert)
        # Unread it may be "learning", or what an entry of the inventory lowered: it is not enough by itself.
        unread = Tier.APPROVAL if rule.tier is Tier.AUTO else rule.tier
        tier = unread if confidence is None else rule.tier_of(confidence)
        return tier, rule.id, rule.family, str(confidence or "")
    if alert.rule_ids & trusted:
        return Tier.AUTO, "", "incident", ""
    return Tier.APPROVAL, "", "incident", ""


def _confidence(alert: Alert) -> Confidence | None:
    """Give the least of the confidences in the alert (several rows in one alert give several); None without any."""
    known = [word for word in Confidence if word in alert.custom_details.get("Confidence", ())]
    return known[0] if known else None


async def _respond(
    one: Named, incident: Incident, named: Sequence[Named], who: str, world: World
) -> IncidentResult:
    seen = incident.first_activity or world.now()
    last = max(seen, incident.last_activity or seen)
    finding = Finding(
        source=Source.INCIDENT,
        rule_id=one.rule_id,
        family=one.family,
        tier=one.tier,
        principal=one.principal,
        first_seen=seen,
        last_seen=last,
        reason=f"Sentinel incident {incident.number or incident.name}: {incident.title}"[:1000],
        raised_by=who,
        confidence=one.confidence,
        incident_name=incident.name,
        incident_arm_id=incident.arm_id,
        doubts=(f"the incident names {len(named)} principals",) if len(named) > 1 else (),
        only_failures=one.only_failures,
    )
    opened = await flow.respond(finding, world)
    containment = opened.containment
    return IncidentResult(
        principal_id=one.principal,
        containment_id=containment.id if containment else None,
        state=containment.state if containment else None,
        repeated=opened.repeated,
        judgement=Judgement.of(opened.decision),
    )
