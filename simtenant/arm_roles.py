"""
Azure role assignments of the simulated tenant (Microsoft.Authorization/roleAssignments, 2022-04-01).

Resource type and api-version: facts/azure-platform.md §5. No contract of this API is at hand, so these are from
memory: the filter ``principalId eq``, 201 for a new assignment, 204 for deleting one that is not there, and the codes
``RoleAssignmentExists`` (409: same principal, role and scope under another name), ``RoleAssignmentUpdateNotPermitted``
(400: the name is taken by another assignment) and ``AuthorizationFailed`` (403).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from simtenant.sentinel import ArmError, arm, caller_of

if TYPE_CHECKING:
    from simtenant.tenant import Tenant

_PATH: Final = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Authorization/roleAssignments"
)
_FILTER: Final = re.compile(r"principalId eq '([0-9a-fA-F-]{36})'")


class ArmRoles:
    """Role assignments on resource groups. ``writers`` may write (object ids); None: everybody with a token."""

    def __init__(self, tenant: Tenant, writers: set[str] | None = None) -> None:
        self._tenant, self.writers = tenant, writers
        self.assignments: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of management.azure.com for role assignments."""
        one = f"{_PATH}/{{name}}"
        return [
            web.get(_PATH, arm(self._list)),
            web.get(one, arm(self._get)),
            web.put(one, arm(self._put)),
            web.delete(one, arm(self._delete)),
        ]

    def _admit(self, request: web.Request, *, write: bool) -> None:
        caller_of(self._tenant, self.writers if write else None, request)
        if request.query["api-version"] != "2022-04-01":
            raise ArmError(400, "NoRegisteredProviderFound", "Only api-version 2022-04-01 is simulated.")

    async def _list(self, request: web.Request) -> web.Response:
        self._admit(request, write=False)
        found = _FILTER.fullmatch(request.query.get("$filter", ""))
        if found is None:
            raise ArmError(400, "InvalidFilter", "Only principalId eq is simulated.")
        scope = request.path.partition("/providers/")[0].lower()
        rows = [
            one
            for one in self.assignments.values()
            if one["properties"]["principalId"] == found[1].lower()
            and one["properties"]["scope"].lower() == scope
        ]
        return web.json_response({"value": rows})

    async def _get(self, request: web.Request) -> web.Response:
        self._admit(request, write=False)
        held = self.assignments.get(request.path.lower())
        if held is None:
            raise ArmError(404, "RoleAssignmentNotFound", "Not found.")
        return web.json_response(held)

    async def _put(self, request: web.Request) -> web.Response:
        self._admit(request, write=True)
        try:
            sent = json.loads(await request.read())["properties"]
            role, principal = str(sent["roleDefinitionId"]), str(sent["principalId"]).lower()
        except (ValueError, KeyError, TypeError) as error:
            message = "roleDefinitionId and principalId are needed."
            raise ArmError(400, "InvalidRequestContent", message) from error
        if principal not in self._tenant.principals:
            raise ArmError(400, "PrincipalNotFound", "The principal does not exist in the directory.")
        scope = request.path.partition("/providers/")[0]
        wanted = (scope.lower(), role.lower(), principal)
        for path, one in self.assignments.items():
            held = one["properties"]
            same = (held["scope"].lower(), held["roleDefinitionId"].lower(), held["principalId"]) == wanted
            if path == request.path.lower():
                if same:
                    return web.json_response(one)
                raise ArmError(400, "RoleAssignmentUpdateNotPermitted", "The name is taken.")
            if same:
                raise ArmError(409, "RoleAssignmentExists", "The role assignment already exists.")
        row = {
            "id": request.path,
            "name": request.match_info["name"],
            "type": "Microsoft.Authorization/roleAssignments",
            "properties": {
                "roleDefinitionId": role,
                "principalId": principal,
                "principalType": sent.get("principalType", "User"),
                "scope": scope,
            },
        }
        self.assignments[request.path.lower()] = row
        return web.json_response(row, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        self._admit(request, write=True)
        gone = self.assignments.pop(request.path.lower(), None)
        return web.Response(status=204) if gone is None else web.json_response(gone)
