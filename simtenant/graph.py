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
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant import conditional_access, permissions
from simtenant.clock import iso
from simtenant.entra import client_ip, client_user_agent
from simtenant.faults import APP_ID, CHANGED, NAMED, TEMPLATE
from simtenant.odata import Query, QueryError, narrow
from simtenant.tenant import HeldCredential, LastSignIn, PrincipalKind, UnknownIdBehaviour
from simtenant.tokens import GRAPH, Claims, InvalidTokenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from simtenant.permissions import Roles
    from simtenant.risk import Detection, HistoryItem, RiskState
    from simtenant.tenant import Application, Principal, Tenant

Json = dict[str, Any]

_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTENT_TYPE: Final = (
    "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
)
_IDS_OF_ACTIONS: Final = ("servicePrincipalIds", "agentIds")
_ENUM_PREFERENCE: Final = "include-unknown-enum-members"
# Members behind unknownFutureValue in riskDetail: a caller that does not send the
# Prefer header reads unknownFutureValue instead (facts/entra.md §1 and §2).
_EVOLVED_RISK_DETAILS: Final = frozenset(
    {
        "adminConfirmedServicePrincipalCompromised",
        "adminDismissedAllRiskForServicePrincipal",
        "adminConfirmedAgentCompromised",
        "adminConfirmedAgentSafe",
        "adminDismissedRiskForAgent",
    }
)
_AGENT_CONDITIONS: Final = frozenset({"agentIdRiskLevels"})
_AGENT_CLIENTS: Final = frozenset(
    {"includeAgentIdServicePrincipals", "excludeAgentIdServicePrincipals", "agentIdServicePrincipalFilter"}
)
_V1: Final = "v1.0"
_BETA: Final = "beta"
_BOTH: Final = (_V1, _BETA)
# "Workload ID Premium" and the free plan every tenant has: facts/entra.md §8.
_WORKLOAD_ID_PLANS: Final = (
    ("AAD_WRKLDID_P1", "84c289f0-efcb-486f-8581-07f44fc9efad"),
    ("AAD_WRKLDID_P2", "7dc0e92d-bf15-401d-907e-0884efe7c760"),
)


class GraphRefusedError(Exception):
    """The answer to a request is an error; carries the status, Graph's code and extra headers."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass
class Call:
    """One authenticated request: who asks, what for, and the ids in its path."""

    request: web.Request
    version: str
    path: str
    request_id: str
    caller: Principal
    claims: Claims
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def knows_all_enum_members(self) -> bool:
        """Whether the caller asked for enum members newer than its client."""
        return _ENUM_PREFERENCE in ",".join(self.request.headers.getall("Prefer", [])).lower()

    @property
    def wants_eventual_consistency(self) -> bool:
        """Whether the caller allows the directory's advanced queries."""
        return self.request.headers.get("ConsistencyLevel", "").lower() == "eventual"

    async def body(self) -> Json:
        """Read the JSON object in the body. Raises GraphRefusedError (400) for anything else."""
        try:
            read = json.loads(await self.request.read())
        except ValueError as error:
            raise GraphRefusedError(400, "BadRequest", "Unable to read JSON request payload.") from error
        if not isinstance(read, dict):
            raise GraphRefusedError(400, "BadRequest", "Empty Payload. JSON content expected.")
        return read


