"""Conditional Access through Graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clients.errors import Malformed
from clients.fields import text
from clients.graph.calls import SERVICE, GraphCalls
from clients.policies import policy_from_graph
from clients.terms import AppId, RiskLevel, WhatIf, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clients.terms import Policy, ServicePrincipal

MICROSOFT_GRAPH: Final = AppId("00000003-0000-0000-c000-000000000000")


class Access(GraphCalls):
    """The policies that turn a risk into a block."""

    async def policies(self) -> tuple[Policy, ...]:
        """Read all Conditional Access policies (Policy.Read.All). One turn a page."""
        builder = self._graph.identity.conditional_access.policies
        return tuple(policy_from_graph(item) for item in await self._read_all("list policies", builder))

    async def service_plans(self) -> frozenset[str]:
        """
        Read which service plans the tenant's licences give and have provisioned: names and ids, in lower case.

        Permission: LicenseAssignment.Read.All. Raises: Refused; Throttled; Unavailable; Malformed.
        Source: Graph v1.0 "List subscribedSkus".
        """
        what = "list licences"
        plans = [
            plan
            for sku in await self._read_all(what, self._graph.subscribed_skus, paced=False)
            for plan in _listed(sku.get("servicePlans"), what)
            if plan.get("provisioningStatus") == "Success"
        ]
        return frozenset(
            text(plan, field).lower() for plan in plans for field in ("servicePlanName", "servicePlanId")
        )

    async def what_if(
        self,
        principal: ServicePrincipal,
        resource: str | None = None,
        risk_level: RiskLevel = RiskLevel.HIGH,
    ) -> tuple[WhatIf, ...]:
        """
        Ask Microsoft what its policies would do to a sign-in of a service principal at a risk. Takes a turn.

        The risk is what we say, not what the principal has, and no location is said. ``resource`` is an appId,
        Microsoft Graph's where none is given. v1.0 answers for single-tenant applications only; agents are not asked
        about here. All policies come back, also those that do not apply, with the reasons.

        Permission: Policy.Read.ConditionalAccess or Policy.Read.All. Raises: Refused; NotFound; BadRequest; Throttled;
        Unavailable; Malformed (also for more than one page: it was not the whole answer).
        Source: Graph v1.0 "conditionalAccessRoot: evaluate".
        """
        what = "ask What If"
        body = {
            "signInIdentity": {
                "@odata.type": "#microsoft.graph.servicePrincipalSignIn",
                "servicePrincipalId": object_id(principal.object_id),
            },
            "signInContext": {
                "@odata.type": "#microsoft.graph.applicationContext",
                "includeApplications": [resource or MICROSOFT_GRAPH],
            },
            "signInConditions": {"servicePrincipalRiskLevel": risk_level.value},
            "appliedPoliciesOnly": False,
        }
        url = f"{self._base_url}/v1.0/identity/conditionalAccess/evaluate"
        found = await self._ask(what, url, body, paced=True)
        results = found.get("value")
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise Malformed(SERVICE, f"{what}: no list")
        if found.get("@odata.nextLink"):
            raise Malformed(SERVICE, f"{what}: more than one page")
        return tuple(_what_if(one) for one in results)


def _listed(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(SERVICE, f"{what}: no list of service plans")
    return value


def _what_if(found: Mapping[str, Any]) -> WhatIf:
    policy, applies = policy_from_graph(found), found.get("policyApplies")
    if not policy.id or not isinstance(applies, bool):
        raise Malformed(SERVICE, "What If names no policy, or not whether it applies")
    reasons = (reason.strip() for reason in text(found, "analysisReasons").split(","))  # a flags text
    return WhatIf(
        policy_id=policy.id,
        state=policy.state,
        blocks=policy.blocks,
        applies=applies,
        reasons=tuple(reason for reason in reasons if reason not in ("", "notSet")),
    )
