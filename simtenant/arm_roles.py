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

from simtenant.sentinel import AUDIENCE
from simtenant.tokens import InvalidTokenError

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
            web.get(_PATH, self._list),
            web.get(one, self._get),
            web.put(one, self._put),
            web.delete(one, self._delete),
        ]

    def _refused(self, request: web.Request, *, write: bool) -> web.Response | None:
        try:
            claims = self._tenant.tokens.validate(request.headers.get("Authorization"), AUDIENCE)
        except InvalidTokenError as error:
            return _error(401, error.code, str(error))
        if request.query.get("api-version") != "2022-04-01":
            return _error(400, "NoRegisteredProviderFound", "Only api-version 2022-04-01 is simulated.")
        if write and self.writers is not None and claims.object_id not in self.writers:
            return _error(403, "AuthorizationFailed", "The client does not have authorization.")
        return None

    async def _list(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, write=False):
            return refused
        found = _FILTER.fullmatch(request.query.get("$filter", ""))
        if found is None:
            return _error(400, "InvalidFilter", "Only principalId eq is simulated.")
        scope = request.path.partition("/providers/")[0].lower()
        rows = [
            one
            for one in self.assignments.values()
            if one["properties"]["principalId"] == found[1].lower()
            and one["properties"]["scope"].lower() == scope
        ]
        return web.json_response({"value": rows})

    async def _get(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, write=False):
            return refused
        held = self.assignments.get(request.path.lower())
        return (
            _error(404, "RoleAssignmentNotFound", "Not found.") if held is None else web.json_response(held)
        )

    async def _put(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, write=True):
            return refused
        try:
            sent = json.loads(await request.read())["properties"]
            role, principal = str(sent["roleDefinitionId"]), str(sent["principalId"]).lower()
        except (ValueError, KeyError, TypeError):
            return _error(400, "InvalidRequestContent", "roleDefinitionId and principalId are needed.")
        if principal not in self._tenant.principals:
            return _error(400, "PrincipalNotFound", "The principal does not exist in the directory.")
        scope = request.path.partition("/providers/")[0]
        wanted = (scope.lower(), role.lower(), principal)
        for path, one in self.assignments.items():
            held = one["properties"]
            same = (held["scope"].lower(), held["roleDefinitionId"].lower(), held["principalId"]) == wanted
            if path == request.path.lower():
                if same:
                    return web.json_response(one)
                return _error(400, "RoleAssignmentUpdateNotPermitted", "The name is taken.")
            if same:
                return _error(409, "RoleAssignmentExists", "The role assignment already exists.")
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
        if refused := self._refused(request, write=True):
            return refused
        gone = self.assignments.pop(request.path.lower(), None)
        return web.Response(status=204) if gone is None else web.json_response(gone)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
