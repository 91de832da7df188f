"""What every part of the simulated Graph does alike: name an object, show it, page, and write the audit row."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simtenant import permissions
from simtenant.clock import iso
from simtenant.entra import client_ip, client_user_agent
from simtenant.graph_wire import Call, GraphRefusedError, Json, Operation, guid, json_answer, not_found
from simtenant.odata import Query, narrow
from simtenant.tenant import PrincipalKind
from simtenant.tokens import GRAPH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from aiohttp import web

    from simtenant.tenant import Application, HeldCredential, Principal, Tenant


@dataclass(frozen=True, slots=True)
class Audited:
    """What a change was made to, for the audit log; ``modified`` holds name, old value, new value."""

    id: str
    display_name: str
    type: str
    modified: tuple[tuple[str, object, object], ...]
    app_id: str = ""


class GraphBase:
    """One tenant's Graph, the part that is common to all operations. ``operations`` is its table."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.operations: tuple[Operation, ...] = ()

    def _principal_named(self, call: Call) -> Principal:
        app_id = call.ids.get("appId")
        named = app_id if app_id is not None else call.ids["id"]
        principal = (
            self._tenant.principals.get(guid(named))
            if app_id is None
            else self._tenant.principal_by_app_id(app_id)
        )
        if principal is None:
            raise not_found(named)
        return principal

    def _agent_named(self, call: Call) -> Principal:
        principal = self._principal_named(call)
        if principal.kind is not PrincipalKind.AGENT_IDENTITY:
            raise not_found(principal.object_id)
        return principal

    def _application_named(self, call: Call) -> Application:
        app_id = call.ids.get("appId")
        if app_id is None:
            object_id = guid(call.ids["id"])
            application = self._tenant.applications.get(object_id)
        else:
            object_id = app_id
            application = next(
                (one for one in self._tenant.applications.values() if one.app_id == app_id.lower()), None
            )
        if application is None:
            raise not_found(object_id)
        return application

    def _check_ownership(self, call: Call, principal: Principal) -> None:
        wide = {
            "Application.ReadWrite.All",
            "Directory.ReadWrite.All",
            "AgentIdentity.EnableDisable.All",
            "AgentIdentity.ReadWrite.All",
            "AgentIdentityBlueprintPrincipal.EnableDisable.All",
            "AgentIdentityBlueprintPrincipal.ReadWrite.All",
        }
        if wide & call.claims.roles or call.caller.object_id in principal.owners:
            return
        raise GraphRefusedError(
            403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
        )

    def _app_roles(self) -> list[Json]:
        held = {role for principal in self._tenant.principals.values() for role in principal.app_roles}
        offered = held.union(
            self._tenant.roles_once_held,
            permissions.MARK_READ,
            *(operation.roles or () for operation in self.operations),
        )
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

    def _roles_of(self, principal: Principal) -> list[Json]:
        application = self._tenant.applications.get(principal.application_object_id)
        return [] if application is None else list(application.app_roles)

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
            "appRoleAssignmentRequired": principal.app_role_assignment_required,
            "appRoles": self._app_roles() if principal.app_id == GRAPH.app_id else self._roles_of(principal),
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
            "identifierUris": list(application.identifier_uris),
            "groupMembershipClaims": application.group_membership_claims,
            "appRoles": list(application.app_roles),
            "api": {
                "acceptMappedClaims": None,
                "knownClientApplications": [],
                "requestedAccessTokenVersion": None,
                "oauth2PermissionScopes": [],
                "preAuthorizedApplications": [],
                **application.api,
            },
            "keyCredentials": _keys(held),
            "passwordCredentials": _passwords(held),
            "tags": list(application.tags),
        }
        if application.is_blueprint:
            return {"@odata.type": "#microsoft.graph.agentIdentityBlueprint", **row}
        return row

    def _with_keys(self, row: Json, call: Call) -> Json:
        """Show certificates' public keys, where keyCredentials of a single object are selected (keycredential.md)."""
        if "keyCredentials" in call.request.query.get("$select", ""):
            row["keyCredentials"] = [
                one | {"key": base64.urlsafe_b64encode(f"certificate {one['keyId']}".encode()).decode()}
                for one in row["keyCredentials"]
            ]
        return row

    def _assignment(self, principal: Principal, role: str) -> Json:
        graph = self._tenant.principal_by_app_id(GRAPH.app_id)
        name = f"{principal.object_id}/{role}/{self._tenant.times_taken[principal.object_id, role]}"
        return {
            "id": base64.urlsafe_b64encode(name.encode()).decode().rstrip("="),
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
        return json_answer({**body, "value": page}, call)

    def _one(self, call: Call, row: Json) -> web.Response:
        select = [name.strip() for name in call.request.query.get("$select", "").split(",") if name.strip()]
        # Without the key: ".../riskyServicePrincipals/{id}", "servicePrincipals(appId='...')".
        parent, _, last = call.path.strip("/").rpartition("/")
        entity_set = last.partition("(")[0] if "(" in last else parent
        context = f"https://graph.microsoft.com/{call.version}/$metadata#{entity_set}/$entity"
        return json_answer({"@odata.context": context, **narrow(row, select)}, call)

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

    def _audit(
        self,
        call: Call,
        operation: str,
        kind: str,
        target: Audited,
        *,
        category: str = "ApplicationManagement",
        service: str = "Core Directory",
    ) -> None:
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
                "Category": category,
                "AADOperationType": kind,
                "LoggedByService": service,
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
