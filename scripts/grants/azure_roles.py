"""
The one Azure role assignment of the script, through Resource Manager (Microsoft.Authorization/roleAssignments 2022-04-01).

Role and why: facts azure-platform §2.2 and §5.2 (Microsoft's Sentinel documentation through third parties).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from azure.core.exceptions import AzureError, ClientAuthenticationError

from clients.errors import (
    Conflicting,
    Malformed,
    NotSent,
    OutcomeUnknown,
    Refused,
    Unavailable,
    error_code,
    from_status,
)

if TYPE_CHECKING:
    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

SENTINEL_APP_ID: Final = "98785600-1bb7-4fb9-b9fa-19afe2c8a360"  # Azure Security Insights
AUTOMATION_CONTRIBUTOR: Final = "f4c81013-99ee-4d62-a7ee-b3f1f648599a"
_SCOPE: Final = "https://management.azure.com/.default"
_SERVICE: Final = "Resource Manager"
_VERSION: Final = "2022-04-01"
_NAMES: Final = uuid.UUID("5d0c51de-6a40-4c0a-8d3c-9a6a1a0f3c11")
_SECONDS: Final = 40.0


class AzureRoles:
    """Microsoft Sentinel Automation Contributor for one principal on one resource group. Raises: ClientError."""

    def __init__(
        self, base_url: str, credential: AsyncTokenCredential, http: httpx.AsyncClient, group: str
    ) -> None:
        self._base_url, self._credential, self._http = base_url, credential, http
        self._group = group.rstrip("/")
        self._subscription = "/".join(self._group.split("/")[:3])

    async def held_by(self, principal: str) -> list[str]:
        """Give the ids of assignments of this role to ``principal`` at this very group."""
        query = {"$filter": f"principalId eq '{principal}'"}
        answer = await self._call("GET", f"{self._group}/{_TYPE}", query=query)
        rows = answer.get("value")
        if not isinstance(rows, list):
            raise Malformed(_SERVICE, "role assignments: no list")
        return [str(row["id"]) for row in rows if self._is_it(row, principal)]

    def ours(self, principal: str) -> str:
        """Give the id of the assignment that this script makes: always the same for one principal and group."""
        name = uuid.uuid5(_NAMES, f"{self._group}/{AUTOMATION_CONTRIBUTOR}/{principal}".lower())
        return f"{self._group}/{_TYPE}/{name}"

    async def assign(self, principal: str) -> None:
        """Make the assignment. One of the same role under another name is no error."""
        properties = {
            "roleDefinitionId": self._role(),
            "principalId": principal,
            "principalType": "ServicePrincipal",
        }
        try:
            await self._call("PUT", self.ours(principal), body={"properties": properties})
        except Conflicting as error:
            if error.code != "RoleAssignmentExists":
                raise

    async def unassign(self, principal: str) -> None:
        """Delete the assignment that this script makes, and no other."""
        await self._call("DELETE", self.ours(principal))

    def _role(self) -> str:
        return (
            f"{self._subscription}/providers/Microsoft.Authorization/roleDefinitions/{AUTOMATION_CONTRIBUTOR}"
        )

    def _is_it(self, row: dict[str, Any], principal: str) -> bool:
        held = row.get("properties") or {}
        return (
            str(held.get("principalId")).lower() == principal.lower()
            and str(held.get("roleDefinitionId")).lower().endswith(AUTOMATION_CONTRIBUTOR)
            and str(held.get("scope")).lower() == self._group.lower()
        )

    async def _token(self) -> str:
        try:
            return (await self._credential.get_token(_SCOPE)).token
        except ClientAuthenticationError as error:
            raise Refused("Entra", "no token for Resource Manager") from error
        except AzureError as error:
            raise NotSent("Entra", "not reached for a token for Resource Manager") from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        import httpx  # noqa: PLC0415 (as the clients do)

        write = method != "GET"
        token = await self._token()
        try:
            answer = await self._http.request(
                method,
                f"{self._base_url}{path}",
                params={"api-version": _VERSION, **(query or {})},
                json=body,
                headers={"Authorization": f"Bearer {token}"},
                timeout=_SECONDS,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(_SERVICE, "not reached") from error
        except httpx.HTTPError as error:
            raise (OutcomeUnknown if write else Unavailable)(_SERVICE, "no answer") from error
        if answer.status_code not in (200, 201, 204):
            words = f"{method} role assignment"
            raise from_status(
                _SERVICE,
                words,
                answer.status_code,
                code=error_code(answer),
                headers=dict(answer.headers),
                write=write,
            )
        if answer.status_code == 204:
            return {}
        try:
            found = answer.json()
        except ValueError as error:
            raise (OutcomeUnknown if write else Malformed)(_SERVICE, "unreadable answer") from error
        if not isinstance(found, dict):
            raise Malformed(_SERVICE, "role assignment: no object")
        return found


_TYPE: Final = "providers/Microsoft.Authorization/roleAssignments"
