"""The workspace as Azure Resource Manager shows it: whose GUID it has, and which plan its tables are on."""

from __future__ import annotations

from typing import Final

from clients.arm import ArmCalls
from clients.errors import Malformed

SERVICE: Final = "Resource Manager"
ANALYTICS: Final = "Analytics"


class WorkspaceClient(ArmCalls):
    """
    Reads one workspace and its tables; needs ``Microsoft.OperationalInsights/workspaces/read`` and ``/tables/read``.

    Source of names: ``Microsoft.OperationalInsights/workspaces`` and ``/tables`` 2025-07-01 of Azure's published types.
    """

    service = SERVICE
    api_version = "2025-07-01"

    async def workspace_id(self, resource_id: str) -> str:
        """
        Read the GUID that queries name a workspace by.

        Raises: NotFound; Refused; Throttled, Unavailable, NotSent after the retries; Malformed.
        """
        properties = (await self._read("GET", resource_id, "read workspace")).get("properties")
        found = properties.get("customerId") if isinstance(properties, dict) else None
        if not isinstance(found, str):
            raise Malformed(SERVICE, "workspace without customerId")
        return found.lower()

    async def plans(self, resource_id: str) -> dict[str, str]:
        """Read which plan each table is on: Analytics, Basic or Auxiliary. Raises: as ``workspace_id``."""
        found = (await self._read("GET", f"{resource_id}/tables", "list tables")).get("value")
        if not isinstance(found, list):
            raise Malformed(SERVICE, "list of tables without value")
        plans = {}
        for item in found:
            properties = item.get("properties") if isinstance(item, dict) else None
            if not isinstance(properties, dict) or not isinstance(item.get("name"), str):
                raise Malformed(SERVICE, "table without name or properties")
            plans[item["name"]] = str(properties.get("plan") or "")
        return plans
