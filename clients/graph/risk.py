"""ID Protection through Graph: the risk of service principals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from clients.errors import Malformed, NotFound
from clients.fields import text
from clients.graph.calls import SERVICE, Beta, GraphCalls, moment
from clients.terms import ObjectId, Risk, RiskDetection, RiskLevel, is_guid, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Protection(GraphCalls):
    """The risk that Entra sees in a principal, and what an administrator says about it."""

    async def confirm_compromised(self, principals: Sequence[ObjectId]) -> datetime:
        """
        Raise the risk of service principals to high, in one call. Never retried here.

        Blocks nothing by itself: an enabled Conditional Access policy on service principal risk does, at
        the next token request or through continuous access evaluation (Graph only). The caller has taken
        the tenant's turn before, because between turn and call it gathers all who wait.

        Returns: when Graph accepted (UTC). Not proof, see ``response/verification.py``.
        Raises: Refused; Throttled; BadRequest or NotFound (of the batch, nothing is known to have taken
        effect); NotSent; OutcomeUnknown (it may have taken effect).
        Source: Graph v1.0 "riskyServicePrincipal: confirmCompromised".
        """
        await self._send(
            "confirm compromised",
            f"{self._base_url}/v1.0{_RISKY}/confirmCompromised",
            {"servicePrincipalIds": list(principals)},
        )
        return datetime.now(UTC)

    async def dismiss(self, principals: Sequence[ObjectId]) -> datetime:
        """
        Take back ALL risk of service principals, in one call, also what Microsoft itself had detected. Never retried.

        Returns: when Graph accepted (UTC). Raises: as ``confirm_compromised``.
        Source: Graph v1.0 "riskyServicePrincipal: dismiss".
        """
        await self._send(
            "dismiss risk",
            f"{self._base_url}/v1.0{_RISKY}/dismiss",
            {"servicePrincipalIds": list(principals)},
        )
        return datetime.now(UTC)

    async def confirm_agents_compromised(self, agents: Sequence[ObjectId]) -> datetime:
        """
        Raise the risk of agent identities and blueprint principals to high. Beta; as ``confirm_compromised`` else.

        Source: Graph beta "riskyAgent: confirmCompromised" (IdentityRiskyAgent.ReadWrite.All, global cloud only).
        """
        await self._send(
            "confirm agents compromised",
            f"{self._base_url}/beta{_AGENTS}/confirmCompromised",
            {"agentIds": list(agents)},
        )
        return datetime.now(UTC)

    async def dismiss_agents(self, agents: Sequence[ObjectId]) -> datetime:
        """Take back all risk of agents. Beta; as ``dismiss`` else. Source: Graph beta "riskyAgent: dismiss"."""
        await self._send(
            "dismiss risk of agents",
            f"{self._base_url}/beta{_AGENTS}/dismiss",
            {"agentIds": list(agents)},
        )
        return datetime.now(UTC)

    async def risk(self, principal: ObjectId) -> Risk | None:
        """Read the risk of one service principal; None when Entra never saw any. Takes a turn."""
        builder = self._graph.identity_protection.risky_service_principals.by_risky_service_principal_id(
            principal
        )
        try:
            return _risk(await self._read("read risk", builder, paced=True))
        except NotFound:
            return None

    async def high_risks(self) -> dict[ObjectId, Risk]:
        """Read all service principals whose risk is high, by object id. One turn a page."""
        from msgraph.generated.identity_protection.risky_service_principals.risky_service_principals_request_builder import (
            RiskyServicePrincipalsRequestBuilder as Builder,
        )

        query = Builder.RiskyServicePrincipalsRequestBuilderGetQueryParameters(filter="riskLevel eq 'high'")
        builder = self._graph.identity_protection.risky_service_principals
        risks = [_risk(item) for item in await self._read_all("list high risks", builder, query)]
        return {risk.object_id: risk for risk in risks}

    async def risks(self) -> dict[ObjectId, Risk]:
        """
        Read the risk of every service principal that Entra saw any of, by object id. One turn a page.

        For looking at many at once: what is not in it has none, as ``risk`` would say of each.
        """
        builder = self._graph.identity_protection.risky_service_principals
        risks = [_risk(item) for item in await self._read_all("list risks", builder)]
        return {risk.object_id: risk for risk in risks}

    async def agent_risks(self) -> dict[ObjectId, Risk]:
        """Read the risk of every agent that Entra saw any of. Beta; as ``risks`` else."""
        url = f"{self._base_url}/beta{_AGENTS}"
        risks = [_risk(item) for item in await self._read_all("list risks of agents", Beta(url))]
        return {risk.object_id: risk for risk in risks}

    async def agent_risk(self, agent: ObjectId) -> Risk | None:
        """Read the risk of one agent; None when Entra never saw any, or is still working. Beta; takes a turn."""
        try:
            return _risk(
                await self._read(
                    "read risk of agent", Beta(f"{self._base_url}/beta{_AGENTS}/{agent}"), paced=True
                )
            )
        except NotFound:
            return None

    async def high_agent_risks(self) -> dict[ObjectId, Risk]:
        """Read all agents whose risk is high, by object id. Beta; one turn a page."""
        wanted = quote("riskLevel eq 'high'")
        url = f"{self._base_url}/beta{_AGENTS}?$filter={wanted}"
        risks = [_risk(item) for item in await self._read_all("list high risks of agents", Beta(url))]
        return {risk.object_id: risk for risk in risks}

    async def risk_detections(self, principal: ObjectId) -> tuple[RiskDetection, ...]:
        """
        Read what ID Protection detected about a service principal, our own confirmations among it. A turn a page.

        Raises: Refused (needs IdentityRiskEvent.Read.All, another permission than the risk itself); Unavailable.
        """
        from msgraph.generated.identity_protection.service_principal_risk_detections.service_principal_risk_detections_request_builder import (
            ServicePrincipalRiskDetectionsRequestBuilder as Builder,
        )

        wanted = f"servicePrincipalId eq '{object_id(principal)}'"
        query = Builder.ServicePrincipalRiskDetectionsRequestBuilderGetQueryParameters(filter=wanted)
        builder = self._graph.identity_protection.service_principal_risk_detections
        found = await self._read_all("list risk detections", builder, query)
        return tuple(
            RiskDetection(
                id=text(item, "id"),
                event_type=text(item, "riskEventType"),
                level=_LEVELS.get(text(item, "riskLevel")),
                detected_at=moment(item, "detectedDateTime"),
            )
            for item in found
        )


_RISKY: Final = "/identityProtection/riskyServicePrincipals"
_AGENTS: Final = "/identityProtection/riskyAgents"
_LEVELS: Final = {level.value: level for level in RiskLevel}


def _risk(found: Mapping[str, Any]) -> Risk:
    if not is_guid(found.get("id")):
        raise Malformed(SERVICE, "risky service principal without id")
    processing = found.get("isProcessing")
    return Risk(
        object_id=object_id(found["id"]),
        level=_LEVELS.get(text(found, "riskLevel")),
        state=text(found, "riskState") or None,
        is_processing=processing if isinstance(processing, bool) else None,
    )
