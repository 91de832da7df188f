"""
The one Azure role assignment of the script, through Resource Manager (Microsoft.Authorization/roleAssignments 2022-04-01).

Role and why: facts azure-platform §2.2 and §5.2 (Microsoft's Sentinel documentation through third parties).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from clients.arm import ArmCalls
from clients.errors import Conflicting, Malformed

if TYPE_CHECKING:
    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

SENTINEL_APP_ID: Final = "98785600-1bb7-4fb9-b9fa-19afe2c8a360"  # Azure Security Insights
AUTOMATION_CONTRIBUTOR: Final = "f4c81013-99ee-4d62-a7ee-b3f1f648599a"
_NAMES: Final = uuid.UUID("5d0c51de-6a40-4c0a-8d3c-9a6a1a0f3c11")
_TYPE: Final = "providers/Microsoft.Authorization/roleAssignments"


class AzureRoles(ArmCalls):
    """Microsoft Sentinel Automation Contributor for one principal on one resource group. Raises: ClientError."""

    service = "Resource Manager"
    api_version = "2022-04-01"

    def __init__(
        self, base_url: str, credential: AsyncTokenCredential, http: httpx.AsyncClient, group: str
    ) -> None:
        super().__init__(base_url, credential, http)
        self._group = group.rstrip("/")
        self._subscription = "/".join(self._group.split("/")[:3])

    async def held_by(self, principal: str) -> list[str]:
        """Give the ids of assignments of this role to ``principal`` at this very group."""
        query = {"$filter": f"principalId eq '{principal}'"}
        answer = await self._read("GET", f"{self._group}/{_TYPE}", "list role assignments", query)
        rows = answer.get("value")
        if not isinstance(rows, list):
            raise Malformed(self.service, "role assignments: no list")
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
            # Whether it took effect is looked at afterwards, whatever the answer's body says.
            await self._request("PUT", self.ours(principal), "assign role", {"properties": properties})
        except Conflicting as error:
            if error.code != "RoleAssignmentExists":
                raise

    async def unassign(self, principal: str) -> None:
        """Delete the assignment that this script makes, and no other."""
        await self._request("DELETE", self.ours(principal), "take role back")

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
