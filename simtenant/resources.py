"""
What agents call besides Graph: a SharePoint-like and a Key-Vault-like API that check tokens and leave audit rows.

Only what a log reader can tell apart is modelled: who called what from where, and whether it was allowed. Rows have
the columns of ``OfficeActivity`` and ``AZKVAuditLogs`` (``facts/log-tables.md`` §6 and §7). Neither service honours
continuous access evaluation for workloads, so a token works here until it expires, whatever its principal's risk.
"""

import re
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from simtenant import permissions
from simtenant.entra import client_ip, client_user_agent
from simtenant.graph import GraphService
from simtenant.graph_wire import Call, GraphRefusedError, Operation
from simtenant.population import SITES, VAULTS, made_up_id
from simtenant.tenant import Principal, Tenant
from simtenant.tokens import Claims, InvalidTokenError

SHAREPOINT_AUDIENCE: Final = "https://contoso.sharepoint.com"
VAULT_AUDIENCE: Final = "https://vault.azure.net"

_OBJECT_ID_CLAIM: Final = "http://schemas.microsoft.com/identity/claims/objectidentifier"
_VERBS: Final = {"secrets": "Secret", "keys": "Key", "certificates": "Certificate"}
_MAIL: Final = frozenset({"Mail.Read", "Mail.ReadWrite"})
_CONTACTS: Final = frozenset({"Contacts.Read", "Contacts.ReadWrite"})
_FILES: Final = frozenset({"Files.Read.All", "Files.ReadWrite.All", "Sites.Read.All", "Sites.ReadWrite.All"})
_SITE_ROLES: Final = frozenset({"Sites.Read.All", "Sites.ReadWrite.All"})
# Permissions from memory; outside the contracts, and no rule depends on them.
_CONTENT: Final[Mapping[str, frozenset[str]]] = {
    "/users/{id}/messages": _MAIL,
    "/users/{id}/mailFolders/inbox/messages": _MAIL,
    "/users/{id}/contacts": _CONTACTS,
    "/users/{id}/contactFolders": _CONTACTS,
    "/users/{id}/manager": permissions.USER_READ,
    "/users/{id}/memberOf": permissions.USER_READ,
    "/groups/{id}/members": permissions.GROUP_READ,
    "/devices/{id}/registeredOwners": permissions.DEVICE_READ,
    "/applications/{id}/owners": permissions.APPLICATION_READ,
    "/servicePrincipals/{id}/memberOf": permissions.APPLICATION_READ,
    "/drives/{id}/root/delta": _FILES,
    "/drives/{id}/items/root/content": _FILES,
    "/sites/{id}/lists": _SITE_ROLES,
    "/sites/{id}/drive/root/children": _SITE_ROLES,
}
_HTTP_WORDS: Final = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


