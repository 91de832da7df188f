"""
Microsoft Graph, v1.0 and beta: the operations that containment needs.

One table says which paths exist, in which version, and which permissions they
take; everything common to them (token, claims challenge, quota, permission,
licence, activity log, error body) happens in one place around it. What is
answered follows contracts/graph-*.subset.yaml and facts/entra.md; where those
are silent the docstring or comment says that it is a guess.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant import conditional_access, permissions
from simtenant.clock import iso
from simtenant.faults import APP_ID, CHANGED, NAMED, TEMPLATE
from simtenant.graph_base import Audited
from simtenant.graph_batch import Batches
from simtenant.graph_holdings import Holdings
from simtenant.graph_people import People
from simtenant.graph_policies import PolicyWrites, policy_in
from simtenant.graph_wire import (
    BETA,
    GUID,
    V1,
    Call,
    GraphRefusedError,
    Json,
    Operation,
    by_id,
    enum_member,
    error_response,
    guid,
    json_answer,
    not_found,
    object_in,
    path_pattern,
)
from simtenant.odata import QueryError
from simtenant.tenant import HeldCredential, LastSignIn, PrincipalKind, UnknownIdBehaviour
from simtenant.tokens import GRAPH, InvalidTokenError

if TYPE_CHECKING:
    from simtenant.risk import Detection, HistoryItem, RiskState
    from simtenant.tenant import Principal, Tenant

# "Workload ID Premium" and the free plan every tenant has: facts/entra.md §8.
_WORKLOAD_ID_PLANS: Final = (
    ("AAD_WRKLDID_P1", "84c289f0-efcb-486f-8581-07f44fc9efad"),
    ("AAD_WRKLDID_P2", "7dc0e92d-bf15-401d-907e-0884efe7c760"),
)


def routes(tenant: Tenant) -> list[web.RouteDef]:
    """Return the routes of graph.microsoft.com; ``/v1.0//`` is accepted, since the SDKs send it."""
    graph = GraphService(tenant)
    return [
        web.route("*", r"/{version:v1\.0|beta}{tail:/.*}", graph.answer),
    ]


