"""ID Protection through Graph: the risk of service principals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from clients.errors import Malformed, NotFound, error_code, from_status
from clients.fields import text
from clients.graph.calls import SERVICE, GraphCalls, translated
from clients.terms import ObjectId, Risk, RiskLevel, is_guid, object_id

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
        from msgraph.generated.identity_protection.risky_service_principals.confirm_compromised.confirm_compromised_post_request_body import (
            ConfirmCompromisedPostRequestBody as Body,
        )

        action = self._graph.identity_protection.risky_service_principals.confirm_compromised
        what = "confirm compromised"

        async def post() -> None:
            # Not ``action.post``: kiota takes 304, a redirect with Location and any 2xx page for success.
            request = action.to_post_request_information(Body(service_principal_ids=list(principals)))
            adapter: Any = self._graph.request_adapter
            span = adapter.start_tracing_span(request, "confirm_compromised")
            try:  # signs the request, and sends it anew after a claims challenge: a 401 did nothing
                answer = await adapter.get_http_response_message(request, span)
            finally:
                span.end()
            if answer.status_code != 204:
                code, headers = error_code(answer), dict(answer.headers)
                raise from_status(SERVICE, what, answer.status_code, code=code, headers=headers, write=True)

        await translated(what, post, write=True)
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
