"""
The Log Analytics workspace as Azure Resource Manager shows it: the workspace itself, and its tables with their plans.

Names of properties: ``Microsoft.OperationalInsights/workspaces`` and ``/tables`` 2025-07-01, Azure's published types. Of
what the real service answers only ``id``, ``name``, ``type`` and the properties named here are given.
"""

from typing import Any

from aiohttp import web

from simtenant.sentinel import admitted, arm
from simtenant.tenant import Tenant
from workbench.engine import LogEngine


class ArmWorkspace:
    """``allowed`` holds the object ids that may read it (``None``: everybody); ``plans`` those tables on another plan."""

    def __init__(self, tenant: Tenant, engine: LogEngine) -> None:
        self.tenant, self.engine = tenant, engine
        self.allowed: set[str] | None = None
        self.plans: dict[str, str] = {}
        self.customer_id = tenant.settings.workspace_id

    def routes(self) -> list[web.RouteDef]:
        """Return the ARM routes; matching ignores the case of provider segments, as ARM does."""
        root = (
            "/subscriptions/{subscription}/{rg:(?i:resourceGroups)}/{group}/providers"
            "/{oi:(?i:Microsoft\\.OperationalInsights)}/workspaces/{workspace}"
        )
        return [web.get(root, arm(self._get)), web.get(f"{root}/tables", arm(self._list_tables))]

    async def _get(self, request: web.Request) -> web.Response:
        admitted(self.tenant, self.allowed, request)
        where = self.tenant.settings.workspace_resource_id
        body: dict[str, Any] = {
            "id": where,
            "name": where.rpartition("/")[2],
            "type": "Microsoft.OperationalInsights/workspaces",
            "properties": {"customerId": self.customer_id, "provisioningState": "Succeeded"},
        }
        return web.json_response(body)

    async def _list_tables(self, request: web.Request) -> web.Response:
        admitted(self.tenant, self.allowed, request)
        where = self.tenant.settings.workspace_resource_id
        value = [
            {
                "id": f"{where}/tables/{table}",
                "name": table,
                "type": "Microsoft.OperationalInsights/workspaces/tables",
                "properties": {"plan": self.plans.get(table, "Analytics"), "provisioningState": "Succeeded"},
            }
            for table in self.engine.tables()
        ]
        return web.json_response({"value": value})
