"""The simulated directory's people: users, groups, devices and roles."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from simtenant import permissions
from simtenant.graph_wire import Call, Json, Operation, json_answer, not_found
from simtenant.odata import narrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simtenant.tenant import Tenant

# What User.ReadBasic.All shows (permissions reference).
_BASIC: Final = frozenset({"@odata.type", "id", "displayName", "userPrincipalName", "mail"})
Pager = Callable[..., web.Response]


class People:
    """
    Users, groups, devices and roles: something for an agent that enumerates the directory to find.

    The people are made up from the tenant's seed. Reading only.
    """

    _SIZES: Final = {"users": 120, "groups": 40, "devices": 60}

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._page: Pager | None = None
        rng = random.Random(tenant.settings.seed + 2)
        self._rows: dict[str, list[Json]] = {
            name: [self._row(name, number, rng) for number in range(size)]
            for name, size in self._SIZES.items()
        }

    def operations(self, page: Pager) -> Iterable[Operation]:
        """Yield the table rows of the directory's collections."""
        self._page = page
        for name, roles, one in (
            ("users", permissions.USER_READ, permissions.USER_GET),
            ("groups", permissions.GROUP_READ, permissions.GROUP_READ),
            ("devices", permissions.DEVICE_READ, permissions.DEVICE_READ),
        ):
            yield Operation("GET", f"/{name}", roles, self._list)
            yield Operation("GET", f"/{name}/{{id}}", one, self._get)
        yield Operation("GET", "/directoryRoles", permissions.DIRECTORY_ROLE_READ, self._empty)
        yield Operation(
            "GET", "/roleManagement/directory/roleDefinitions", permissions.ROLE_DEFINITION_READ, self._empty
        )

    def user(self, object_id: str) -> Json:
        """Return a user by object id; one that is only known as an owner gets a made-up name."""
        for row in self._all("users"):
            if row["id"] == object_id:
                return row
        return {"id": object_id, "displayName": "Owner", "userPrincipalName": "owner@example.com"}

    async def _list(self, call: Call) -> web.Response:
        return self._paged(call, self._all(call.path.strip("/").lower()))

    async def _get(self, call: Call) -> web.Response:
        collection, named = call.path.strip("/").split("/")
        select = [name.strip() for name in call.request.query.get("$select", "").split(",") if name.strip()]
        for row in self._all(collection.lower()):
            if named in {row["id"], row.get("userPrincipalName")}:
                if collection.lower() == "users" and not permissions.USER_READ & call.claims.roles:
                    row = {name: value for name, value in row.items() if name in _BASIC}
                context = f"https://graph.microsoft.com/{call.version}/$metadata#{collection}/$entity"
                return json_answer({"@odata.context": context, **narrow(row, select)}, call)
        raise not_found(named)

    def _all(self, collection: str) -> list[Json]:
        """Give a collection; the users of agents are made by the tenant, not by the seed."""
        rows = self._rows[collection]
        return [*rows, *self._tenant.agent_users] if collection == "users" else rows

    async def _empty(self, call: Call) -> web.Response:
        return self._paged(call, [])

    def _paged(self, call: Call, rows: Sequence[Json]) -> web.Response:
        if self._page is None:
            raise RuntimeError("operations() was not asked for")
        names = frozenset({"id", "displayName", "userPrincipalName", "accountEnabled"})
        return self._page(call, rows, filterable=names, max_top=999, directory=True)

    def _row(self, collection: str, number: int, rng: random.Random) -> Json:
        object_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        match collection:
            case "users":
                return {
                    "id": object_id,
                    "displayName": f"User {number:03}",
                    "userPrincipalName": f"user{number:03}@example.com",
                    "mail": f"user{number:03}@example.com",
                    "accountEnabled": True,
                }
            case "groups":
                return {
                    "id": object_id,
                    "displayName": f"Group {number:02}",
                    "mailEnabled": False,
                    "securityEnabled": True,
                    "groupTypes": [],
                }
            case _:
                return {
                    "id": object_id,
                    "deviceId": object_id,
                    "displayName": f"LAPTOP-{number:03}",
                    "accountEnabled": True,
                    "operatingSystem": "Windows",
                }
