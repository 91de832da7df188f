"""
What a principal of the simulated Graph holds, and what can be taken from it and given back.

Sponsors, directory roles, delegated grants, credentials, federated credentials, app role assignments. Removing the
credential a principal signs in with ends its next token request, as in Entra; issued tokens live on.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant import permissions
from simtenant.graph_base import Audited
from simtenant.graph_registrations import REGISTERED, Registrations
from simtenant.graph_wire import Call, GraphRefusedError, Json, Operation, json_answer, not_found
from simtenant.tenant import HeldCredential, PrincipalKind

if TYPE_CHECKING:
    from simtenant.tenant import Principal

_FEDERATED = "/applications/{id}/federatedIdentityCredentials"


class Holdings(Registrations, ABC):
    """Reading and removing what a principal holds."""

    def _holding_operations(self) -> tuple[Operation, ...]:
        p = permissions
        principals = "/servicePrincipals/{id}"
        return (
            Operation(
                "GET",
                f"{principals}/microsoft.graph.agentIdentity/sponsors",
                p.SPONSOR_READ,
                self._sponsors_of_agent,
            ),
            Operation(
                "GET",
                f"{principals}/microsoft.graph.agentIdentityBlueprintPrincipal/sponsors",
                p.SPONSOR_READ,
                self._sponsors_of_blueprint,
            ),
            Operation(
                "GET",
                f"{principals}/transitiveMemberOf/microsoft.graph.directoryRole",
                p.MEMBERSHIP_READ,
                self._memberships,
            ),
            Operation(
                "GET",
                "/roleManagement/directory/roleAssignments",
                p.ROLE_ASSIGNMENT_READ,
                self._directory_roles,
            ),
            Operation("DELETE", f"{principals}/appRoleAssignments/{{aid}}", p.ROLE_GRANT, self._take_role),
            Operation("GET", f"{principals}/oauth2PermissionGrants", p.GRANT_READ, self._grants),
            Operation("POST", "/oauth2PermissionGrants", p.GRANT_WRITE, self._grant),
            Operation("DELETE", "/oauth2PermissionGrants/{id}", p.GRANT_WRITE, self._take_grant),
            Operation("POST", f"{principals}/removePassword", p.PRINCIPAL_WRITE, self._remove_password),
            Operation("POST", "/applications/{id}/removePassword", p.PRINCIPAL_WRITE, self._remove_password),
            Operation("PATCH", "/applications/{id}", p.APPLICATION_WRITE, self._patch_keys),
            # On service principals: in the v1.0 metadata, without a page or permissions of its own.
            Operation(
                "GET",
                f"{principals}/federatedIdentityCredentials",
                p.FEDERATION_READ,
                self._federated,
            ),
            Operation(
                "POST", f"{principals}/federatedIdentityCredentials", p.APPLICATION_WRITE, self._federate
            ),
            Operation(
                "DELETE",
                f"{principals}/federatedIdentityCredentials/{{fid}}",
                p.APPLICATION_WRITE,
                self._take_federated,
            ),
            Operation("GET", _FEDERATED, p.FEDERATION_READ, self._federated),
            Operation("POST", _FEDERATED, p.APPLICATION_WRITE, self._federate),
            Operation("DELETE", f"{_FEDERATED}/{{fid}}", p.APPLICATION_WRITE, self._take_federated),
        )

    async def _sponsors_of_agent(self, call: Call) -> web.Response:
        return self._sponsors(call, PrincipalKind.AGENT_IDENTITY)

    async def _sponsors_of_blueprint(self, call: Call) -> web.Response:
        return self._sponsors(call, PrincipalKind.AGENT_BLUEPRINT)

    def _sponsors(self, call: Call, kind: PrincipalKind) -> web.Response:
        principal = self._principal_named(call)
        if principal.kind is not kind:  # a cast to a type that the object is not
            raise not_found(principal.object_id)
        rows = [self._person(one) for one in principal.sponsors]
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    @abstractmethod
    def _person(self, object_id: str) -> Json:
        """Show an owner or sponsor; ``GraphService`` knows the people."""

    async def _directory_roles(self, call: Call) -> web.Response:
        rows = [
            {
                "id": f"{principal.object_id}-{role}",
                "principalId": principal.object_id,
                "roleDefinitionId": role,
                "directoryScopeId": "/",
            }
            for principal in self._tenant.principals.values()
            for role in principal.directory_roles
        ]
        names = frozenset({"id", "principalId", "roleDefinitionId"})
        return self._page(call, rows, filterable=names, max_top=999, directory=True)

    async def _memberships(self, call: Call) -> web.Response:
        """
        List the directory roles of a principal, those through groups among them.

        Who may not read roles is given their ids and nothing else; a cast is an advanced query and takes
        ConsistencyLevel and $count (list transitiveMemberOf).
        """
        if not (call.wants_eventual_consistency and call.request.query.get("$count") == "true"):
            raise GraphRefusedError(
                400,
                "Request_UnsupportedQuery",
                "OData cast needs ConsistencyLevel: eventual and $count=true.",
            )
        principal = self._principal_named(call)
        readable = bool(permissions.ROLE_ASSIGNMENT_READ & call.claims.roles)
        rows: list[Json] = [
            {
                "id": str(uuid.uuid5(uuid.UUID(self._tenant.settings.tenant_id), role)),
                "displayName": role if readable else None,
                "roleTemplateId": role if readable else None,
            }
            for role in dict.fromkeys([*principal.directory_roles, *principal.group_roles])
        ]
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    async def _take_role(self, call: Call) -> web.Response:
        principal = self._principal_named(call)
        held = {self._assignment(principal, role)["id"]: role for role in principal.app_roles}
        role = held.get(call.ids["aid"])
        if role is None:
            raise not_found(call.ids["aid"])
        principal.app_roles.discard(role)
        self._tenant.times_taken[principal.object_id, role] += 1
        self._tenant.roles_once_held.add(role)  # Graph goes on to offer what nobody holds
        self._audited(
            call, principal, "Remove app role assignment from service principal", "AppRole.Value", role
        )
        return web.Response(status=204)

    async def _grants(self, call: Call) -> web.Response:
        rows = self._principal_named(call).grants
        return self._page(call, rows, filterable=frozenset({"id"}), max_top=999, directory=True)

    async def _grant(self, call: Call) -> web.Response:
        body = await call.body()
        principal = self._tenant.principals.get(str(body.get("clientId")))
        if principal is None or not body.get("resourceId") or not body.get("consentType"):
            raise GraphRefusedError(
                400, "Request_BadRequest", "clientId, resourceId and consentType are needed."
            )
        row = {"id": self._tenant.new_id(), "principalId": None, **body}
        key = ("resourceId", "consentType", "principalId")
        if any([one.get(name) for name in key] == [row[name] for name in key] for one in principal.grants):
            raise GraphRefusedError(
                409, "Request_MultipleObjectsWithSameKeyValue", "Permission entry already exists."
            )
        principal.grants.append(row)
        self._audited(
            call, principal, "Add delegated permission grant", "DelegatedPermissionGrant.Scope", body
        )
        return json_answer(row, status=201)

    async def _take_grant(self, call: Call) -> web.Response:
        for principal in self._tenant.principals.values():
            for row in principal.grants:
                if row["id"] == call.ids["id"]:
                    principal.grants.remove(row)
                    self._audited(
                        call,
                        principal,
                        "Remove delegated permission grant",
                        "DelegatedPermissionGrant.Scope",
                        row["scope"],
                    )
                    return web.Response(status=204)
        raise not_found(call.ids["id"])

    def _holder(self, call: Call) -> tuple[Principal, bool]:
        """Give whose credentials a path is about, and whether they hang at its application."""
        if call.path.lower().startswith("/applications"):
            application = self._application_named(call)
            principal = self._tenant.principal_by_app_id(application.app_id)
            if principal is None:
                raise not_found(application.object_id)
            return principal, True
        return self._principal_named(call), False

    async def _remove_password(self, call: Call) -> web.Response:
        principal, at_application = self._holder(call)
        self._check_ownership(call, principal)
        key = str((await call.body()).get("keyId"))
        held = next(
            (
                one
                for one in principal.credentials
                if one.key_id == key and not one.is_certificate and one.on_application is at_application
            ),
            None,
        )
        if held is None:
            # Not 404: seen live in several public repositories, documented nowhere.
            raise GraphRefusedError(
                400, "Request_BadRequest", f"No password credential found with keyId '{key}'."
            )
        self._lose(principal, {key})
        self._audited(call, principal, _CREDENTIALS_CHANGED, "KeyDescription", key)
        return web.Response(status=204)

    async def _patch_keys(self, call: Call) -> web.Response:
        body = await call.body()
        if call.path.lower().startswith("/applications") and set(body) <= REGISTERED:
            return await self._patch_registration(call)
        principal, at_application = self._holder(call)
        self._check_ownership(call, principal)
        keys = body.get("keyCredentials")
        if set(body) != {"keyCredentials"} or not isinstance(keys, list):
            raise GraphRefusedError(
                400, "Request_BadRequest", f"Only keyCredentials are simulated, not {sorted(body)}."
            )
        wanted = {str(one.get("keyId")): one for one in keys}
        held = {
            one.key_id
            for one in principal.credentials
            if one.is_certificate and one.on_application is at_application
        }
        if any(not wanted[key].get("key") for key in set(wanted) - held):
            raise GraphRefusedError(400, "Request_BadRequest", "A new keyCredential needs its key.")
        principal.lost_credentials = [one for one in principal.lost_credentials if one.key_id not in wanted]
        self._lose(principal, held - set(wanted))
        principal.credentials += [
            _certificate(one, on_application=at_application) for key, one in wanted.items() if key not in held
        ]
        self._audited(call, principal, _CREDENTIALS_CHANGED, "KeyDescription", sorted(wanted))
        return web.Response(status=204)

    def _lose(self, principal: Principal, keys: set[str]) -> None:
        gone = [one for one in principal.credentials if one.key_id in keys]
        principal.credentials = [one for one in principal.credentials if one not in gone]
        principal.lost_credentials += [replace(one) for one in gone]

    def _federated_held(self, call: Call) -> tuple[Principal, list[Json]]:
        principal, at_application = self._holder(call)
        return principal, principal.federated if at_application else principal.own_federated

    async def _federated(self, call: Call) -> web.Response:
        _, rows = self._federated_held(call)
        return self._page(call, rows, filterable=frozenset({"id", "name"}), max_top=999, directory=True)

    async def _federate(self, call: Call) -> web.Response:
        principal, held = self._federated_held(call)
        self._check_ownership(call, principal)
        body = await call.body()
        if not all(body.get(name) for name in ("name", "issuer", "subject", "audiences")):
            raise GraphRefusedError(
                400, "Request_BadRequest", "name, issuer, subject and audiences are needed."
            )
        if any(one["name"] == body["name"] for one in held):
            raise GraphRefusedError(409, "Request_MultipleObjectsWithSameKeyValue", "The name is taken.")
        row = {"id": self._tenant.new_id(), **body}
        held.append(row)
        self._audited(call, principal, _CREDENTIALS_CHANGED, "FederatedIdentityCredentials", body["name"])
        return json_answer(row, status=201)

    async def _take_federated(self, call: Call) -> web.Response:
        principal, held = self._federated_held(call)
        self._check_ownership(call, principal)
        for row in held:
            if row["id"] == call.ids["fid"]:
                held.remove(row)
                name = row["name"]
                self._audited(call, principal, _CREDENTIALS_CHANGED, "FederatedIdentityCredentials", name)
                return web.Response(status=204)
        raise not_found(call.ids["fid"])

    def _audited(self, call: Call, principal: Principal, operation: str, name: str, value: Any) -> None:
        target = Audited(
            principal.object_id,
            principal.display_name,
            "ServicePrincipal",
            ((name, value, ""),),
            app_id=principal.app_id,
        )
        self._audit(call, operation, "Update", target)


def _certificate(one: Json, *, on_application: bool) -> HeldCredential:
    try:
        starts, ends = (
            datetime.fromisoformat(str(one.get(name))) for name in ("startDateTime", "endDateTime")
        )
    except ValueError as error:
        raise GraphRefusedError(
            400, "Request_BadRequest", "A keyCredential without start and end."
        ) from error
    name = str(one.get("displayName") or "").removeprefix("CN=")
    return HeldCredential(
        one["keyId"], starts, ends, name, is_certificate=True, on_application=on_application
    )


# EN DASH and trailing blank are in the real name: facts/log-tables.md §0.10.
_CREDENTIALS_CHANGED: Final = "Update application \N{EN DASH} Certificates and secrets management "
