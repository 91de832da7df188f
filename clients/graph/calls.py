"""
How Graph is called: one signed request, its retries, its pages, and its errors in our words.

The SDK is imported when the client is built, not when this module is.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

from clients import retry, telemetry
from clients.errors import (
    ClientError,
    Malformed,
    NotSent,
    OutcomeUnknown,
    Refused,
    Unavailable,
    error_code,
    from_status,
)
from clients.fields import text, token_claims
from clients.telemetry.words import SpanName
from clients.terms import ObjectId, TenantId, object_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

T = TypeVar("T")
SERVICE: Final = "Microsoft Graph"
SCOPE: Final = "https://graph.microsoft.com/.default"
# A write that takes longer counts as an unknown outcome. Shorter than the time after which
# ``response/pulling.py`` may send again, so that no request of ours is still under way then.
_WRITE_WITHIN: Final = timedelta(seconds=40)


class GraphCalls:
    """
    What all parts of ``GraphClient`` share; one instance a process.

    ``turn`` is awaited before every ID Protection and Conditional Access read: the tenant allows about
    one such request a second, all applications together, without Retry-After (docs throttling-limits).
    """

    read_within: ClassVar = timedelta(seconds=20)
    """How long a read is tried."""

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

    async def own_claims(self) -> tuple[ObjectId, frozenset[str]]:
        """
        Read our own object id and app roles from our own Graph token (``oid``, ``roles``).

        The token is ours, fresh from Entra over TLS, so reading it without checking its signature is sound.
        Raises: Refused (Entra gives us no token); Malformed (no readable claims).
        """

        async def token() -> str:
            # The same claims request as kiota's, so that both use one cached token.
            return (await self._credential.get_token(SCOPE, enable_cae=True)).token

        return _own_claims(await translated("read own token", token))

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
            if urlsplit(str(link))[:2] != urlsplit(self._base_url)[:2]:
                raise Malformed(SERVICE, f"{what}: the next page is on another host")
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

        async for attempt in retry.reads(within=self.read_within):
            with attempt:
                if paced:
                    await self._turn()
                found = await translated(what, once)
                if not isinstance(found, dict):
                    raise Malformed(SERVICE, f"{what}: no object")
                return found
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def _ask(
        self, what: str, url: str, body: Mapping[str, Any], *, paced: bool = False
    ) -> dict[str, Any]:
        """POST a question, which changes nothing and is repeated as a read is; give the answer as JSON."""
        payload = json.dumps(body).encode()

        async def once() -> object:
            from kiota_abstractions.method import Method
            from kiota_abstractions.request_information import RequestInformation

            request = RequestInformation()
            request.http_method, request.url = Method.POST, url
            request.headers.try_add("Accept", "application/json")
            request.set_stream_content(payload, "application/json")
            request.configure(_configured(None))
            adapter: Any = self._graph.request_adapter
            span = adapter.start_tracing_span(request, what.replace(" ", "_"))
            try:
                answer = await adapter.get_http_response_message(request, span)
            finally:
                span.end()
            if answer.status_code != 200:
                code, headers = error_code(answer), dict(answer.headers)
                raise from_status(SERVICE, what, answer.status_code, code=code, headers=headers)
            return json.loads(answer.content)

        async for attempt in retry.reads(within=self.read_within):
            with attempt:
                if paced:
                    await self._turn()
                found = await translated(what, once)
                if not isinstance(found, dict):
                    raise Malformed(SERVICE, f"{what}: no object")
                return found
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def _send(
        self,
        what: str,
        url: str,
        body: Mapping[str, Any],
        *,
        method: str = "POST",
        accepts: tuple[int, ...] = (204,),
    ) -> bytes:
        """
        Write once, and give what was answered; never retried here. Only the documented status counts: kiota takes any 2xx page for success.

        Raises: as ``from_status`` for a write; NotSent; OutcomeUnknown.
        """
        from kiota_abstractions.method import Method
        from kiota_abstractions.request_information import RequestInformation

        request = RequestInformation()
        request.http_method, request.url = Method(method), url
        request.headers.try_add("Accept", "application/json")
        if method != "DELETE":
            request.set_stream_content(json.dumps(body).encode(), "application/json")

        async def send() -> bytes:
            adapter: Any = self._graph.request_adapter
            span = adapter.start_tracing_span(request, what.replace(" ", "_"))
            try:  # signs the request, and sends it anew after a claims challenge: a 401 did nothing
                answer = await adapter.get_http_response_message(request, span)
            finally:
                span.end()
            if answer.status_code not in accepts:
                code, headers = error_code(answer), dict(answer.headers)
                raise from_status(SERVICE, what, answer.status_code, code=code, headers=headers, write=True)
            return bytes(answer.content)

        return await translated(what, send, write=True)


class Beta:
    """A GET of a beta URL, in the form of the SDK's request builders: the SDK itself is of v1.0."""

    def __init__(self, url: str) -> None:
        self._url = url

    def with_url(self, url: str) -> Beta:
        """Give the same for another URL: the next page's."""
        return Beta(url)

    def to_get_request_information(self, configuration: Any) -> Any:
        """Give the request, as the SDK's builders do."""
        from kiota_abstractions.method import Method
        from kiota_abstractions.request_information import RequestInformation

        request = RequestInformation()
        request.http_method, request.url = Method.GET, self._url
        request.headers.try_add("Accept", "application/json")
        request.configure(configuration)
        return request


async def translated(what: str, call: Callable[[], Awaitable[T]], *, write: bool = False) -> T:
    """
    Run one SDK call and turn whatever it raises into an error of ours, chained.

    ``what`` is a phrase of ours, never put together from data: telemetry carries it.
    """
    with telemetry.call(SpanName.GRAPH_CALL, SERVICE, what):
        return await _translated(what, call, write=write)


async def _translated(what: str, call: Callable[[], Awaitable[T]], *, write: bool) -> T:
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


def moment(found: Mapping[str, Any], name: str = "createdDateTime") -> datetime | None:
    """Give a time with its zone; None for anything else."""
    try:
        read = datetime.fromisoformat(text(found, name))
    except ValueError:
        return None
    return read if read.tzinfo else None


def _own_claims(token: str) -> tuple[ObjectId, frozenset[str]]:
    try:
        claims = token_claims(token)
        return object_id(claims["oid"]), frozenset(claims.get("roles", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed("Entra", "our own token has no readable object id") from error
