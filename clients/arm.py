"""Azure Resource Manager over httpx: how a request is made. ``sentinel`` and ``workspace`` are what is asked."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from clients import retry, telemetry
from clients.errors import Malformed, NotSent, OutcomeUnknown, Refused, Unavailable, error_code, from_status
from clients.telemetry.words import SpanName

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

SCOPE: Final = "https://management.azure.com/.default"
_WITHIN: Final = timedelta(seconds=20)
_WRITES: Final = frozenset({"PUT", "DELETE"})  # POST asks: Sentinel reads alerts and entities with it


class ArmCalls:
    """Sends requests to one resource provider; ``service`` is its name in errors."""

    service: ClassVar[str]
    api_version: ClassVar[str]

    def __init__(self, base_url: str, credential: AsyncTokenCredential, http: httpx.AsyncClient) -> None:
        self._base_url, self._credential, self._http = base_url, credential, http

    async def _read(
        self, method: str, path: str, what: str, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Read, with retries."""
        async for attempt in retry.reads(within=_WITHIN):
            with attempt:
                return self._object(await self._request(method, path, what, query=query), what)
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def _send(self, method: str, path: str, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write once."""
        return self._object(await self._request(method, path, what, body), what)

    async def _request(
        self,
        method: str,
        path: str,
        what: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        with telemetry.call(SpanName.ARM_CALL, self.service, what):
            return await self._sent(method, path, what, body, query or {})

    async def _sent(
        self, method: str, path: str, what: str, body: Mapping[str, Any] | None, query: Mapping[str, str]
    ) -> httpx.Response:
        import httpx
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        write = method in _WRITES
        try:
            token = (await self._credential.get_token(SCOPE)).token
        except ClientAuthenticationError as error:
            raise Refused("Entra", f"no token for Resource Manager, to {what}") from error
        except AzureError as error:
            raise NotSent("Entra", f"not reached for a token, to {what}") from error
        try:
            answer = await self._http.request(
                method,
                f"{self._base_url}{path}",
                params={"api-version": self.api_version, **query},
                json=body,
                headers={"Authorization": f"Bearer {token}"},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(self.service, f"not reached, to {what}") from error
        except httpx.HTTPError as error:
            raise (OutcomeUnknown if write else Unavailable)(self.service, f"no answer, to {what}") from error
        if not answer.is_success:
            raise from_status(
                self.service,
                what,
                answer.status_code,
                code=error_code(answer),
                headers=dict(answer.headers),
                write=write,
            )
        return answer

    def _object(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        try:
            parsed = answer.json()
        except ValueError as error:
            raise Malformed(self.service, f"{what}: no JSON") from error
        if not isinstance(parsed, dict):
            raise Malformed(self.service, f"{what}: no object")
        return parsed
