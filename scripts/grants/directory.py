"""The directory as the person sees it who runs the script: through the app's own Graph calls, in raw JSON."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from clients.errors import BadRequest, Conflicting, Malformed, NotFound
from clients.fields import token_claims
from clients.graph.calls import SCOPE, Beta, GraphCalls, translated

GRAPH_APP_ID: Final = "00000003-0000-0000-c000-000000000000"


class Directory(GraphCalls):
    """Reads and single writes of registrations, service principals and app role assignments. Raises: ClientError."""

    async def signed_in_tenant(self) -> str:
        """Give the tenant of our own token (``tid``)."""

        async def ask() -> str:
            return (await self._credential.get_token(SCOPE, enable_cae=True)).token

        token = await translated("read own token", ask)
        try:
            return str(token_claims(token)["tid"]).lower()
        except (KeyError, ValueError) as error:
            raise Malformed("Entra", "the token names no tenant") from error

    async def principal(self, object_id: str) -> dict[str, Any] | None:
        """Give a service principal by its object id; None where there is none."""
        return await self._found(f"/servicePrincipals/{object_id}")

    async def principal_of(self, app_id: str) -> dict[str, Any] | None:
        """Give a service principal by its appId; None where there is none."""
        return await self._found(f"/servicePrincipals(appId='{app_id}')")

    async def application(self, object_id: str) -> dict[str, Any] | None:
        """Give an app registration by its object id; None where there is none."""
        return await self._found(f"/applications/{object_id}")

    async def applications_named(self, name: str) -> list[dict[str, Any]]:
        """Give the app registrations with a display name."""
        text = quote("displayName eq '" + name.replace("'", "''") + "'")
        return await self._all(f"/applications?$filter={text}")

    async def roles_of(self, principal: str) -> list[dict[str, Any]]:
        """Give what app roles a service principal holds."""
        return await self._all(f"/servicePrincipals/{principal}/appRoleAssignments")

    async def assigned_to(self, resource: str) -> list[dict[str, Any]]:
        """Give who holds app roles of a service principal."""
        return await self._all(f"/servicePrincipals/{resource}/appRoleAssignedTo")

    async def assign(self, principal: str, resource: str, role: str) -> None:
        """Assign an app role of ``resource``. One that is there already is no error."""
        body = {"principalId": principal, "resourceId": resource, "appRoleId": role}
        path = f"/servicePrincipals/{principal}/appRoleAssignments"
        if (await self.principal(resource) or {}).get("appId") != GRAPH_APP_ID:
            path = (
                f"/servicePrincipals/{resource}/appRoleAssignedTo"  # the principal may be a user or a group
            )
        try:
            await self.write("POST", path, body, accepts=(201,))
        except (BadRequest, Conflicting):
            rows = await self.assigned_to(resource) + await self._held_if_principal(principal)
            if not any(_same(row, body) for row in rows):
                raise

    async def write(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, accepts: tuple[int, ...] = (204,)
    ) -> None:
        """Send one write to v1.0."""
        words = f"{method} {path.split('/')[1]}"
        await self._send(words, f"{self._base_url}/v1.0{path}", body or {}, method=method, accepts=accepts)

    async def _held_if_principal(self, object_id: str) -> list[dict[str, Any]]:
        try:
            return await self.roles_of(object_id)
        except NotFound:  # a user or a group
            return []

    async def _found(self, path: str) -> dict[str, Any] | None:
        try:
            return await self._read(
                f"read {path.split('/')[1].split('(', maxsplit=1)[0]}", Beta(f"{self._base_url}/v1.0{path}")
            )
        except NotFound:
            return None

    async def _all(self, path: str) -> list[dict[str, Any]]:
        words = f"list {path.rsplit('/', 1)[-1].split('?', maxsplit=1)[0]}"
        return await self._read_all(words, Beta(f"{self._base_url}/v1.0{path}"), paced=False)


def _same(row: dict[str, Any], body: dict[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in body.items())