class GraphService(Batches, Holdings, PolicyWrites):
    """Microsoft Graph of one tenant. ``operations`` is its table."""

    def __init__(self, tenant: Tenant) -> None:
        super().__init__(tenant)
        self._directory = People(tenant)
        self.operations = self._table()
        self._matchers = [
            (operation, re.compile(path_pattern(operation.template), re.IGNORECASE))
            for operation in self.operations
        ]

    def _table(self) -> tuple[Operation, ...]:
        risky = "/identityProtection/riskyServicePrincipals"
        agents = "/identityProtection/riskyAgents"
        detections = "/identityProtection/servicePrincipalRiskDetections"
        access = "/identity/conditionalAccess"
        p = permissions
        return (
            Operation("GET", risky, p.RISKY_PRINCIPAL_READ, self._list_risky, licensed=True),
            Operation(
                "POST", f"{risky}/confirmCompromised", p.RISKY_PRINCIPAL_WRITE, self._confirm, licensed=True
            ),
            Operation("POST", f"{risky}/dismiss", p.RISKY_PRINCIPAL_WRITE, self._dismiss, licensed=True),
            Operation("GET", f"{risky}/{{id}}", p.RISKY_PRINCIPAL_READ, self._get_risky, licensed=True),
            Operation("GET", f"{risky}/{{id}}/history", p.RISKY_PRINCIPAL_READ, self._history, licensed=True),
            Operation("GET", detections, p.RISK_EVENT_READ, self._list_detections, licensed=True),
            Operation("GET", f"{detections}/{{id}}", p.RISK_EVENT_READ, self._get_detection, licensed=True),
            Operation("GET", agents, p.RISKY_AGENT_READ, self._list_risky_agents, (BETA,), licensed=True),
            Operation(
                "POST",
                f"{agents}/confirmCompromised",
                p.RISKY_AGENT_WRITE,
                self._confirm_agents,
                (BETA,),
                licensed=True,
            ),
            Operation(
                "POST",
                f"{agents}/confirmSafe",
                p.RISKY_AGENT_WRITE,
                self._confirm_agents_safe,
                (BETA,),
                licensed=True,
            ),
            Operation(
                "POST",
                f"{agents}/dismiss",
                p.RISKY_AGENT_WRITE,
                self._dismiss_agents,
                (BETA,),
                licensed=True,
            ),
            Operation(
                "GET", f"{agents}/{{id}}", p.RISKY_AGENT_READ, self._get_risky_agent, (BETA,), licensed=True
            ),
            Operation("GET", f"{access}/policies", p.POLICY_READ, self._list_policies),
            Operation("GET", f"{access}/policies/{{id}}", p.POLICY_READ, self._get_policy),
            Operation("GET", f"{access}/namedLocations", p.POLICY_READ, self._list_locations),
            Operation("GET", f"{access}/namedLocations/{{id}}", p.POLICY_READ, self._get_location),
            Operation("POST", f"{access}/evaluate", p.POLICY_EVALUATE, self._evaluate),
            Operation("GET", "/servicePrincipals", p.APPLICATION_LIST, self._list_principals),
            Operation(
                "GET", "/servicePrincipals/microsoft.graph.agentIdentity", p.AGENT_READ, self._list_agents
            ),
            Operation(
                "GET", "/servicePrincipals/microsoft.graph.agentIdentity/{id}", p.AGENT_READ, self._get_agent
            ),
            Operation(
                "PATCH",
                "/servicePrincipals/microsoft.graph.agentIdentity/{id}",
                p.AGENT_WRITE,
                self._patch_agent,
            ),
            Operation(
                "PATCH",
                "/servicePrincipals/microsoft.graph.agentIdentityBlueprintPrincipal/{id}",
                p.BLUEPRINT_WRITE,
                self._patch_blueprint,
            ),
            Operation("GET", "/servicePrincipals(appId='{appId}')", p.APPLICATION_READ, self._get_principal),
            Operation(
                "PATCH", "/servicePrincipals(appId='{appId}')", p.PRINCIPAL_WRITE, self._patch_principal
            ),
            Operation("GET", "/servicePrincipals/{id}", p.APPLICATION_READ, self._get_principal),
            Operation("PATCH", "/servicePrincipals/{id}", p.PRINCIPAL_WRITE, self._patch_principal),
            Operation("GET", "/servicePrincipals/{id}/owners", p.APPLICATION_READ, self._owners),
            Operation(
                "GET", "/servicePrincipals/{id}/appRoleAssignments", p.APPLICATION_READ, self._assignments
            ),
            Operation("POST", "/servicePrincipals/{id}/appRoleAssignments", p.ROLE_GRANT, self._grant_role),
            Operation(
                "POST", "/servicePrincipals/{id}/addPassword", p.PRINCIPAL_WRITE, self._add_principal_password
            ),
            Operation("GET", "/applications", p.APPLICATION_LIST, self._list_applications),
            Operation("GET", "/applications(appId='{appId}')", p.APPLICATION_READ, self._get_application),
            Operation("GET", "/applications/{id}", p.APPLICATION_READ, self._get_application),
            Operation("POST", "/applications/{id}/addPassword", p.APPLICATION_WRITE, self._add_password),
            Operation(
                "GET",
                "/reports/servicePrincipalSignInActivities",
                p.SIGN_IN_REPORT_READ,
                self._list_sign_in_activities,
                (BETA,),
            ),
            Operation(
                "GET",
                "/reports/servicePrincipalSignInActivities/{id}",
                p.SIGN_IN_REPORT_READ,
                self._get_sign_in_activity,
                (BETA,),
            ),
            Operation("GET", "/organization", p.ORGANIZATION_READ, self._organization),
            Operation("GET", "/subscribedSkus", p.LICENCE_READ, self._skus),
            *self._batch_operations(),
            *self._holding_operations(),
            *self._policy_operations(),
            *self._registration_operations(),
            *self._directory.operations(self._page),
        )

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any Graph request, and write its row to the activity log."""
        version = request.match_info["version"]
        path = re.sub("/+", "/", request.match_info["tail"]).rstrip("/") or "/"
        request_id = self._tenant.new_id()
        try:
            call = self._authenticate(request, version, path, request_id)
        except GraphRefusedError as refused:
            return _identified(error_response(refused, request, request_id, self._now()), request, request_id)
        request[APP_ID] = call.caller.app_id
        return await self._answered(call)

    async def _answered(self, call: Call) -> web.Response:
        """Answer a call whose caller is known, and write its row to the activity log."""
        began = time.monotonic()
        try:
            response = await self._dispatch(call)
        except QueryError as error:
            refused = GraphRefusedError(400, error.code, str(error))
            response = error_response(refused, call.request, call.request_id, self._now())
        except GraphRefusedError as refused:
            response = error_response(refused, call.request, call.request_id, self._now())
        _identified(response, call.request, call.request_id)
        self._log(call, response, int((time.monotonic() - began) * 1000))
        return response

    def _authenticate(self, request: web.Request, version: str, path: str, request_id: str) -> Call:
        try:
            claims = self._tenant.tokens.validate(
                request.headers.get("Authorization"), "https://graph.microsoft.com"
            )
        except InvalidTokenError as error:
            raise GraphRefusedError(401, error.code, str(error)) from error
        caller = self._tenant.principals.get(claims.object_id)
        if caller is None:
            raise GraphRefusedError(
                401,
                "Authorization_IdentityNotFound",
                "The identity of the calling application could not be established.",
            )
        return Call(request, version, path, request_id, caller, claims)

    async def _dispatch(self, call: Call) -> web.Response:
        operation = self._find(call)
        self._challenge(call)
        if operation is None:
            segment = call.path.rsplit("/", 1)[-1]
            raise GraphRefusedError(400, "BadRequest", f"Resource not found for the segment '{segment}'.")
        if operation.template.endswith(
            ("/confirmCompromised", "/dismiss")
        ):  # a batch is cloned before it is read
            call.request[NAMED] = await _named_in_action(call)
        settings = self._tenant.settings
        if operation.shares_quota and not self._tenant.throttle.acquire(
            self._now(), settings.identity_protection_per_second
        ):
            raise GraphRefusedError(429, "TooManyRequests", "Too many requests. Please try again later.")
        if operation.roles is not None and not operation.roles & call.claims.roles:
            raise GraphRefusedError(
                403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
            )
        if operation.licensed and not settings.licensed:
            raise GraphRefusedError(403, "Forbidden", "Your tenant is not licensed for this feature.")
        return await operation.handle(call)

    def _find(self, call: Call) -> Operation | None:
        call.request[TEMPLATE] = f"/{call.version}/{{unknown}}"
        for operation, pattern in self._matchers:
            found = pattern.fullmatch(call.path)
            if found and call.version in operation.versions and operation.method == call.request.method:
                call.ids = found.groupdict()
                call.request[TEMPLATE] = f"/{call.version}{operation.template}"
                return operation
        return None

    def _challenge(self, call: Call) -> None:
        """Refuse a CAE token from before its principal's last critical event, with a claims challenge."""
        if not (
            self._tenant.settings.cae_enabled
            and call.claims.cp1
            and call.caller.is_covered_by_conditional_access
        ):
            return
        revoked_at = self._tenant.revoked_at(call.caller.object_id)
        if revoked_at is None or call.claims.issued_at >= revoked_at:
            return
        wanted = {"access_token": {"nbf": {"essential": True, "value": str(int(revoked_at.timestamp()))}}}
        claims = base64.b64encode(json.dumps(wanted).encode()).decode()
        raise GraphRefusedError(
            401,
            "InvalidAuthenticationToken",
            "Continuous access evaluation resulted in challenge with result: InteractionRequired and code:"
            " TokenIssuedBeforeRevocationTimestamp",
            {
                "WWW-Authenticate": (
                    'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize",'
                    f' error="insufficient_claims", claims="{claims}"'
                )
            },
        )

    # -- ID Protection: service principals ---------------------------------

    async def _list_risky(self, call: Call) -> web.Response:
        rows = [self._risky(state, call) for state in self._tenant.risk.all() if not self._agent(state)]
        return self._page(
            call,
            rows,
            filterable=frozenset({"id", "riskLevel", "riskState", "riskLastUpdatedDateTime"}),
            max_top=500,
        )

    async def _get_risky(self, call: Call) -> web.Response:
        return self._one(call, self._risky(self._risk_state(call, agents=False), call))

    async def _history(self, call: Call) -> web.Response:
        state = self._risk_state(call, agents=False)
        rows = [self._history_item(item, call) for item in self._tenant.risk.history(state.object_id)]
        return self._page(call, rows, filterable=frozenset(), max_top=500)

    async def _confirm(self, call: Call) -> web.Response:
        ids = await self._ids_in_body(call, "servicePrincipalIds", agents=False)
        self._tenant.risk.confirm(ids, initiated_by=call.caller.object_id)
        call.request[CHANGED] = tuple(ids)
        return web.Response(status=204)

    async def _dismiss(self, call: Call) -> web.Response:
        ids = await self._ids_in_body(call, "servicePrincipalIds", agents=False)
        self._tenant.risk.dismiss(ids, initiated_by=call.caller.object_id)
        call.request[CHANGED] = tuple(ids)
        return web.Response(status=204)

    async def _list_detections(self, call: Call) -> web.Response:
        rows = [self._detection(one, call) for one in self._tenant.risk.detections() if not self._agent(one)]
        return self._page(
            call,
            rows,
            filterable=frozenset({"id", "servicePrincipalId", "requestId", "riskEventType", "riskLevel"}),
            max_top=500,
        )

    async def _get_detection(self, call: Call) -> web.Response:
        for one in self._tenant.risk.detections():
            if one.id == call.ids["id"] and not self._agent(one):
                return self._one(call, self._detection(one, call))
        raise not_found(call.ids["id"])

    # -- ID Protection: agents (beta only) ----------------------------------

    async def _list_risky_agents(self, call: Call) -> web.Response:
        rows = [self._risky_agent(state, call) for state in self._tenant.risk.all() if self._agent(state)]
        return self._page(
            call,
            rows,
            filterable=frozenset({"id", "agentDisplayName", "riskLevel", "riskState"}),
            max_top=500,
        )

    async def _get_risky_agent(self, call: Call) -> web.Response:
        return self._one(call, self._risky_agent(self._risk_state(call, agents=True), call))

    async def _confirm_agents(self, call: Call) -> web.Response:
        ids = await self._ids_in_body(call, "agentIds", agents=True)
        self._tenant.risk.confirm(ids, initiated_by=call.caller.object_id)
        call.request[CHANGED] = tuple(ids)
        return web.Response(status=204)

    async def _confirm_agents_safe(self, call: Call) -> web.Response:
        ids = await self._ids_in_body(call, "agentIds", agents=True)
        self._tenant.risk.confirm_safe(ids, initiated_by=call.caller.object_id)
        call.request[CHANGED] = tuple(ids)
        return web.Response(status=204)

    async def _dismiss_agents(self, call: Call) -> web.Response:
        ids = await self._ids_in_body(call, "agentIds", agents=True)
        self._tenant.risk.dismiss(ids, initiated_by=call.caller.object_id)
        call.request[CHANGED] = tuple(ids)
        return web.Response(status=204)

    async def _ids_in_body(self, call: Call, name: str, *, agents: bool) -> list[str]:
        ids = (await call.body()).get(name)
        if not isinstance(ids, list) or not ids:
            raise GraphRefusedError(400, "BadRequest", f"'{name}' must be a non-empty list of ids.")
        if len(ids) > self._tenant.settings.max_ids_per_call:
            raise GraphRefusedError(
                400, "BadRequest", f"At most {self._tenant.settings.max_ids_per_call} ids are allowed."
            )
        malformed = [one for one in ids if not isinstance(one, str) or not GUID.fullmatch(one)]
        if malformed:
            raise GraphRefusedError(400, "BadRequest", f"Invalid object identifier '{malformed[0]}'.")
        lowered = [one.lower() for one in ids]
        # An agent identity is unknown at the service principals' door and the
        # other way round; whether the real door tells them apart is not documented.
        known = [one for one in lowered if self._stands_behind_door(one, agents=agents)]
        if len(known) < len(lowered):
            if self._tenant.settings.unknown_id_behaviour is UnknownIdBehaviour.REJECT_BATCH:
                raise not_found(next(one for one in lowered if one not in known))
            return known
        return lowered

    def _stands_behind_door(self, object_id: str, *, agents: bool) -> bool:
        principal = self._tenant.principals.get(object_id)
        return principal is not None and (principal.agent_identity_type is not None) is agents

    def _agent(self, about: RiskState | Detection) -> bool:
        return self._tenant.principals[about.object_id].agent_identity_type is not None

    def _risk_state(self, call: Call, *, agents: bool) -> RiskState:
        object_id = guid(call.ids["id"])
        state = self._tenant.risk.get(object_id)
        if state is None or self._agent(state) is not agents:
            raise not_found(object_id)
        return state

    def _risky(self, state: RiskState, call: Call) -> Json:
        principal = self._tenant.principals[state.object_id]
        row: Json = {
            "id": state.object_id,
            "appId": principal.app_id,
            "displayName": principal.display_name,
            "isEnabled": principal.account_enabled,
            "isProcessing": state.is_processing,
            "servicePrincipalType": principal.service_principal_type,
            "riskLastUpdatedDateTime": iso(state.updated_at or self._now()),
            "riskLevel": state.level.value,
            "riskState": state.state,
            "riskDetail": enum_member(state.detail, call),
        }
        if call.version == BETA:
            row["accountEnabled"] = principal.account_enabled
        return row

    def _risky_agent(self, state: RiskState, call: Call) -> Json:
        principal = self._tenant.principals[state.object_id]
        kind = principal.agent_identity_type or ""
        return {
            "@odata.type": f"#microsoft.graph.risky{kind[:1].upper()}{kind[1:]}",
            "id": state.object_id,
            "agentDisplayName": principal.display_name,
            "blueprintId": principal.agent_identity_blueprint_id,
            "identityType": kind,
            "isDeleted": False,
            "isEnabled": principal.account_enabled,
            "isProcessing": state.is_processing,
            "riskLastModifiedDateTime": iso(state.updated_at or self._now()),
            "riskLevel": state.level.value,
            "riskState": state.state,
            "riskDetail": enum_member(state.detail, call),
        }

    def _history_item(self, item: HistoryItem, call: Call) -> Json:
        row = self._risky(item.state, call)
        detail = enum_member(item.state.detail, call)
        row |= {
            "id": item.id,
            "initiatedBy": item.initiated_by,
            "activity": {"detail": detail, "riskEventTypes": list(item.event_types)},
        }
        if call.version == BETA:
            row["servicePrincipalId"] = item.state.object_id
        return row

    def _detection(self, detection: Detection, call: Call) -> Json:
        principal = self._tenant.principals[detection.object_id]
        country = detection.country
        return {
            "id": detection.id,
            "requestId": detection.request_id,
            "correlationId": detection.correlation_id,
            "riskEventType": detection.event_type,
            "riskState": detection.state,
            "riskLevel": detection.level.value,
            "riskDetail": enum_member(detection.detail, call),
            "source": "IdentityProtection",
            "detectionTimingType": "offline",
            "activity": "servicePrincipal",
            "tokenIssuerType": "AzureAD",
            "ipAddress": detection.ip_address,
            "location": None
            if country is None
            else {"city": None, "state": None, "countryOrRegion": country, "geoCoordinates": None},
            "activityDateTime": iso(detection.detected_at),
            "detectedDateTime": iso(detection.detected_at),
            "lastUpdatedDateTime": iso(detection.updated_at),
            "servicePrincipalId": principal.object_id,
            "servicePrincipalDisplayName": principal.display_name,
            "appId": principal.app_id,
            "keyIds": [principal.credential_key_id] if principal.credential_key_id else [],
            "additionalInfo": "[]",
        }

    # -- Conditional Access ---------------------------------------------------

    async def _list_policies(self, call: Call) -> web.Response:
        rows = [policy_in(policy, call.version) for policy in self._tenant.policies]
        return self._page(call, rows, filterable=frozenset({"id", "displayName", "state"}), max_top=999)

    async def _get_policy(self, call: Call) -> web.Response:
        return self._one(call, policy_in(by_id(self._tenant.policies, call.ids["id"]), call.version))

    async def _list_locations(self, call: Call) -> web.Response:
        rows = list(self._tenant.named_locations)
        return self._page(call, rows, filterable=frozenset({"id", "displayName"}), max_top=999)

    async def _get_location(self, call: Call) -> web.Response:
        return self._one(call, by_id(self._tenant.named_locations, call.ids["id"]))

    async def _evaluate(self, call: Call) -> web.Response:
        """What If. Risk is what the body says, never what the principal has (facts/entra.md §3)."""
        body = await call.body()
        identity, context = object_in(body, "signInIdentity"), object_in(body, "signInContext")
        conditions = object_in(body, "signInConditions") if body.get("signInConditions") is not None else {}
        kind = identity.get("@odata.type")
        if kind == "#microsoft.graph.servicePrincipalSignIn":
            object_id, risk = identity.get("servicePrincipalId"), conditions.get("servicePrincipalRiskLevel")
        elif kind == "#microsoft.graph.agentSignIn" and call.version == BETA:
            object_id, risk = identity.get("agentServicePrincipalId"), conditions.get("agentIdRiskLevel")
        else:
            raise GraphRefusedError(400, "BadRequest", f"signInIdentity of type {kind!r} is not supported.")
        principal = self._tenant.principals.get(guid(object_id))
        if principal is None:
            raise not_found(str(object_id))
        applications = context.get("includeApplications")
        if not isinstance(applications, list) or not applications:
            raise GraphRefusedError(400, "BadRequest", "signInContext names no application.")
        evaluation = conditional_access.evaluate(
            self._tenant.policies,
            self._tenant.named_locations,
            conditional_access.sign_in_of(
                principal, str(applications[0]), conditions.get("ipAddress"), conditions.get("country"), risk
            ),
        )
        results = [_what_if(applied, call.version) for applied in evaluation.applied]
        if body.get("appliedPoliciesOnly") is True:
            results = [result for result in results if result["policyApplies"]]
        context_url = f"https://graph.microsoft.com/{call.version}/$metadata#Collection(microsoft.graph.whatIfAnalysisResult)"
        return json_answer({"@odata.context": context_url, "value": results})

    # -- directory ------------------------------------------------------------

    async def _list_principals(self, call: Call) -> web.Response:
        rows = [self._principal(principal) for principal in self._tenant.principals.values()]
        return self._page(call, rows, filterable=_PRINCIPAL_FILTERS, max_top=999, directory=True)

    async def _list_agents(self, call: Call) -> web.Response:
        rows = [
            self._principal(principal)
            for principal in self._tenant.principals.values()
            if principal.kind is PrincipalKind.AGENT_IDENTITY
        ]
        # Page size is 100 by default and at most: facts/entra.md §2.
        return self._page(call, rows, filterable=_PRINCIPAL_FILTERS, max_top=100, directory=True)

    async def _get_principal(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        row = self._with_keys(self._principal(principal), call)
        if "customSecurityAttributes" in call.request.query.get("$select", ""):
            # Given only where it is selected; null to who may not read it, the same as where there is none
            # (serviceprincipal-get.md; custom-security-attributes-examples.md).
            readable = permissions.MARK_READ & call.claims.roles
            row["customSecurityAttributes"] = (principal.security_attributes or None) if readable else None
        return self._one(call, row)

    async def _get_agent(self, call: Call) -> web.Response:
        return self._one(call, self._principal(self._agent_named(call)))

    async def _patch_principal(self, call: Call) -> web.Response:
        return await self._patch(call, self._principal_named(call))

    async def _patch_blueprint(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        if principal.kind is not PrincipalKind.AGENT_BLUEPRINT:
            raise not_found(principal.object_id)
        return await self._patch(call, principal)

    async def _patch_agent(self, call: Call) -> web.Response:
        return await self._patch(call, self._agent_named(call))

    async def _patch(self, call: Call, principal: Principal) -> web.Response:
        body = await call.body()
        if set(body) == {"keyCredentials"}:
            return await self._patch_keys(call)
        if set(body) == {"appRoleAssignmentRequired"}:
            return await self._patch_assignment_required(call, principal)
        self._check_ownership(call, principal)
        unknown = sorted(set(body) - {"accountEnabled"})
        enabled = body.get("accountEnabled")
        if unknown or not isinstance(enabled, bool):
            # Louder than Graph, which would write other properties: nothing else is simulated.
            raise GraphRefusedError(
                400, "Request_BadRequest", f"Only a boolean accountEnabled is simulated, not {sorted(body)}."
            )
        before = principal.account_enabled
        self._tenant.set_enabled(principal.object_id, enabled=enabled)
        self._audit(
            call,
            "Update service principal",
            "Update",
            Audited(
                principal.object_id,
                principal.display_name,
                "ServicePrincipal",
                (("AccountEnabled", [before], [enabled]),),
            ),
        )
        return web.Response(status=204)

    async def _owners(self, call: Call) -> web.Response:
        rows = [self._person(owner) for owner in self._principal_named(call).owners]
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    def _person(self, object_id: str) -> Json:
        principal = self._tenant.principals.get(object_id)
        if principal is None:
            return {"@odata.type": "#microsoft.graph.user", **self._directory.user(object_id)}
        return {"@odata.type": "#microsoft.graph.servicePrincipal", **self._principal(principal)}

    async def _assignments(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        rows = [self._assignment(principal, role) for role in sorted(principal.app_roles)]
        rows += [one for one in self._tenant.api_assignments if one["principalId"] == principal.object_id]
        return self._page(call, rows, filterable=frozenset({"id", "resourceId"}), max_top=999, directory=True)

    async def _grant_role(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        body = await call.body()
        graph = self._tenant.principal_by_app_id(GRAPH.app_id)
        if graph is None or body.get("resourceId") != graph.object_id:
            raise GraphRefusedError(400, "Request_BadRequest", "Only roles of Microsoft Graph are simulated.")
        if body.get("principalId") != principal.object_id:
            raise GraphRefusedError(
                400, "Request_BadRequest", "principalId is not the principal in the path."
            )
        roles = {role["id"]: role["value"] for role in self._app_roles()}
        value = roles.get(str(body.get("appRoleId")))
        if value is None:
            raise GraphRefusedError(400, "Request_BadRequest", "Not a valid appRoleId of the resource.")
        if value in principal.app_roles:
            raise GraphRefusedError(
                400, "Request_BadRequest", "Permission being assigned already exists on the object."
            )
        principal.app_roles.add(value)
        self._audit(
            call,
            "Add app role assignment to service principal",
            "Assign",
            Audited(
                graph.object_id,
                graph.display_name,
                "ServicePrincipal",
                (
                    ("AppRole.Id", "", str(body["appRoleId"])),
                    ("AppRole.Value", "", value),
                    ("ServicePrincipal.ObjectID", "", principal.object_id),
                    ("ServicePrincipal.DisplayName", "", principal.display_name),
                    ("ServicePrincipal.AppId", "", principal.app_id),
                ),
            ),
        )
        return json_answer(self._assignment(principal, value), status=201)

    async def _list_applications(self, call: Call) -> web.Response:
        rows = [self._application(application) for application in self._tenant.applications.values()]
        return self._page(
            call,
            rows,
            filterable=frozenset({"id", "appId", "displayName", "signInAudience"}),
            max_top=999,
            directory=True,
        )

    async def _get_application(self, call: Call) -> web.Response:
        return self._one(call, self._with_keys(self._application(self._application_named(call)), call))

    async def _add_password(self, call: Call) -> web.Response:
        application = self._application_named(call)
        principal = self._tenant.principal_by_app_id(application.app_id)
        if principal is None:
            raise not_found(application.object_id)
        # EN DASH and trailing blank are in the real name: facts/log-tables.md §0.10.
        operation = "Update application \N{EN DASH} Certificates and secrets management "
        target = application.object_id, application.display_name, "Application"
        return await self._new_password(call, principal, operation, target)

    async def _add_principal_password(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        if principal.kind is PrincipalKind.AGENT_IDENTITY:
            # facts/log-tables.md §4: only the blueprint holds credentials.
            raise GraphRefusedError(
                400, "AgentIdentity_CredentialsNotSupported", "Agent identities hold no credentials."
            )
        target = principal.object_id, principal.display_name, "ServicePrincipal"
        return await self._new_password(call, principal, "Add service principal credentials", target)

    async def _new_password(
        self, call: Call, principal: Principal, operation: str, target: tuple[str, str, str]
    ) -> web.Response:
        """
        Add a secret to what the directory lists: show it once, as Graph does, and write the audit row.

        It does not become a second way to sign in: a principal here has one secret.
        """
        self._check_ownership(call, principal)
        credential = (await call.body()).get("passwordCredential") or {}
        if not isinstance(credential, dict):
            raise GraphRefusedError(400, "Request_BadRequest", "passwordCredential is no object.")
        now = self._now()
        key_id = self._tenant.new_id()
        name = str(credential.get("displayName") or "")
        ends = now + timedelta(days=365)
        principal.credentials.append(
            HeldCredential(key_id, now, ends, display_name=name, on_application=target[2] == "Application")
        )
        described = f"[KeyIdentifier={key_id},KeyType=Password,KeyUsage=Verify,DisplayName={name}]"
        self._audit(
            call,
            operation,
            "Update",
            Audited(*target, modified=(("KeyDescription", [], [described]),), app_id=principal.app_id),
        )
        context = f"https://graph.microsoft.com/{call.version}/$metadata#microsoft.graph.passwordCredential"
        return json_answer(
            {
                "@odata.context": context,
                "customKeyIdentifier": None,
                "displayName": name or None,
                "endDateTime": iso(ends),
                "hint": "sim",
                "keyId": key_id,
                "secretText": f"sim-{uuid.UUID(key_id).hex}",
                "startDateTime": iso(now),
            }
        )

    async def _list_sign_in_activities(self, call: Call) -> web.Response:
        return self._page(
            call, self._sign_in_activities(), filterable=frozenset({"id", "appId"}), max_top=999
        )

    async def _get_sign_in_activity(self, call: Call) -> web.Response:
        return self._one(call, by_id(self._sign_in_activities(), call.ids["id"]))

    def _sign_in_activities(self) -> list[Json]:
        """
        List when each application last signed in: those that ever did, by appId; also Microsoft's, as resources.

        The past is what the history noted, the present what the token endpoint has answered since. Managed identities
        get their tokens elsewhere, so of them only the past is known. The real report lags; by how much nobody says.

        Raises: GraphRefusedError (403) where the tenant has no such report.
        """
        tenant = self._tenant
        if not tenant.settings.sign_in_activity_reported:
            # The code of /auditLogs/signIns in such a tenant (facts/entra.md §1); that the report has it too is a guess.
            raise GraphRefusedError(
                403,
                "Authentication_RequestFromNonPremiumTenantOrB2CTenant",
                "Neither tenant is B2C or tenant doesn't have premium license",
            )
        as_client, as_resource = dict(tenant.client_sign_ins), dict(tenant.resource_sign_ins)
        for seen in tenant.requests:
            if seen.status == 200 and seen.app_id is not None and seen.path.endswith("/oauth2/v2.0/token"):
                as_client[seen.app_id] = LastSignIn(seen.at, None)
        rows = []
        for app_id in sorted({*as_client, *as_resource}):
            client, resource = as_client.get(app_id), as_resource.get(app_id)
            latest = max((one for one in (client, resource) if one is not None), key=lambda one: one.at)
            rows.append(
                {
                    # Opaque here; what the real ids look like is not documented.
                    "id": base64.urlsafe_b64encode(app_id.encode()).decode().rstrip("="),
                    "appId": app_id,
                    "lastSignInActivity": _activity(latest),
                    "delegatedClientSignInActivity": None,
                    "delegatedResourceSignInActivity": None,
                    "applicationAuthenticationClientSignInActivity": _activity(client),
                    "applicationAuthenticationResourceSignInActivity": _activity(resource),
                }
            )
        return rows

    async def _organization(self, call: Call) -> web.Response:
        settings = self._tenant.settings
        row: Json = {
            "id": settings.tenant_id,
            "displayName": settings.tenant_name.partition(".")[0].title(),
            "tenantType": "AAD",
            "verifiedDomains": [
                {
                    "capabilities": "Email, OfficeCommunicationsOnline",
                    "isDefault": True,
                    "isInitial": True,
                    "name": settings.tenant_name,
                    "type": "Managed",
                }
            ],
        }
        return self._page(call, [row], filterable=frozenset({"id"}), max_top=999)

    async def _skus(self, call: Call) -> web.Response:
        plans = _WORKLOAD_ID_PLANS if self._tenant.settings.licensed else ()
        name = "Workload_Identities_P2" if self._tenant.settings.licensed else "AAD_BASIC"
        row: Json = {
            "id": f"{self._tenant.settings.tenant_id}_{uuid.uuid5(uuid.NAMESPACE_OID, name)}",
            "accountId": self._tenant.settings.tenant_id,
            "accountName": self._tenant.settings.tenant_name.partition(".")[0],
            "appliesTo": "Company",
            "capabilityStatus": "Enabled",
            "consumedUnits": len(self._tenant.applications),
            "prepaidUnits": {"enabled": 1000, "suspended": 0, "warning": 0, "lockedOut": 0},
            "skuId": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
            "skuPartNumber": name,
            "subscriptionIds": [],
            "servicePlans": [
                {
                    "servicePlanId": plan_id,
                    "servicePlanName": plan,
                    "provisioningStatus": "Success",
                    "appliesTo": "Company",
                }
                for plan, plan_id in plans
            ],
        }
        return self._page(call, [row], filterable=frozenset(), max_top=999)


_PRINCIPAL_FILTERS: Final = frozenset(
    {
        "id",
        "appId",
        "displayName",
        "servicePrincipalType",
        "accountEnabled",
        "appOwnerOrganizationId",
        "signInAudience",
        "agentIdentityBlueprintId",
    }
)


def _identified(response: web.Response, request: web.Request, request_id: str) -> web.Response:
    response.headers["request-id"] = request_id
    if client_request_id := request.headers.get("client-request-id"):
        response.headers["client-request-id"] = client_request_id
    return response


def _what_if(applied: conditional_access.Applied, version: str) -> Json:
    reasons = [reason.value for reason in applied.reasons]
    if version == V1:
        # The two agent reasons are members of the beta enum only.
        reasons = ["workloadIdentities" if one.startswith("agent") else one for one in reasons]
    return {
        **policy_in(applied.policy, version),
        # Report-only policies show as applying: facts/entra.md §3.
        "policyApplies": not reasons,
        "analysisReasons": ", ".join(dict.fromkeys(reasons)) or "notSet",
    }


def _activity(last: LastSignIn | None) -> Json | None:
    """Show a last sign-in as ``signInActivity``; the other members are those of people."""
    if last is None:
        return None
    return {
        "lastSignInDateTime": iso(last.at),
        "lastSignInRequestId": last.request_id,
        "lastNonInteractiveSignInDateTime": None,
        "lastNonInteractiveSignInRequestId": None,
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


async def _named_in_action(call: Call) -> tuple[str, ...]:
    """Give the ids in the body of an action on risk, read before the quota refuses it; for the log of requests."""
    if call.request.method != "POST":
        return ()
    try:
        body = await call.body()
    except GraphRefusedError:  # the operation itself will say so
        return ()
    ids = [one for name in ("servicePrincipalIds", "agentIds") for one in _listed(body.get(name))]
    return tuple(one.lower() for one in ids if isinstance(one, str))
