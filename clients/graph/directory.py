"""Graph's directory: single service principals and applications, and what kind of identity they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clients.errors import Malformed, NotFound
from clients.fields import text
from clients.graph.calls import SERVICE, Beta, GraphCalls
from clients.terms import (
    MICROSOFT_TENANTS,
    AppId,
    Application,
    Kind,
    ObjectId,
    ServicePrincipal,
    TenantId,
    is_guid,
    object_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PRINCIPAL_FIELDS: Final = [
    "id",
    "appId",
    "displayName",
    "servicePrincipalType",
    "appOwnerOrganizationId",
    "accountEnabled",
    "signInAudience",
]


class Directory(GraphCalls):
    """Service principals and applications, one at a time."""

    async def service_principal(self, principal: ObjectId) -> ServicePrincipal:
        """
        Read one service principal by its object id.

        Raises: NotFound; Refused (needs Application.Read.All); Unavailable.
        """
        # Without $select: agentIdentityBlueprintId is declared by a subtype, and selecting what the type of the set
        # does not declare is refused.
        builder = self._graph.service_principals.by_service_principal_id(principal)
        return self._principal(await self._read("read service principal", builder))

    async def service_principal_by_app_id(self, app_id: AppId) -> ServicePrincipal:
        """Read the service principal of an application in this tenant. Raises: as ``service_principal``."""
        builder = self._graph.service_principals_with_app_id(app_id)
        return self._principal(await self._read("read service principal by appId", builder))

    async def agent_user(self, user: ObjectId) -> ServicePrincipal:
        """
        Read a user that stands for an agent identity; ``parent`` is that agent identity's object id.

        It is no service principal, and no lever reaches it: it is read to name what can be contained.

        Permission: User.Read.All. The page names User.ReadBasic.All as the least; whether that shows the parent is
        not documented, and without a parent the answer is Malformed. Raises: NotFound, also for a user that is none;
        Refused; Unavailable; Malformed.
        Source: Graph v1.0 "user" (``identityParentId`` is null for everybody else), "Get agentUser".
        """
        fields = "id,displayName,accountEnabled,identityParentId"
        builder = Beta(f"{self._base_url}/v1.0/users/{object_id(user)}?$select={fields}")
        found = await self._read("read agent user", builder)
        if not is_guid(found.get("id")):
            raise Malformed(SERVICE, "user without id")
        parent, enabled = found.get("identityParentId"), found.get("accountEnabled")
        if parent is None and not text(found, "@odata.type").endswith(".agentUser"):
            raise NotFound(SERVICE, "read agent user: a user that stands for no agent identity")
        if not isinstance(parent, str) or not is_guid(parent):
            raise Malformed(SERVICE, "agent user without parent")
        return ServicePrincipal(
            object_id=object_id(found["id"]),
            app_id=AppId(""),
            display_name=text(found, "displayName"),
            kind=Kind.AGENT_USER,
            owner_tenant=None,
            account_enabled=enabled if isinstance(enabled, bool) else None,
            parent=object_id(parent),
        )

    async def application(self, application_object_id: str) -> Application:
        """
        Read an app registration by its own object id, only to recognise an id given by mistake.

        Raises: NotFound; Refused; Unavailable.
        """
        builder = self._graph.applications.by_application_id(application_object_id)
        found = await self._read("read application", builder)
        if not is_guid(found.get("appId")) or not is_guid(found.get("id")):
            raise Malformed(SERVICE, "application without appId")
        return Application(found["id"], AppId(found["appId"]), text(found, "displayName"))

    async def set_enabled(self, principal: ServicePrincipal, enabled: bool) -> None:
        """
        Enable or disable a service principal. Never retried; nothing else of it changes.

        A disabled one gets no new tokens (AADSTS7000112); what it holds runs on, on Graph until continuous access
        evaluation ends it. Agent identities and blueprint principals go through paths of their own, whose permissions
        are narrower (AgentIdentity.EnableDisable.All, AgentIdentityBlueprintPrincipal.EnableDisable.All).

        Raises: Refused; NotFound; BadRequest; Throttled; NotSent; OutcomeUnknown (look at ``account_enabled``).
        Source: Graph v1.0 "Update servicePrincipal", permission file.
        """
        cast = _CASTS.get(principal.kind, "")
        url = f"{self._base_url}/v1.0/servicePrincipals{cast}/{object_id(principal.object_id)}"
        what = "enable service principal" if enabled else "disable service principal"
        await self._send(what, url, {"accountEnabled": enabled}, method="PATCH")

    def _principal(self, found: Mapping[str, Any]) -> ServicePrincipal:
        if not is_guid(found.get("id")) or not is_guid(found.get("appId")):
            raise Malformed(SERVICE, "service principal without id or appId")
        stated = found.get("appOwnerOrganizationId")
        owner = TenantId(stated.lower()) if isinstance(stated, str) and stated else None
        enabled = found.get("accountEnabled")
        return ServicePrincipal(
            object_id=object_id(found["id"]),
            app_id=AppId(found["appId"].lower()),
            display_name=text(found, "displayName"),
            kind=_kind(found, owner, self._tenant),
            owner_tenant=owner,
            account_enabled=enabled if isinstance(enabled, bool) else None,
            parent=text(found, "agentIdentityBlueprintId").lower(),
        )


_CASTS: Final = {
    Kind.AGENT_IDENTITY: "/microsoft.graph.agentIdentity",
    Kind.AGENT_BLUEPRINT: "/microsoft.graph.agentIdentityBlueprintPrincipal",
}


def _kind(found: Mapping[str, Any], owner: TenantId | None, tenant: TenantId) -> Kind:
    """Tell the kind of identity; the order matters, ownership by Microsoft comes first."""
    type_name, principal_type = text(found, "@odata.type"), text(found, "servicePrincipalType")
    if owner in MICROSOFT_TENANTS:
        return Kind.MICROSOFT
    if type_name.endswith(".agentIdentityBlueprintPrincipal"):
        return Kind.AGENT_BLUEPRINT
    if type_name.endswith(".agentIdentity") or principal_type == "ServiceIdentity":
        return Kind.AGENT_IDENTITY
    if principal_type == "ManagedIdentity":
        return Kind.MANAGED_IDENTITY
    if principal_type == "Application" and owner is not None:
        single = owner == tenant and found.get("signInAudience") == "AzureADMyOrg"
        if single:
            return Kind.APPLICATION
        return Kind.MULTITENANT_APPLICATION if owner == tenant else Kind.FOREIGN_APPLICATION
    return Kind.OTHER
