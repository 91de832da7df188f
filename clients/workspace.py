"""The workspace as Azure Resource Manager shows it: whose GUID it has, and which plan its tables are on."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from clients.arm import ArmCalls
from clients.errors import Malformed

if TYPE_CHECKING:
    from datetime import datetime

SERVICE: Final = "Resource Manager"
ANALYTICS: Final = "Analytics"


@dataclass(frozen=True, slots=True)
class Workspace:
    """``workspace_id`` is the GUID that queries name; ``there`` is the service's clock when it answered, if it said."""

    workspace_id: str
    there: datetime | None


class WorkspaceClient(ArmCalls):
    """
    Reads one workspace and its tables; needs ``Microsoft.OperationalInsights/workspaces/read`` and ``/tables/read``.

    Source of names: ``Microsoft.OperationalInsights/workspaces`` and ``/tables`` 2025-07-01 of Azure's published types.
    """

    service = SERVICE
    api_version = "2025-07-01"

    async def workspace(self, resource_id: str) -> Workspace:
        """Read the workspace. Raises: NotFound; Refused; Throttled, Unavailable, NotSent after the retries; Malformed."""
        answer = await self._answer("GET", resource_id, "read workspace")
        properties = self._object(answer, "read workspace").get("properties")
        found = properties.get("customerId") if isinstance(properties, dict) else None
        if not isinstance(found, str):
            raise Malformed(SERVICE, "workspace without customerId")
        return Workspace(found.lower(), _time(answer.headers.get("Date", "")))

    async def plans(self, resource_id: str) -> dict[str, str]:
        """Read which plan each table is on: Analytics, Basic or Auxiliary. Raises: as ``workspace``."""
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


def _time(text: str) -> datetime | None:
    """Parse the Date header; None where it is none. The header has whole seconds."""
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