class VaultRefusedError(Exception):
    """A vault refuses a call; carries its status and code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Vault:
    """
    One key vault.

    ``contents`` maps ``secrets``, ``keys`` and ``certificates`` to the names in it. ``readers`` holds the object ids
    that may read (``None``: every principal of the tenant, the over-permissive vault that makes a story possible).
    """

    name: str
    contents: Mapping[str, tuple[str, ...]]
    readers: set[str] | None = None


class ContentGraph(GraphService):
    """
    The part of Graph that holds content: mail, contacts, drives, sites, memberships.

    Every id exists here, so an agent always finds something to read; only of the sites some are gone (404) or closed
    (403), which gives a flaky agent its ordinary noise. Token, permission, challenge and activity log are those of
    ``GraphService``; it answers paths that service does not know, so its routes must be registered before.
    """

    def _table(self) -> tuple[Operation, ...]:
        return tuple(
            Operation("GET", template, roles, self._site if template.startswith("/sites/") else self._content)
            for template, roles in _CONTENT.items()
        )

    async def _content(self, call: Call) -> web.Response:
        return web.json_response(
            {"@odata.context": f"https://graph.microsoft.com/{call.version}", "value": []}
        )

    async def _site(self, call: Call) -> web.Response:
        site = call.ids.get("id", "")
        lot = zlib.crc32(site.encode()) % 100
        if site not in SITES and lot < 10:
            raise GraphRefusedError(404, "itemNotFound", "The resource could not be found.")
        if site not in SITES and lot < 13:
            raise GraphRefusedError(403, "accessDenied", "Access denied.")
        return await self._content(call)


class Resources:
    """
    Sites and vaults of the tenant over HTTP, under ``/sharepoint/sites/...`` and ``/vaults/...``, and Graph's content.

    The address in a row is the caller's ``X-Sim-Client-IP``, else the usual one of its principal: over loopback all
    calls would look alike.
    """

    def __init__(self, tenant: Tenant, *, vaults: Iterable[Vault] | None = None) -> None:
        self.tenant = tenant
        self.sites = set(SITES)
        known = _usual_vaults() if vaults is None else vaults
        self.vaults = {vault.name: vault for vault in known}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; to be registered before those of ``simtenant.graph``, as ``extra_routes`` are."""
        content = ContentGraph(self.tenant)
        graph = [
            web.get(f"/{{version:v1\\.0|beta}}{{tail:{re.sub(r'{id}', '[^/]+', template)}}}", content.answer)
            for template in _CONTENT
        ]
        site = "/sharepoint/sites/{site}/files"
        kind = "/vaults/{vault}/{kind:secrets|keys|certificates}"
        return [
            *graph,
            web.get(site, self._list_files),
            web.get(site + "/{file:.+}", self._read_file),
            web.get(kind, self._list_items),
            web.get(kind + "/{name}", self._get_item),
            web.get(kind + "/{name}/{version}", self._get_item),
        ]

    # -- SharePoint ----------------------------------------------------------------------------------------

    async def _list_files(self, request: web.Request) -> web.Response:
        return self._visit(request, "ListViewed", "")

    async def _read_file(self, request: web.Request) -> web.Response:
        return self._visit(request, "FileAccessed", request.match_info["file"])

    def _visit(self, request: web.Request, operation: str, file: str) -> web.Response:
        try:
            claims = self.tenant.tokens.validate(request.headers.get("Authorization"), SHAREPOINT_AUDIENCE)
        except InvalidTokenError as error:
            # Nobody is known yet, so nothing reaches the audit log.
            body = {
                "error": {"code": "-2147024891, System.UnauthorizedAccessException", "message": str(error)}
            }
            return web.json_response(body, status=401, headers={"WWW-Authenticate": 'Bearer realm="contoso"'})
        site = request.match_info["site"]
        if site not in self.sites:
            return web.json_response(
                {"error": {"code": "itemNotFound", "message": f"Site {site} does not exist"}}, status=404
            )
        self.tenant.logs.write("OfficeActivity", self._office_row(request, claims, operation, site, file))
        if file:
            return web.Response(body=b"%PDF-1.7 simulated", content_type="application/octet-stream")
        names = [{"name": f"invoice-{number:03d}.pdf"} for number in range(40)]
        return web.json_response({"value": names})

    def _office_row(
        self, request: web.Request, claims: Claims, operation: str, site: str, file: str
    ) -> dict[str, object]:
        principal = self._principal(claims)
        url = f"https://contoso.sharepoint.com/sites/{site}"
        return {
            "TimeGenerated": self.tenant.clock.now(),
            "OfficeId": str(uuid.uuid4()),
            "Operation": operation,
            "RecordType": "SharePointFileOperation" if file else "SharePointListOperation",
            "OfficeWorkload": "SharePoint",
            "ResultStatus": "Succeeded",
            # An app-only caller shows up as this account; who it was is in the app ids and the access context.
            "UserId": "app@sharepoint",
            "UserKey": "i:0i.t|00000003-0000-0ff1-ce00-000000000000|app@sharepoint",
            "UserType": "Application",
            "OrganizationId": self.tenant.settings.tenant_id,
            "ClientIP": client_ip(request, principal),
            "UserAgent": client_user_agent(request, principal),
            "Site_Url": f"{url}/",
            "SourceRelativeUrl": "Shared Documents",
            "SourceFileName": file,
            "SourceFileExtension": file.rpartition(".")[2] if "." in file else "",
            "OfficeObjectId": f"{url}/Shared Documents/{file}".rstrip("/"),
            "ItemType": "File" if file else "List",
            "EventSource": "SharePoint",
            "ClientAppId": claims.app_id,
            "AppId": claims.app_id,
            "ApplicationId": claims.app_id,
            "AppAccessContext": {
                "ClientAppId": claims.app_id,
                "ClientAppName": principal.display_name,
                "UniqueTokenId": claims.uti,
                "IssuedAtTime": claims.issued_at.strftime("%Y-%m-%dT%H:%M:%S"),
                "CorrelationId": str(uuid.uuid4()),
            },
            "SourceSystem": "OfficeActivityManager",
        }

    # -- Key Vault -----------------------------------------------------------------------------------------

    async def _list_items(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        operation = f"{_VERBS[kind]}List"
        try:
            claims, vault = self._admit(request, operation)
        except VaultRefusedError as refused:
            return self._refusal(refused)
        self._log_vault(request, operation, 200, claims)
        items = [
            {"id": f"{_vault_url(vault.name)}/{kind}/{name}", "attributes": {"enabled": True}}
            for name in vault.contents.get(kind, ())
        ]
        return web.json_response({"value": items, "nextLink": None})

    async def _get_item(self, request: web.Request) -> web.Response:
        kind, name = request.match_info["kind"], request.match_info["name"]
        operation = f"{_VERBS[kind]}Get"
        try:
            claims, vault = self._admit(request, operation)
        except VaultRefusedError as refused:
            return self._refusal(refused)
        self._log_vault(request, operation, 200, claims)
        return web.json_response(
            {
                "id": f"{_vault_url(vault.name)}/{kind}/{name}/{_version(vault.name, name)}",
                "value": f"simulated-{name}",
                "attributes": {"enabled": True},
            }
        )

    def _admit(self, request: web.Request, operation: str) -> tuple[Claims, Vault]:
        """
        Check token, vault, access and existence, and log a refusal.

        Raises: VaultRefusedError.
        """
        authorization = request.headers.get("Authorization")
        try:
            claims = self.tenant.tokens.validate(authorization, VAULT_AUDIENCE)
        except InvalidTokenError as error:
            # The SDKs call without a token first, to learn from the challenge where to get one; real vaults log
            # that as an operation of its own, and a rule that counts denials must leave it out.
            self._log_vault(request, "Authentication", 401, None)
            why = (
                "AKV10000: Request is missing a Bearer or PoP token."
                if authorization is None
                else f"AKV10032: {error}"
            )
            raise VaultRefusedError(401, "Unauthorized", why) from error
        vault = self.vaults.get(request.match_info["vault"])
        if vault is None:
            # A real vault that does not exist has no host name; this is the nearest a path can come to that.
            raise VaultRefusedError(404, "VaultNotFound", "There is no such vault.")
        if vault.readers is not None and claims.object_id not in vault.readers:
            self._log_vault(request, operation, 403, claims)
            raise VaultRefusedError(
                403, "Forbidden", "Caller is not authorized to perform action on resource."
            )
        kind, name = request.match_info["kind"], request.match_info.get("name")
        if name is not None and name not in vault.contents.get(kind, ()):
            self._log_vault(request, operation, 404, claims)
            raise VaultRefusedError(
                404, f"{_VERBS[kind]}NotFound", f"{name} was not found in this key vault."
            )
        return claims, vault

    def _refusal(self, refused: VaultRefusedError) -> web.Response:
        body = {"error": {"code": refused.code, "message": str(refused)}}
        headers = {}
        if refused.status == 401:
            authority = f"https://login.microsoftonline.com/{self.tenant.settings.tenant_id}"
            headers["WWW-Authenticate"] = f'Bearer authorization="{authority}", resource="{VAULT_AUDIENCE}"'
        return web.json_response(body, status=refused.status, headers=headers)

    def _log_vault(self, request: web.Request, operation: str, status: int, claims: Claims | None) -> None:
        vault = request.match_info["vault"]
        path = request.path.removeprefix(f"/vaults/{vault}")
        url = _vault_url(vault) + path
        principal = None if claims is None else self._principal(claims)
        identity: dict[str, Any] = {}
        if claims is not None:
            identity = {
                "claim": {
                    "appid": claims.app_id,
                    "idtyp": "app",
                    "oid": claims.object_id,
                    _OBJECT_ID_CLAIM: claims.object_id,
                }
            }
        subscription = self.tenant.settings.workspace_resource_id.split("/")[2]
        name = request.match_info.get("name")
        self.tenant.logs.write(
            "AZKVAuditLogs",
            {
                "TimeGenerated": self.tenant.clock.now(),
                "OperationName": operation,
                "OperationVersion": "7.4",
                "ResultType": "Success",
                "ResultSignature": _HTTP_WORDS[status],
                "ResultDescription": "" if status == 200 else _HTTP_WORDS[status],
                "HttpStatusCode": status,
                "CorrelationId": str(uuid.uuid4()),
                "CallerIpAddress": "" if principal is None else client_ip(request, principal),
                "ClientInfo": request.headers.get("User-Agent", "")
                if principal is None
                else principal.user_agent,
                "Identity": identity,
                "Id": url if name is None else f"{url}/{_version(vault, name)}",
                "RequestUri": f"{url}?api-version=7.4",
                "IsRbacAuthorized": status not in {401, 403},
                "IsAddressAuthorized": True,
                "Tlsversion": "TLS1_3",
                "DurationMs": 12,
                "_ResourceId": vault_resource_id(subscription, vault),
                "_SubscriptionId": subscription,
                "SourceSystem": "Azure",
            },
        )

    def _principal(self, claims: Claims) -> Principal:
        return self.tenant.principals[claims.object_id]


def vault_resource_id(subscription: str, vault: str) -> str:
    """Return the ARM id of a vault as diagnostic logs write it: in lower case."""
    return f"/subscriptions/{subscription}/resourcegroups/rg-apps/providers/microsoft.keyvault/vaults/{vault}"


def _usual_vaults() -> list[Vault]:
    return [
        Vault(name, {"secrets": secrets, "keys": ("signing",), "certificates": ("tls",)})
        for name, secrets in VAULTS.items()
    ]


def _vault_url(vault: str) -> str:
    return f"https://{vault}.vault.azure.net"


def _version(vault: str, name: str) -> str:
    return made_up_id(f"{vault}/{name}/version").replace("-", "")
