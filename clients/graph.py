"""
Microsoft Graph, through msgraph-sdk: service principals, ID Protection, Conditional Access policies.

Callers get our types (``clients/terms.py``) or an error of ``clients/errors.py``; paging and
throttling end here. The SDK is imported when the client is built, not when this module is.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from clients import retry
from clients.errors import (
    ClientError,
    Malformed,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Refused,
    Unavailable,
    error_code,
    from_status,
)
from clients.fields import part, text
from clients.policies import policy_from_graph
from clients.terms import (
    MICROSOFT_TENANTS,
    AppId,
    Application,
    Kind,
    ObjectId,
    Policy,
    Risk,
    RiskLevel,
    ServicePrincipal,
    TenantId,
    is_guid,
    object_id,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

T = TypeVar("T")
SERVICE: Final = "Microsoft Graph"
SCOPE: Final = "https://graph.microsoft.com/.default"
_READ_WITHIN: Final = timedelta(seconds=20)
# A write that takes longer counts as an unknown outcome. Shorter than the time after which
# ``response/pulling.py`` may send again, so that no request of ours is still under way then.
_WRITE_WITHIN: Final = timedelta(seconds=40)
_ACTIVITIES: Final = (
    "lastSignInActivity",
    "delegatedClientSignInActivity",
    "delegatedResourceSignInActivity",
    "applicationAuthenticationClientSignInActivity",
    "applicationAuthenticationResourceSignInActivity",
)
_PAGE: Final = 999  # the most that Graph gives of directory objects at once
_PRINCIPAL_FIELDS: Final = [
    "id",
    "appId",
    "displayName",
    "servicePrincipalType",
    "appOwnerOrganizationId",
    "accountEnabled",
    "signInAudience",
]


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


class GraphClient:
    """
    The Graph calls that containment needs; one instance a process.

    ``turn`` is awaited before every ID Protection and Conditional Access read: the tenant allows about
    one such request a second, all applications together, without Retry-After (docs throttling-limits).
    """

    def __init__(
        self,
        base_url: str,
        credential: AsyncTokenCredential,
        http: httpx.AsyncClient,
        tenant_id: str,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        from kiota_authentication_azure.azure_identity_authentication_provider import (
            AzureIdentityAuthenticationProvider,
        )
        from msgraph.graph_request_adapter import GraphRequestAdapter
        from msgraph.graph_service_client import GraphServiceClient

        # Without allowed hosts kiota would hand the token to any host it is redirected to.
        provider = AzureIdentityAuthenticationProvider(
            credential, scopes=[SCOPE], allowed_hosts=[urlsplit(base_url).hostname or ""]
        )
        # A client that is passed in is used as it is: no redirects and no retries of the SDK's own.
        adapter = GraphRequestAdapter(provider, client=http)
        adapter.base_url = f"{base_url}/v1.0"
        self._base_url = base_url
        self._graph = GraphServiceClient(request_adapter=adapter)
        self._credential, self._tenant, self._turn = credential, TenantId(tenant_id), turn

    # --- directory -------------------------------------------------------------------------------

    async def service_principal(self, principal: ObjectId) -> ServicePrincipal:
        """
        Read one service principal by its object id.

        Raises: NotFound; Refused (needs Application.Read.All); Unavailable.
        """
        from msgraph.generated.service_principals.item.service_principal_item_request_builder import (
            ServicePrincipalItemRequestBuilder as Builder,
        )

        query = Builder.ServicePrincipalItemRequestBuilderGetQueryParameters(select=_PRINCIPAL_FIELDS)
        builder = self._graph.service_principals.by_service_principal_id(principal)
        return self._principal(await self._read("read service principal", builder, query))

    async def service_principal_by_app_id(self, app_id: AppId) -> ServicePrincipal:
        """Read the service principal of an application in this tenant. Raises: as ``service_principal``."""
        builder = self._graph.service_principals_with_app_id(app_id)
        return self._principal(await self._read("read service principal by appId", builder))

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

    # --- inventory: read once a day, a page at a time, none of it on the ID Protection quota ----------

    async def service_principals(self) -> tuple[Listed, ...]:
        """Read all service principals with the credentials they hold themselves. Raises: as ``service_principal``."""
        from msgraph.generated.service_principals.service_principals_request_builder import (
            ServicePrincipalsRequestBuilder as Builder,
        )

        # keyCredentials come in a list only where they are selected (serviceprincipal-list.md).
        fields = [*_PRINCIPAL_FIELDS, "createdDateTime", "passwordCredentials", "keyCredentials"]
        query = Builder.ServicePrincipalsRequestBuilderGetQueryParameters(select=fields, top=_PAGE)
        builder = self._graph.service_principals
        found = await self._read_all("list service principals", builder, query, paced=False)
        return tuple(Listed(self._principal(item), _time(item), _credentials(item)) for item in found)

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
            ListedApplication(item["id"], AppId(item["appId"].lower()), _time(item), _credentials(item))
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
        builder = _Beta(f"{self._base_url}/beta/reports/servicePrincipalSignInActivities")
        found = await self._read_all("list sign-in activities", builder, paced=False)
        last: dict[AppId, datetime] = {}
        for item in found:
            moments = [_time(part(item, name), "lastSignInDateTime") for name in _ACTIVITIES]
            known = [moment for moment in moments if moment is not None]
            if is_guid(item.get("appId")) and known:
                app_id = AppId(item["appId"].lower())
                last[app_id] = max(*known, last.get(app_id, known[0]))
        return last

    # --- ID Protection ---------------------------------------------------------------------------

    async def confirm_compromised(self, principals: Sequence[ObjectId]) -> datetime:
        """
        Raise the risk of service principals to high, in one call. Never retried here.

        Blocks nothing by itself: an enabled Conditional Access policy on service principal risk does, at
        the next token request or through continuous access evaluation (Graph only). The caller has taken
        the tenant's turn before, because between turn and call it gathers all who wait.

        Returns: when Graph accepted (UTC). Not proof, see ``response/verification.py``.
        Raises: Refused; Throttled; BadRequest or NotFound (of the batch, nothing is known to have taken
        effect); NotSent; OutcomeUnknown (it may have taken effect).
        Source: Graph v1.0 "riskyServicePrincipal: confirmCompromised".
        """
        from msgraph.generated.identity_protection.risky_service_principals.confirm_compromised.confirm_compromised_post_request_body import (
            ConfirmCompromisedPostRequestBody as Body,
        )

        action = self._graph.identity_protection.risky_service_principals.confirm_compromised
        what = "confirm compromised"

        async def post() -> None:
            # Not ``action.post``: kiota takes 304, a redirect with Location and any 2xx page for success.
            request = action.to_post_request_information(Body(service_principal_ids=list(principals)))
            adapter: Any = self._graph.request_adapter
            span = adapter.start_tracing_span(request, "confirm_compromised")
            try:  # signs the request, and sends it anew after a claims challenge: a 401 did nothing
                answer = await adapter.get_http_response_message(request, span)
            finally:
                span.end()
            if answer.status_code != 204:
                code, headers = error_code(answer), dict(answer.headers)
                raise from_status(SERVICE, what, answer.status_code, code=code, headers=headers, write=True)

        await _translated(what, post, write=True)
        return datetime.now(UTC)

    async def risk(self, principal: ObjectId) -> Risk | None:
        """Read the risk of one service principal; None when Entra never saw any. Takes a turn."""
        builder = self._graph.identity_protection.risky_service_principals.by_risky_service_principal_id(
            principal
        )
        try:
            return _risk(await self._read("read risk", builder, paced=True))
        except NotFound:
            return None

    async def high_risks(self) -> dict[ObjectId, Risk]:
        """Read all service principals whose risk is high, by object id. One turn a page."""
        from msgraph.generated.identity_protection.risky_service_principals.risky_service_principals_request_builder import (
            RiskyServicePrincipalsRequestBuilder as Builder,
        )

        query = Builder.RiskyServicePrincipalsRequestBuilderGetQueryParameters(filter="riskLevel eq 'high'")
        builder = self._graph.identity_protection.risky_service_principals
        risks = [_risk(item) for item in await self._read_all("list high risks", builder, query)]
        return {risk.object_id: risk for risk in risks}

    # --- Conditional Access ----------------------------------------------------------------------

    async def policies(self) -> tuple[Policy, ...]:
        """Read all Conditional Access policies (Policy.Read.All). One turn a page."""
        builder = self._graph.identity.conditional_access.policies
        return tuple(policy_from_graph(item) for item in await self._read_all("list policies", builder))

    # --- ourselves -------------------------------------------------------------------------------

    async def own_claims(self) -> tuple[ObjectId, frozenset[str]]:
        """
        Read our own object id and app roles from our own Graph token (``oid``, ``roles``).

        The token is ours, fresh from Entra over TLS, so reading it without checking its signature is sound.
        Raises: Refused (Entra gives us no token); Malformed (no readable claims).
        """

        async def token() -> str:
            # The same claims request as kiota's, so that both use one cached token.
            return (await self._credential.get_token(SCOPE, enable_cae=True)).token

        return _own_claims(await _translated("read own token", token))

    # --- inside ----------------------------------------------------------------------------------

    async def _read_all(
        self, what: str, builder: Any, query: object = None, *, paced: bool = True
    ) -> list[dict[str, Any]]:
        """Read a list with all its pages, one turn each where they are on the ID Protection quota."""
        items: list[dict[str, Any]] = []
        page = await self._read(what, builder, query, paced=paced)
        while True:
            value = page.get("value")
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise Malformed(SERVICE, f"{what}: no list")
            items += value
            link = page.get("@odata.nextLink")
            if not link:
                return items
            page = await self._read(what, builder.with_url(link), paced=paced)

    async def _read(
        self, what: str, builder: Any, query: object = None, *, paced: bool = False
    ) -> dict[str, Any]:
        """
        GET what an SDK request builder points at, as JSON.

        The SDK's own models are left out on purpose: the first one imports 1,200 modules on the event loop (1 s),
        and they turn enumeration members they do not know into nothing.
        """
        from msgraph.generated.models.o_data_errors.o_data_error import ODataError

        async def once() -> object:
            request = builder.to_get_request_information(_configured(query))
            adapter: Any = self._graph.request_adapter
            body = await adapter.send_primitive_async(request, "bytes", {"XXX": ODataError})
            return json.loads(body or b"")

        async for attempt in retry.reads(within=_READ_WITHIN):
            with attempt:
                if paced:
                    await self._turn()
                found = await _translated(what, once)
                if not isinstance(found, dict):
                    raise Malformed(SERVICE, f"{what}: no object")
                return found
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

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
        )


class _Beta:
    """A GET of a beta URL, in the form of the SDK's request builders: the SDK itself is of v1.0."""

    def __init__(self, url: str) -> None:
        self._url = url

    def with_url(self, url: str) -> _Beta:
        return _Beta(url)

    def to_get_request_information(self, configuration: Any) -> Any:
        from kiota_abstractions.method import Method
        from kiota_abstractions.request_information import RequestInformation

        request = RequestInformation()
        request.http_method, request.url = Method.GET, self._url
        request.headers.try_add("Accept", "application/json")
        request.configure(configuration)
        return request


