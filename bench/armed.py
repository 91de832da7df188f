"""Armed or not, for a whole tenant: many principals against many policies, each with its reasons."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from dataclasses import replace
from typing import Final

from bench.figures import Json, against
from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, Policy, ServicePrincipal
from response.breaker import Breaker
from response.coverage import About

TARGET_SECONDS: Final = 5.0
PRINCIPALS: Final = 10_000
POLICIES: Final = 50
_SEED: Final = 20261126
_BLOCK: Final = {"operator": "OR", "builtInControls": ["block"]}
_RULE: Final = (
    'CustomSecurityAttribute.Agents_Zone -eq "red" -or CustomSecurityAttribute.Agents_Tier -in ["1", "2"]'
)
# By hundred principals. Most are applications and managed identities; agent identities are on the way up.
_KINDS: Final = {
    Kind.APPLICATION: 45,
    Kind.MANAGED_IDENTITY: 20,
    Kind.AGENT_IDENTITY: 15,
    Kind.FOREIGN_APPLICATION: 10,
    Kind.MICROSOFT: 6,
    Kind.MULTITENANT_APPLICATION: 4,
}


def measure(runs: int) -> Json:
    """Time all principals against all policies, once with a policy that arms everybody and once without."""
    principals, policies = _principals(), _policies()
    seconds, answers = _timed(max(5, runs), policies, principals)
    # Without one that blocks everybody each answer is a list of reasons, which is more work.
    disarmed = [replace(policy, state="disabled") if _arms_all(policy) else policy for policy in policies]
    slower, reasons = _timed(max(5, runs), disarmed, principals)
    return {
        "unit": "s",
        "runs": len(seconds),
        "principals": len(principals),
        "policies": len(policies),
        "target": {"p50": TARGET_SECONDS},
        "seconds": against(seconds, p50=TARGET_SECONDS),
        "answers": answers,
        "secondsWithReasons": against(slower, p50=TARGET_SECONDS),
        "answersWithReasons": reasons,
        "ok": all(against(found, p50=TARGET_SECONDS)["ok"] for found in (seconds, slower)),
    }


def _timed(runs: int, policies: list[Policy], principals: list[About]) -> tuple[list[float], dict[str, int]]:
    taken, counted = [], Counter[str]()
    for _ in range(runs):
        began = time.perf_counter()
        counted = Counter(answer.coverage.value for answer in Breaker(policies).answers(principals))
        taken.append(time.perf_counter() - began)
    return taken, dict(counted)


def _arms_all(policy: Policy) -> bool:
    everyone = {"serviceprincipalsinmytenant"} & policy.include_service_principals or policy.include_agents
    return bool(everyone) and policy.state == "enabled" and not policy.exclude_applications


def _principals() -> list[About]:
    ids = random.Random(_SEED)
    kinds = [kind for kind, share in _KINDS.items() for _ in range(share)]
    return [
        About(
            ServicePrincipal(
                ObjectId(_guid(ids)), AppId(_guid(ids)), f"agent-{number}", kinds[number % 100], None, None
            ),
            # Every tenth is marked, so that the filters are evaluated and not only declined.
            {"Agents_Zone": "red" if number % 20 else "blue"} if number % 10 == 0 else None,
            _guid(ids),
        )
        for number in range(PRINCIPALS)
    ]


def _policies() -> list[Policy]:
    """Make policies as a large tenant has them: most for people, some with long lists, a few on risk."""
    found = _principals()
    listed = [about.principal.object_id for about in found]
    wrong = [about.principal.app_id for about in found]
    bodies: list[Json] = [_body(clientApplications=None, users={"includeUsers": ["All"]}) for _ in range(30)]
    for number in range(10):
        lists = {
            "includeServicePrincipals": [*listed[number::60], *wrong[number::600]],
            "excludeServicePrincipals": listed[number::250],
        }
        bodies.append(_body(clientApplications=lists, servicePrincipalRiskLevels=["high"]))
    for number in range(5):
        everyone = {"includeServicePrincipals": ["ServicePrincipalsInMyTenant"]}
        places = {"includeLocations": ["All"], "excludeLocations": ["AllTrusted"]}
        bodies.append(_body(clientApplications=everyone, servicePrincipalRiskLevels=["medium"]))
        bodies[-1]["conditions"]["locations"] = places if number % 2 else None
    for mode in ("include", "exclude"):
        rule = {"includeServicePrincipals": [], "servicePrincipalFilter": {"mode": mode, "rule": _RULE}}
        bodies.append(_body(clientApplications=rule, servicePrincipalRiskLevels=["high"]))
    bodies.append(
        _body(clientApplications={"includeAgentIdServicePrincipals": ["All"]}, agentIdRiskLevels="high")
    )
    excluded = {
        "includeServicePrincipals": ["ServicePrincipalsInMyTenant"],
        "excludeServicePrincipals": listed[::40],
    }
    bodies.append(_body(clientApplications=excluded, servicePrincipalRiskLevels=["high"]))
    bodies.append(_body(clientApplications=excluded, servicePrincipalRiskLevels=["high"]))
    bodies[-1]["state"] = "enabledForReportingButNotEnforced"
    return [policy_from_graph(body | {"id": f"policy-{number}"}) for number, body in enumerate(bodies)]


def _body(**conditions: object) -> Json:
    basic: Json = {
        "clientAppTypes": ["all"],
        "applications": {"includeApplications": ["All"]},
        "users": {"includeUsers": ["None"]},
    }
    return {"state": "enabled", "conditions": basic | conditions, "grantControls": _BLOCK}


def _guid(ids: random.Random) -> str:
    return str(uuid.UUID(int=ids.getrandbits(128)))
