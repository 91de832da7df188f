"""The inventory of the directory: read once a day, a page at a time, none of it on the ID Protection quota."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from clients.errors import Malformed
from clients.fields import part, text
from clients.graph.calls import SERVICE, Beta, moment
from clients.graph.directory import PRINCIPAL_FIELDS, Directory
from clients.terms import AppId, ObjectId, ServicePrincipal, is_guid, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_ACTIVITIES: Final = (
    "lastSignInActivity",
    "delegatedClientSignInActivity",
    "delegatedResourceSignInActivity",
    "applicationAuthenticationClientSignInActivity",
    "applicationAuthenticationResourceSignInActivity",
)
_PAGE: Final = 999  # the most that Graph gives of directory objects at once


@dataclass(frozen=True, slots=True)
class HeldCredential:
    """A secret or certificate in the directory. ``ends`` None: Graph named no readable end."""

    kind: str
    ends: datetime | None


@dataclass(frozen=True, slots=True)
class Listed:
    """
    A service principal as a list of all gives it, with what it holds itself.

    ``created`` is not in Graph's schema of a service principal, though it is sent; None where it is not.
    ``credentials`` None: the answer had none of the two lists. Those of its application are not among them.
    """

    principal: ServicePrincipal
    created: datetime | None
    credentials: tuple[HeldCredential, ...] | None


@dataclass(frozen=True, slots=True)
class ListedApplication:
    """An app registration as a list of all gives it; fields as in ``Listed``."""

    application_object_id: str
    app_id: AppId
    created: datetime | None
    credentials: tuple[HeldCredential, ...] | None


@dataclass(frozen=True, slots=True)
class Grant:
    """An application permission held: which role (an id) of which resource (its service principal)."""

    resource_id: ObjectId
    resource_name: str
    role_id: str


class Inventory(Directory):
    """Everything there is in the directory."""

    async def service_principals(self) -> tuple[Listed, ...]:
        """Read all service principals with the credentials they hold themselves. Raises: as ``service_principal``."""
        from msgraph.generated.service_principals.service_principals_request_builder import (
            ServicePrincipalsRequestBuilder as Builder,
        )

        # keyCredentials come in a list only where they are selected (serviceprincipal-list.md).
        fields = [*PRINCIPAL_FIELDS, "createdDateTime", "passwordCredentials", "keyCredentials"]
        query = Builder.ServicePrincipalsRequestBuilderGetQueryParameters(select=fields, top=_PAGE)
        builder = self._graph.service_principals
        found = await self._read_all("list service principals", builder, query, paced=False)
        return tuple(Listed(self._principal(item), moment(item), _credentials(item)) for item in found)

    async def applications(self) -> tuple[ListedApplication, ...]:
        """Read all app registrations with their credentials. Raises: as ``service_principal``."""
        from msgraph.generated.applications.applications_request_builder import (
            ApplicationsRequestBuilder as Builder,
        )

        fields = ["id", "appId", "createdDateTime", "passwordCredentials", "keyCredentials"]
        query = Builder.ApplicationsRequestBuilderGetQueryParameters(select=fields, top=_PAGE)
        found = await self._read_all("list applications", self._graph.applications, query, paced=False)
        if not all(is_guid(item.get("id")) and is_guid(item.get("appId")) for item in found):
            raise Malformed(SERVICE, "application without appId")
        return tuple(
            ListedApplication(item["id"], AppId(item["appId"].lower()), moment(item), _credentials(item))
            for item in found
        )

    async def federated_credentials(self, application_object_id: str) -> int:
        """Count the federated credentials of an app registration: they end by no date. Raises: as ``application``."""
        item = self._graph.applications.by_application_id(application_object_id)
        builder = item.federated_identity_credentials
        return len(await self._read_all("list federated credentials", builder, paced=False))

    async def grants(self, principal: ObjectId) -> tuple[Grant, ...]:
        """Read the application permissions that a service principal holds. Raises: as ``service_principal``."""
        item = self._graph.service_principals.by_service_principal_id(principal)
        found = await self._read_all("list app role assignments", item.app_role_assignments, paced=False)
        if not all(is_guid(one.get("resourceId")) and is_guid(one.get("appRoleId")) for one in found):
            raise Malformed(SERVICE, "app role assignment without resource or role")
        return tuple(
            Grant(
                object_id(one["resourceId"]), text(one, "resourceDisplayName"), str(one["appRoleId"]).lower()
            )
            for one in found
        )

    async def app_roles(self, resource: ObjectId) -> dict[str, str]:
        """Read the permissions that a resource offers: what each role id is called. Raises: as ``service_principal``."""
        from msgraph.generated.service_principals.item.service_principal_item_request_builder import (
            ServicePrincipalItemRequestBuilder as Builder,
        )

        query = Builder.ServicePrincipalItemRequestBuilderGetQueryParameters(select=["id", "appRoles"])
        builder = self._graph.service_principals.by_service_principal_id(resource)
        found = (await self._read("read app roles", builder, query)).get("appRoles")
        if not isinstance(found, list) or not all(isinstance(role, dict) for role in found):
            raise Malformed(SERVICE, "service principal without app roles")
        return {text(role, "id").lower(): text(role, "value") for role in found if text(role, "value")}

    async def sign_in_activities(self) -> dict[AppId, datetime]:
        """
        Read when each application was last used, by appId, from a report that exists in beta only.

        Signing in and being signed in to count alike: who disables an application ends both.
        Raises: Refused (needs AuditLog.Read.All and a licence); Unavailable; Malformed.
        Source: Graph beta "servicePrincipalSignInActivity".
        """
        builder = Beta(f"{self._base_url}/beta/reports/servicePrincipalSignInActivities")
        found = await self._read_all("list sign-in activities", builder, paced=False)
        last: dict[AppId, datetime] = {}
        for item in found:
            moments = [moment(part(item, name), "lastSignInDateTime") for name in _ACTIVITIES]
            known = [one for one in moments if one is not None]
            if is_guid(item.get("appId")) and known:
                app_id = AppId(item["appId"].lower())
                last[app_id] = max(*known, last.get(app_id, known[0]))
        return last


def _credentials(found: Mapping[str, Any]) -> tuple[HeldCredential, ...] | None:
    lists = {kind: found.get(name) for kind, name in _CREDENTIAL_LISTS.items()}
    held = []
    for kind, items in lists.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return None
        held += [HeldCredential(kind, moment(item, "endDateTime")) for item in items]
    return tuple(held)


_CREDENTIAL_LISTS: Final = {"secret": "passwordCredentials", "certificate": "keyCredentials"}