Handle = Callable[[Call], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and verb: its permissions and its code."""

    method: str
    template: str
    roles: Roles
    handle: Handle
    versions: tuple[str, ...] = _BOTH
    licensed: bool = False

    @property
    def shares_quota(self) -> bool:
        """Whether it counts against the tenant's one request a second."""
        return self.template.startswith(("/identityProtection/", "/identity/conditionalAccess/"))


def routes(tenant: Tenant) -> list[web.RouteDef]:
    """Return the routes of graph.microsoft.com; ``/v1.0//`` is accepted, since the SDKs send it."""
    graph = GraphService(tenant)
    return [
        web.route("*", r"/{version:v1\.0|beta}{tail:/.*}", graph.answer),
    ]


@dataclass(frozen=True, slots=True)
class _Audited:
    """What a change was made to, for the audit log; ``modified`` holds name, old value, new value."""

    id: str
    display_name: str
    type: str
    modified: tuple[tuple[str, object, object], ...]
    app_id: str = ""


class GraphService:
    """Microsoft Graph of one tenant. ``operations`` is its table."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._directory = _Directory(tenant)
        self.operations = self._table()
        self._matchers = [
            (operation, re.compile(_pattern(operation.template), re.IGNORECASE))
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
            Operation("GET", agents, p.RISKY_AGENT_READ, self._list_risky_agents, (_BETA,), licensed=True),
            Operation(
                "POST",
                f"{agents}/confirmCompromised",
                p.RISKY_AGENT_WRITE,
                self._confirm_agents,
                (_BETA,),
                licensed=True,
            ),
            Operation(
                "POST",
                f"{agents}/confirmSafe",
                p.RISKY_AGENT_WRITE,
                self._confirm_agents_safe,
                (_BETA,),
                licensed=True,
            ),
            Operation(
                "POST",
                f"{agents}/dismiss",
                p.RISKY_AGENT_WRITE,
                self._dismiss_agents,
                (_BETA,),
                licensed=True,
            ),
            Operation(
                "GET", f"{agents}/{{id}}", p.RISKY_AGENT_READ, self._get_risky_agent, (_BETA,), licensed=True
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
                (_BETA,),
            ),
            Operation(
                "GET",
                "/reports/servicePrincipalSignInActivities/{id}",
                p.SIGN_IN_REPORT_READ,
                self._get_sign_in_activity,
                (_BETA,),
            ),
            Operation("GET", "/organization", p.ORGANIZATION_READ, self._organization),
            Operation("GET", "/subscribedSkus", p.LICENCE_READ, self._skus),
            *self._directory.operations(self._page),
        )

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any Graph request, and write its row to the activity log."""
        began = time.monotonic()
        version = request.match_info["version"]
        path = re.sub("/+", "/", request.match_info["tail"]).rstrip("/") or "/"
        request_id = self._tenant.new_id()
        call: Call | None = None
        try:
            call = self._authenticate(request, version, path, request_id)
            request[APP_ID] = call.caller.app_id
            response = await self._dispatch(call)
        except QueryError as error:
            response = _error_response(
                GraphRefusedError(400, error.code, str(error)), request, request_id, self._now()
            )
        except GraphRefusedError as refused:
            response = _error_response(refused, request, request_id, self._now())
        response.headers["request-id"] = request_id
        if client_request_id := request.headers.get("client-request-id"):
            response.headers["client-request-id"] = client_request_id
        if call is not None:
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
        call.request[NAMED] = await _named_in_action(call)
        settings = self._tenant.settings
        if operation.shares_quota and not self._tenant.throttle.acquire(
            self._now(), settings.identity_protection_per_second
        ):
            raise GraphRefusedError(429, "TooManyRequests", "Too many requests. Please try again later.")
        if not operation.roles & call.claims.roles:
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
        raise _not_found(call.ids["id"])

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
        malformed = [one for one in ids if not isinstance(one, str) or not _GUID.fullmatch(one)]
        if malformed:
            raise GraphRefusedError(400, "BadRequest", f"Invalid object identifier '{malformed[0]}'.")
        lowered = [one.lower() for one in ids]
        # An agent identity is unknown at the service principals' door and the
        # other way round; whether the real door tells them apart is not documented.
        known = [one for one in lowered if self._stands_behind_door(one, agents=agents)]
        if len(known) < len(lowered):
            if self._tenant.settings.unknown_id_behaviour is UnknownIdBehaviour.REJECT_BATCH:
                raise _not_found(next(one for one in lowered if one not in known))
            return known
        return lowered

    def _stands_behind_door(self, object_id: str, *, agents: bool) -> bool:
        principal = self._tenant.principals.get(object_id)
        return principal is not None and (principal.agent_identity_type is not None) is agents

    def _agent(self, about: RiskState | Detection) -> bool:
        return self._tenant.principals[about.object_id].agent_identity_type is not None

    def _risk_state(self, call: Call, *, agents: bool) -> RiskState:
        object_id = _guid(call.ids["id"])
        state = self._tenant.risk.get(object_id)
        if state is None or self._agent(state) is not agents:
            raise _not_found(object_id)
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
            "riskDetail": _enum_member(state.detail, call),
        }
        if call.version == _BETA:
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
            "riskDetail": _enum_member(state.detail, call),
        }

    def _history_item(self, item: HistoryItem, call: Call) -> Json:
        row = self._risky(item.state, call)
        detail = _enum_member(item.state.detail, call)
        row |= {
            "id": item.id,
            "initiatedBy": item.initiated_by,
            "activity": {"detail": detail, "riskEventTypes": list(item.event_types)},
        }
        if call.version == _BETA:
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
            "riskDetail": _enum_member(detection.detail, call),
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
        rows = [_policy_in(policy, call.version) for policy in self._tenant.policies]
        return self._page(call, rows, filterable=frozenset({"id", "displayName", "state"}), max_top=999)

    async def _get_policy(self, call: Call) -> web.Response:
        return self._one(call, _policy_in(_by_id(self._tenant.policies, call.ids["id"]), call.version))

    async def _list_locations(self, call: Call) -> web.Response:
        rows = list(self._tenant.named_locations)
        return self._page(call, rows, filterable=frozenset({"id", "displayName"}), max_top=999)

    async def _get_location(self, call: Call) -> web.Response:
        return self._one(call, _by_id(self._tenant.named_locations, call.ids["id"]))

    async def _evaluate(self, call: Call) -> web.Response:
        """What If. Risk is what the body says, never what the principal has (facts/entra.md §3)."""
        body = await call.body()
        identity, context = _object(body, "signInIdentity"), _object(body, "signInContext")
        conditions = _object(body, "signInConditions") if body.get("signInConditions") is not None else {}
        kind = identity.get("@odata.type")
        if kind == "#microsoft.graph.servicePrincipalSignIn":
            object_id, risk = identity.get("servicePrincipalId"), conditions.get("servicePrincipalRiskLevel")
        elif kind == "#microsoft.graph.agentSignIn" and call.version == _BETA:
            object_id, risk = identity.get("agentServicePrincipalId"), conditions.get("agentIdRiskLevel")
        else:
            raise GraphRefusedError(400, "BadRequest", f"signInIdentity of type {kind!r} is not supported.")
        principal = self._tenant.principals.get(_guid(object_id))
        if principal is None:
            raise _not_found(str(object_id))
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
        return _json({"@odata.context": context_url, "value": results})

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
        return self._one(call, self._principal(self._principal_named(call)))

    async def _get_agent(self, call: Call) -> web.Response:
        return self._one(call, self._principal(self._agent_named(call)))

    async def _patch_principal(self, call: Call) -> web.Response:
        return await self._patch(call, self._principal_named(call))

    async def _patch_agent(self, call: Call) -> web.Response:
        return await self._patch(call, self._agent_named(call))

    async def _patch(self, call: Call, principal: Principal) -> web.Response:
        body = await call.body()
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
            _Audited(
                principal.object_id,
                principal.display_name,
                "ServicePrincipal",
                (("AccountEnabled", [before], [enabled]),),
            ),
        )
        return web.Response(status=204)

    async def _owners(self, call: Call) -> web.Response:
        rows: list[Json] = []
        for owner in self._principal_named(call).owners:
            principal = self._tenant.principals.get(owner)
            if principal is None:
                rows.append({"@odata.type": "#microsoft.graph.user", **self._directory.user(owner)})
            else:
                rows.append(
                    {"@odata.type": "#microsoft.graph.servicePrincipal", **self._principal(principal)}
                )
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    async def _assignments(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        rows = [self._assignment(principal, role) for role in sorted(principal.app_roles)]
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
            _Audited(
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
        return _json(self._assignment(principal, value), status=201)

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
        return self._one(call, self._application(self._application_named(call)))

    async def _add_password(self, call: Call) -> web.Response:
        application = self._application_named(call)
        principal = self._tenant.principal_by_app_id(application.app_id)
        if principal is None:
            raise _not_found(application.object_id)
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
            _Audited(*target, modified=(("KeyDescription", [], [described]),), app_id=principal.app_id),
        )
        context = f"https://graph.microsoft.com/{call.version}/$metadata#microsoft.graph.passwordCredential"
        return _json(
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
        return self._one(call, _by_id(self._sign_in_activities(), call.ids["id"]))

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

    def _principal_named(self, call: Call) -> Principal:
        app_id = call.ids.get("appId")
        named = app_id if app_id is not None else call.ids["id"]
        principal = (
            self._tenant.principals.get(_guid(named))
            if app_id is None
            else self._tenant.principal_by_app_id(app_id)
        )
        if principal is None:
            raise _not_found(named)
        return principal

    def _agent_named(self, call: Call) -> Principal:
        principal = self._principal_named(call)
        if principal.kind is not PrincipalKind.AGENT_IDENTITY:
            raise _not_found(principal.object_id)
        return principal

    def _application_named(self, call: Call) -> Application:
        app_id = call.ids.get("appId")
        if app_id is None:
            object_id = _guid(call.ids["id"])
            application = self._tenant.applications.get(object_id)
        else:
            object_id = app_id
            application = next(
                (one for one in self._tenant.applications.values() if one.app_id == app_id.lower()), None
            )
        if application is None:
            raise _not_found(object_id)
        return application

    def _check_ownership(self, call: Call, principal: Principal) -> None:
        wide = {
            "Application.ReadWrite.All",
            "Directory.ReadWrite.All",
            "AgentIdentity.EnableDisable.All",
            "AgentIdentity.ReadWrite.All",
        }
        if wide & call.claims.roles or call.caller.object_id in principal.owners:
            return
        raise GraphRefusedError(
            403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
        )

    def _app_roles(self) -> list[Json]:
        held = {role for principal in self._tenant.principals.values() for role in principal.app_roles}
        offered = held.union(*(operation.roles for operation in self.operations))
        return [
            {
                "id": permissions.app_role_id(value),
                "value": value,
                "displayName": value,
                "description": value,
                "isEnabled": True,
                "origin": "Application",
                "allowedMemberTypes": ["Application"],
            }
            for value in sorted(offered)
        ]

    def _principal(self, principal: Principal) -> Json:
        # Those of the app registration are listed there, not here.
        own = [held for held in principal.credentials if not held.on_application]
        row: Json = {
            "id": principal.object_id,
            "deletedDateTime": None,
            "accountEnabled": principal.account_enabled,
            "alternativeNames": [],
            "appDisplayName": principal.display_name,
            "appId": principal.app_id,
            "appOwnerOrganizationId": principal.app_owner_organization_id,
            "appRoleAssignmentRequired": False,
            "appRoles": self._app_roles() if principal.app_id == GRAPH.app_id else [],
            # Not declared in Graph's schema, but sent by the service.
            "createdDateTime": iso(principal.created_at),
            "disabledByMicrosoftStatus": None,
            "displayName": principal.display_name,
            "keyCredentials": _keys(own),
            "oauth2PermissionScopes": [],
            "passwordCredentials": _passwords(own),
            "replyUrls": [],
            "servicePrincipalNames": [principal.app_id],
            "servicePrincipalType": principal.service_principal_type,
            "signInAudience": principal.sign_in_audience,
            "tags": list(principal.tags),
        }
        match principal.kind:
            case PrincipalKind.AGENT_IDENTITY:
                row["agentIdentityBlueprintId"] = principal.agent_identity_blueprint_id
                return {"@odata.type": "#microsoft.graph.agentIdentity", **row}
            case PrincipalKind.AGENT_BLUEPRINT:
                return {"@odata.type": "#microsoft.graph.agentIdentityBlueprintPrincipal", **row}
            case _:
                return row

    def _application(self, application: Application) -> Json:
        principal = self._tenant.principal_by_app_id(application.app_id)
        held = [] if principal is None else [one for one in principal.credentials if one.on_application]
        row: Json = {
            "id": application.object_id,
            "deletedDateTime": None,
            "appId": application.app_id,
            "displayName": application.display_name,
            "createdDateTime": iso(application.created_at),
            "signInAudience": application.sign_in_audience,
            "identifierUris": [],
            "keyCredentials": _keys(held),
            "passwordCredentials": _passwords(held),
            "tags": [],
        }
        if application.is_blueprint:
            return {"@odata.type": "#microsoft.graph.agentIdentityBlueprint", **row}
        return row

    def _assignment(self, principal: Principal, role: str) -> Json:
        graph = self._tenant.principal_by_app_id(GRAPH.app_id)
        return {
            "id": base64.urlsafe_b64encode(f"{principal.object_id}/{role}".encode()).decode().rstrip("="),
            "deletedDateTime": None,
            "appRoleId": permissions.app_role_id(role),
            "createdDateTime": iso(principal.created_at),
            "principalDisplayName": principal.display_name,
            "principalId": principal.object_id,
            "principalType": "ServicePrincipal",
            "resourceDisplayName": GRAPH.display_name,
            "resourceId": None if graph is None else graph.object_id,
        }

    # -- common ---------------------------------------------------------------

    def _page(
        self,
        call: Call,
        rows: Sequence[Json],
        *,
        filterable: frozenset[str],
        max_top: int,
        directory: bool = False,
    ) -> web.Response:
        options = {name: value for name, value in call.request.query.items() if name.startswith("$")}
        query = Query.parse(
            options,
            filterable=filterable,
            max_top=max_top,
            advanced=call.wants_eventual_consistency if directory else None,
        )
        page, total, token = query.page(rows, min(self._tenant.settings.page_size, max_top))
        entity_set = call.path.strip("/")
        body: Json = {"@odata.context": f"https://graph.microsoft.com/{call.version}/$metadata#{entity_set}"}
        if query.count:
            body["@odata.count"] = total
        if token is not None:
            link = call.request.url.origin().with_path(f"/{call.version}{call.path}")
            body["@odata.nextLink"] = str(link.with_query({**options, "$skiptoken": token}))
        return _json({**body, "value": page}, call)

    def _one(self, call: Call, row: Json) -> web.Response:
        select = [name.strip() for name in call.request.query.get("$select", "").split(",") if name.strip()]
        # Without the key: ".../riskyServicePrincipals/{id}", "servicePrincipals(appId='...')".
        parent, _, last = call.path.strip("/").rpartition("/")
        entity_set = last.partition("(")[0] if "(" in last else parent
        context = f"https://graph.microsoft.com/{call.version}/$metadata#{entity_set}/$entity"
        return _json({"@odata.context": context, **narrow(row, select)}, call)

    def _now(self) -> datetime:
        return self._tenant.clock.now()

    def _log(self, call: Call, response: web.Response, duration_ms: int) -> None:
        tenant = self._tenant
        query = f"?{call.request.url.raw_query_string}" if call.request.url.raw_query_string else ""
        tenant.logs.write(
            "MicrosoftGraphActivityLogs",
            {
                "TimeGenerated": tenant.clock.now(),
                "Location": "West Europe",
                "RequestId": call.request_id,
                "OperationId": call.request_id,
                "ClientRequestId": call.request.headers.get("client-request-id", call.request_id),
                "ApiVersion": call.version,
                "RequestMethod": call.request.method,
                "ResponseStatusCode": response.status,
                "AadTenantId": tenant.settings.tenant_id,
                "IPAddress": client_ip(call.request, call.caller),
                "UserAgent": client_user_agent(call.request, call.caller),
                "RequestUri": f"https://graph.microsoft.com/{call.version}{call.path}{query}",
                "DurationMs": duration_ms,
                "ResponseSizeBytes": len(response.body) if isinstance(response.body, bytes) else 0,
                "SignInActivityId": call.claims.uti,
                "UniqueTokenId": call.claims.uti,
                "Roles": " ".join(sorted(call.claims.roles)),
                "TokenIssuedAt": call.claims.issued_at,
                "AppId": call.caller.app_id,
                "UserId": "",
                "ServicePrincipalId": call.caller.object_id,
                "Scopes": "",
                "IdentityProvider": f"https://sts.windows.net/{tenant.settings.tenant_id}/",
                # 1 is a secret, 2 a certificate or assertion: facts/log-tables.md §2.
                "ClientAuthMethod": 1 if call.caller.secret is not None else 2,
                "Wids": "",
                "SourceSystem": "Azure AD",
                "Type": "MicrosoftGraphActivityLogs",
            },
        )

    def _audit(self, call: Call, operation: str, kind: str, target: _Audited) -> None:
        tenant = self._tenant
        now = tenant.clock.now()
        caller = call.caller
        tenant.logs.write(
            "AuditLogs",
            {
                "TimeGenerated": now,
                "ActivityDateTime": now,
                "OperationName": operation,
                "ActivityDisplayName": operation,
                "OperationVersion": "1.0",
                "Category": "ApplicationManagement",
                "AADOperationType": kind,
                "LoggedByService": "Core Directory",
                "Result": "success",
                "ResultReason": "",
                "ResultType": "",
                "ResultDescription": "",
                "ResultSignature": "None",
                "DurationMs": 0,
                "CorrelationId": call.request_id,
                "Id": f"Directory_{tenant.new_id()}",
                "Identity": caller.display_name,
                "Level": "4",
                "Resource": "Microsoft.aadiam",
                "ResourceId": f"/tenants/{tenant.settings.tenant_id}/providers/Microsoft.aadiam",
                "InitiatedBy": {
                    "app": {
                        "appId": caller.app_id,
                        "displayName": caller.display_name,
                        "servicePrincipalId": caller.object_id,
                        "servicePrincipalName": None,
                    }
                },
                "TargetResources": [
                    {
                        "id": target.id,
                        "displayName": target.display_name,
                        "type": target.type,
                        "administrativeUnits": [],
                        # Values are JSON text inside JSON: facts/log-tables.md §4.
                        "modifiedProperties": [
                            {"displayName": name, "oldValue": json.dumps(old), "newValue": json.dumps(new)}
                            for name, old, new in target.modified
                        ],
                    }
                ],
                "AdditionalDetails": [
                    {"key": "User-Agent", "value": client_user_agent(call.request, caller)},
                    *([{"key": "AppId", "value": target.app_id}] if target.app_id else []),
                ],
                "AADTenantId": tenant.settings.tenant_id,
                "SourceSystem": "Azure AD",
                "Type": "AuditLogs",
            },
        )


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

Pager = Callable[..., web.Response]


class _Directory:
    """
    Users, groups, devices and roles: something for an agent that enumerates the directory to find.

    The people are made up from the tenant's seed. Reading only.
    """

    _SIZES: Final = {"users": 120, "groups": 40, "devices": 60}

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._page: Pager | None = None
        rng = random.Random(tenant.settings.seed + 2)
        self._rows: dict[str, list[Json]] = {
            name: [self._row(name, number, rng) for number in range(size)]
            for name, size in self._SIZES.items()
        }

    def operations(self, page: Pager) -> Iterable[Operation]:
        """Yield the table rows of the directory's collections."""
        self._page = page
        for name, roles in (
            ("users", permissions.USER_READ),
            ("groups", permissions.GROUP_READ),
            ("devices", permissions.DEVICE_READ),
        ):
            yield Operation("GET", f"/{name}", roles, self._list)
            yield Operation("GET", f"/{name}/{{id}}", roles, self._get)
        yield Operation("GET", "/directoryRoles", permissions.DIRECTORY_ROLE_READ, self._empty)
        yield Operation(
            "GET", "/roleManagement/directory/roleAssignments", permissions.ROLE_ASSIGNMENT_READ, self._empty
        )
        yield Operation(
            "GET", "/roleManagement/directory/roleDefinitions", permissions.ROLE_DEFINITION_READ, self._empty
        )

    def user(self, object_id: str) -> Json:
        """Return a user by object id; one that is only known as an owner gets a made-up name."""
        for row in self._rows["users"]:
            if row["id"] == object_id:
                return row
        return {"id": object_id, "displayName": "Owner", "userPrincipalName": "owner@example.com"}

    async def _list(self, call: Call) -> web.Response:
        rows = self._rows[call.path.strip("/").lower()]
        return self._paged(call, rows)

    async def _get(self, call: Call) -> web.Response:
        collection, named = call.path.strip("/").split("/")
        for row in self._rows[collection.lower()]:
            if named in {row["id"], row.get("userPrincipalName")}:
                context = f"https://graph.microsoft.com/{call.version}/$metadata#{collection}/$entity"
                return _json({"@odata.context": context, **row}, call)
        raise _not_found(named)

    async def _empty(self, call: Call) -> web.Response:
        return self._paged(call, [])

    def _paged(self, call: Call, rows: Sequence[Json]) -> web.Response:
        if self._page is None:
            raise RuntimeError("operations() was not asked for")
        names = frozenset({"id", "displayName", "userPrincipalName", "accountEnabled"})
        return self._page(call, rows, filterable=names, max_top=999, directory=True)

    def _row(self, collection: str, number: int, rng: random.Random) -> Json:
        object_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        match collection:
            case "users":
                return {
                    "id": object_id,
                    "displayName": f"User {number:03}",
                    "userPrincipalName": f"user{number:03}@example.com",
                    "mail": f"user{number:03}@example.com",
                    "accountEnabled": True,
                }
            case "groups":
                return {
                    "id": object_id,
                    "displayName": f"Group {number:02}",
                    "mailEnabled": False,
                    "securityEnabled": True,
                    "groupTypes": [],
                }
            case _:
                return {
                    "id": object_id,
                    "deviceId": object_id,
                    "displayName": f"LAPTOP-{number:03}",
                    "accountEnabled": True,
                    "operatingSystem": "Windows",
                }


def _pattern(template: str) -> str:
    """Turn ``/servicePrincipals(appId='{appId}')`` into a regular expression for whole paths."""
    parts = re.split(r"\{(\w+)\}", template)
    return "".join(
        f"(?P<{part}>[^/()']+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )


def _json(body: Json, call: Call | None = None, *, status: int = 200) -> web.Response:
    headers = {"Content-Type": _CONTENT_TYPE, "OData-Version": "4.0", "Cache-Control": "no-cache"}
    if call is not None and call.knows_all_enum_members:
        headers["Preference-Applied"] = _ENUM_PREFERENCE
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def error_body(
    code: str, message: str, *, date: str, request_id: str, client_request_id: str | None = None
) -> Json:
    """Return a Graph error (schema microsoft.graph.ODataErrors.oDataError; facts/entra.md §1)."""
    return {
        "error": {
            "code": code,
            "message": message,
            "innerError": {
                "date": date,
                "request-id": request_id,
                "client-request-id": client_request_id or request_id,
            },
        }
    }


def _error_response(
    refused: GraphRefusedError, request: web.Request, request_id: str, now: datetime
) -> web.Response:
    body = error_body(
        refused.code,
        refused.message,
        date=f"{now:%Y-%m-%dT%H:%M:%S}",
        request_id=request_id,
        client_request_id=request.headers.get("client-request-id"),
    )
    response = _json(body, status=refused.status)
    response.headers.update(refused.headers)
    return response


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
    ids = [one for name in _IDS_OF_ACTIONS for one in _listed(body.get(name))]
    return tuple(one.lower() for one in ids if isinstance(one, str))


def _not_found(named: str) -> GraphRefusedError:
    return GraphRefusedError(
        HTTPStatus.NOT_FOUND,
        "Request_ResourceNotFound",
        f"Resource '{named}' does not exist or one of its queried reference-property objects are not present.",
    )


def _guid(text: object) -> str:
    """Return a GUID in lower case. Raises GraphRefusedError (400), as Graph does for a malformed id."""
    if not isinstance(text, str) or not _GUID.fullmatch(text):
        raise GraphRefusedError(400, "Request_BadRequest", f"Invalid object identifier '{text}'.")
    return text.lower()


def _object(body: Mapping[str, Any], name: str) -> Json:
    value = body.get(name)
    if not isinstance(value, dict):
        raise GraphRefusedError(400, "BadRequest", f"'{name}' must be an object.")
    return value


def _enum_member(value: str, call: Call) -> str:
    if value in _EVOLVED_RISK_DETAILS and not call.knows_all_enum_members:
        return "unknownFutureValue"
    return value


def _by_id(rows: Sequence[Json], wanted: str) -> Json:
    for row in rows:
        if row["id"].lower() == wanted.lower():
            return row
    raise _not_found(wanted)


def _policy_in(policy: Json, version: str) -> Json:
    """Show a policy as one version declares it: v1.0 has no agent conditions (facts/entra.md §2)."""
    if version == _BETA:
        return policy
    conditions = {
        name: value
        for name, value in (policy.get("conditions") or {}).items()
        if name not in _AGENT_CONDITIONS
    }
    if clients := conditions.get("clientApplications"):
        conditions["clientApplications"] = {
            name: value for name, value in clients.items() if name not in _AGENT_CLIENTS
        }
    return {**policy, "conditions": conditions}


def _what_if(applied: conditional_access.Applied, version: str) -> Json:
    reasons = [reason.value for reason in applied.reasons]
    if version == _V1:
        # The two agent reasons are members of the beta enum only.
        reasons = ["workloadIdentities" if one.startswith("agent") else one for one in reasons]
    return {
        **_policy_in(applied.policy, version),
        # Report-only policies show as applying: facts/entra.md §3.
        "policyApplies": not reasons,
        "analysisReasons": ", ".join(dict.fromkeys(reasons)) or "notSet",
    }


def _passwords(credentials: Iterable[HeldCredential]) -> list[Json]:
    return [
        {
            "customKeyIdentifier": None,
            "displayName": held.display_name or None,
            "endDateTime": iso(held.ends_at),
            "hint": "sim",
            "keyId": held.key_id,
            "secretText": None,
            "startDateTime": iso(held.starts_at),
        }
        for held in credentials
        if not held.is_certificate
    ]


def _keys(credentials: Iterable[HeldCredential]) -> list[Json]:
    return [
        {
            "customKeyIdentifier": None,
            "displayName": f"CN={held.display_name}",
            "endDateTime": iso(held.ends_at),
            "key": None,
            "keyId": held.key_id,
            "startDateTime": iso(held.starts_at),
            "type": "AsymmetricX509Cert",
            "usage": "Verify",
        }
        for held in credentials
        if held.is_certificate
    ]


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
