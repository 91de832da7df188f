"""
Registering an application in the simulated Graph: the registration, its service principal, who holds its app roles.

Shapes and permissions are those of contracts/graph-v1.0.subset.yaml and graph-permissions.subset.json. Not known, and
guessed from the neighbouring operations: the code and text of a 400 for an app id that is taken, for an identifier URI
that is in use and for an assignment that exists. That deleting a registration takes its service principal with it is
from memory, and so is that what was deleted can be restored for 30 days, which is not simulated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant import permissions
from simtenant.clock import iso
from simtenant.graph_base import Audited, GraphBase
from simtenant.graph_wire import Call, GraphRefusedError, Json, Operation, guid, json_answer, not_found
from simtenant.tenant import Application

if TYPE_CHECKING:
    from simtenant.tenant import Principal

REGISTERED: Final = frozenset({"identifierUris", "appRoles", "tags", "api", "groupMembershipClaims"})
"""What of a registration can be changed here."""
_FORMS: Final[dict[str, type]] = {"api": dict, "groupMembershipClaims": str}
_AT_CREATION: Final = REGISTERED | {"displayName", "signInAudience"}
_DEFAULT_ROLE: Final = "00000000-0000-0000-0000-000000000000"


class Registrations(GraphBase):
    """Making and taking back registrations, service principals and assignments of an API's roles."""

    def _registration_operations(self) -> tuple[Operation, ...]:
        p = permissions
        assigned = "/servicePrincipals/{id}/appRoleAssignedTo"
        return (
            Operation(
                "POST",
                "/applications",
                p.APPLICATION_WRITE | {"AppRegistration.Create"},
                self._register,
            ),
            Operation("DELETE", "/applications/{id}", p.APPLICATION_WRITE, self._deregister),
            Operation("POST", "/servicePrincipals", p.PRINCIPAL_WRITE, self._make_principal),
            Operation("GET", assigned, p.APPLICATION_READ, self._assigned_to),
            Operation("POST", assigned, p.ROLE_GRANT, self._assign),
            Operation("DELETE", f"{assigned}/{{aid}}", p.ROLE_GRANT, self._unassign),
        )

    async def _register(self, call: Call) -> web.Response:
        body = await call.body()
        name = body.get("displayName")
        if not isinstance(name, str) or not name or set(body) - _AT_CREATION:
            raise _bad(f"displayName is needed, and only {sorted(_AT_CREATION)} are simulated.")
        made = Application(
            object_id=self._tenant.new_id(),
            app_id=self._tenant.new_id(),
            display_name=name,
            sign_in_audience=str(body.get("signInAudience") or "AzureADandPersonalMicrosoftAccount"),
            created_at=self._now(),
        )
        made = self._changed(made, body)
        self._tenant.applications[made.object_id] = made
        self._recorded(call, "Add application", "Add", made)
        return json_answer(self._application(made), status=201)

    async def _patch_registration(self, call: Call) -> web.Response:
        made = self._application_named(call)
        self._owned(call)
        changed = self._changed(made, await call.body())
        self._tenant.applications[made.object_id] = changed
        self._recorded(call, "Update application", "Update", changed)
        return web.Response(status=204)

    def _changed(self, made: Application, body: Json) -> Application:
        for name in REGISTERED & set(body):
            if not isinstance(body[name], _FORMS.get(name, list)):
                raise _bad(f"{name} has the wrong form.")
        api = body.get("api", made.api)
        _check_api(api, made.api)
        roles = tuple(body.get("appRoles", made.app_roles))
        for role in roles:
            guid(role.get("id"))
            if not role.get("value") or not role.get("displayName") or not role.get("allowedMemberTypes"):
                raise _bad("An app role needs id, value, displayName and allowedMemberTypes.")
        uris = tuple(body.get("identifierUris", made.identifier_uris))
        others = (one for one in self._tenant.applications.values() if one.object_id != made.object_id)
        if any(set(uris) & set(one.identifier_uris) for one in others):
            raise _bad("Another object with the same value for property identifierUris already exists.")
        tags = tuple(body.get("tags", made.tags))
        claims = body.get("groupMembershipClaims", made.group_membership_claims)
        return replace(
            made,
            app_roles=roles,
            identifier_uris=uris,
            tags=tags,
            api=dict(api),
            group_membership_claims=claims,
        )

    async def _deregister(self, call: Call) -> web.Response:
        made = self._application_named(call)
        self._owned(call)
        self._tenant.remove_application(made)
        self._recorded(call, "Delete application", "Delete", made)
        return web.Response(status=204)

    async def _make_principal(self, call: Call) -> web.Response:
        body = await call.body()
        app_id = guid(body.get("appId"))
        made = next((one for one in self._tenant.applications.values() if one.app_id == app_id), None)
        if made is None or set(body) - {"appId", "appRoleAssignmentRequired"}:
            raise _bad("appId names no application of this tenant, or more was sent than is simulated.")
        if self._tenant.principal_by_app_id(app_id) is not None:
            raise GraphRefusedError(
                409, "Request_MultipleObjectsWithSameKeyValue", "The service principal name is in use."
            )
        principal = self._tenant.add_principal_of(made)
        principal.app_role_assignment_required = body.get("appRoleAssignmentRequired") is True
        self._recorded(call, "Add service principal", "Add", made)
        return json_answer(self._principal(principal), status=201)

    async def _patch_assignment_required(self, call: Call, principal: Principal) -> web.Response:
        self._check_ownership(call, principal)
        required = (await call.body())["appRoleAssignmentRequired"]
        if not isinstance(required, bool):
            raise _bad("appRoleAssignmentRequired must be a boolean.")
        principal.app_role_assignment_required = required
        return web.Response(status=204)

    async def _assigned_to(self, call: Call) -> web.Response:
        resource = self._principal_named(call)
        rows = [one for one in self._tenant.api_assignments if one["resourceId"] == resource.object_id]
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    async def _assign(self, call: Call) -> web.Response:
        """Assign a role of the resource in the path. People and groups are not in the tenant: any other id is a user."""
        resource, body = self._principal_named(call), await call.body()
        if body.get("resourceId") != resource.object_id:
            raise _bad("resourceId is not the resource in the path.")
        if str(body.get("appRoleId")) not in {
            _DEFAULT_ROLE,
            *(one["id"] for one in self._roles_of(resource)),
        }:
            raise _bad("Permission being assigned was not found on application.")
        principal_id = guid(body.get("principalId"))
        role = str(body["appRoleId"])
        for one in self._tenant.api_assignments:
            if (one["principalId"], one["resourceId"], one["appRoleId"]) == (
                principal_id,
                resource.object_id,
                role,
            ):
                raise _bad("Permission being assigned already exists on the object.")
        held = self._tenant.principals.get(principal_id)
        row: dict[str, Any] = {
            "id": self._tenant.new_id(),
            "deletedDateTime": None,
            "appRoleId": role,
            "createdDateTime": iso(self._now()),
            "principalDisplayName": held.display_name if held else "somebody",
            "principalId": principal_id,
            "principalType": "ServicePrincipal" if held else "User",
            "resourceDisplayName": resource.display_name,
            "resourceId": resource.object_id,
        }
        self._tenant.api_assignments.append(row)
        return json_answer(row, status=201)

    async def _unassign(self, call: Call) -> web.Response:
        resource = self._principal_named(call)
        for row in self._tenant.api_assignments:
            if row["id"] == call.ids["aid"] and row["resourceId"] == resource.object_id:
                self._tenant.api_assignments.remove(row)
                return web.Response(status=204)
        raise not_found(call.ids["aid"])

    def _owned(self, call: Call) -> None:
        """Refuse who may write only what it owns: registrations have no owners here."""
        if "Application.ReadWrite.All" not in call.claims.roles:
            raise GraphRefusedError(
                403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
            )

    def _recorded(self, call: Call, operation: str, kind: str, made: Application) -> None:
        target = Audited(made.object_id, made.display_name, "Application", (), app_id=made.app_id)
        self._audit(call, operation, kind, target)


def _bad(message: str) -> GraphRefusedError:
    return GraphRefusedError(400, "Request_BadRequest", message)


def _check_api(api: Json, before: Json) -> None:
    """
    Refuse an ``api`` that names scopes which are not there yet.

    That clients can be authorised only for scopes of an earlier write is from memory; the stricter reading is simulated.
    """
    if api.get("requestedAccessTokenVersion") not in (None, 1, 2):
        raise _bad("requestedAccessTokenVersion must be 1 or 2.")
    for scope in api.get("oauth2PermissionScopes", []):
        guid(scope.get("id"))
        if not scope.get("value") or scope.get("type") not in ("User", "Admin"):
            raise _bad("A scope needs id, value and type.")
    known = {scope["id"] for scope in before.get("oauth2PermissionScopes", [])}
    for client in api.get("preAuthorizedApplications", []):
        guid(client.get("appId"))
        if not set(client.get("delegatedPermissionIds") or ()) <= known:
            raise _bad("delegatedPermissionIds names a scope that the application does not have.")