async def _translated(what: str, call: Callable[[], Awaitable[T]], *, write: bool = False) -> T:
    """Run one SDK call and turn whatever it raises into an error of ours, chained."""
    import httpx
    from azure.core.exceptions import AzureError, ClientAuthenticationError
    from kiota_abstractions.api_error import APIError

    try:
        async with asyncio.timeout(_WRITE_WITHIN.total_seconds() if write else None):
            return await call()
    except TimeoutError as error:
        raise OutcomeUnknown(SERVICE, f"no answer in time, to {what}") from error
    except APIError as error:
        detail = getattr(getattr(error, "error", None), "code", None) or ""
        raise from_status(
            SERVICE,
            what,
            error.response_status_code or 0,
            code=detail,
            headers=dict(error.response_headers or {}),
            write=write,
        ) from error
    except ClientAuthenticationError as error:
        raise Refused("Entra", f"no token for Graph, to {what}") from error
    except AzureError as error:  # the credential could not reach Entra; the request to Graph never left
        raise NotSent("Entra", f"not reached for a token, to {what}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise NotSent(SERVICE, f"not reached, to {what}") from error
    except httpx.HTTPError as error:
        kind = OutcomeUnknown if write else Unavailable
        raise kind(SERVICE, f"no answer, to {what}: {type(error).__name__}") from error
    except ClientError:
        raise
    except ValueError as error:  # a 200 whose body is no JSON: the SDK's parser raises plain ValueErrors
        raise (OutcomeUnknown if write else Malformed)(SERVICE, f"unreadable answer, to {what}") from error


def _configured(query: object) -> Any:
    from kiota_abstractions.base_request_configuration import RequestConfiguration

    configuration: Any = RequestConfiguration(query_parameters=query)
    # Without this, enumeration members added later come back as unknownFutureValue (riskyServicePrincipal.md).
    configuration.headers.add("Prefer", "include-unknown-enum-members")
    return configuration


def _time(found: Mapping[str, Any], name: str = "createdDateTime") -> datetime | None:
    try:
        moment = datetime.fromisoformat(text(found, name))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _credentials(found: Mapping[str, Any]) -> tuple[HeldCredential, ...] | None:
    lists = {kind: found.get(name) for kind, name in _CREDENTIAL_LISTS.items()}
    held = []
    for kind, items in lists.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return None
        held += [HeldCredential(kind, _time(item, "endDateTime")) for item in items]
    return tuple(held)


_CREDENTIAL_LISTS: Final = {"secret": "passwordCredentials", "certificate": "keyCredentials"}


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


_LEVELS: Final = {level.value: level for level in RiskLevel}


def _risk(found: Mapping[str, Any]) -> Risk:
    if not is_guid(found.get("id")):
        raise Malformed(SERVICE, "risky service principal without id")
    processing = found.get("isProcessing")
    return Risk(
        object_id=object_id(found["id"]),
        level=_LEVELS.get(text(found, "riskLevel")),
        state=text(found, "riskState") or None,
        is_processing=processing if isinstance(processing, bool) else None,
    )


def _own_claims(token: str) -> tuple[ObjectId, frozenset[str]]:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return object_id(claims["oid"]), frozenset(claims.get("roles", ()))
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, AttributeError) as error:
        raise Malformed("Entra", "our own token has no readable object id") from error
