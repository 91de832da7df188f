"""Another tool of the same tenant, which reads ID Protection every two seconds and so uses half of its quota."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Final, Self

import httpx

if TYPE_CHECKING:
    from types import TracebackType

    from bench.figures import Json
    from simtenant.estate import Estate

_EVERY: Final = 2.0  # seconds; the tenant takes one request a second
_AGAIN_AFTER: Final = 0.25  # seconds after a 429, which carries no Retry-After
_RIGHT: Final = "IdentityRiskyServicePrincipal.Read.All"


class OtherTool:
    """
    Reads risky service principals with an identity of its own, over real sockets; an async context manager.

    One that is refused tries again until it is answered, so that it does use its half.
    """

    def __init__(self, estate: Estate) -> None:
        self._tenant_id, self._server = estate.tenant.settings.tenant_id, estate.server
        self._self = estate.tenant.add_application("siem-connector", app_roles=[_RIGHT])
        self._asking: asyncio.Task[None] | None = None
        self._accepted = self._refused = 0

    def counted(self) -> Json:
        """Give how many of its requests were answered and refused since this was last asked, and start anew."""
        found = {"accepted": self._accepted, "refused": self._refused}
        self._accepted = self._refused = 0
        return found

    async def __aenter__(self) -> Self:
        first = asyncio.Event()
        self._asking = asyncio.create_task(self._ask(first))
        waiting = asyncio.create_task(first.wait())
        await asyncio.wait({self._asking, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._asking.done():
            await self._asking
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    async def _ask(self, answered: asyncio.Event) -> None:
        verify = ssl.create_default_context(cafile=str(self._server.ca_file))
        async with httpx.AsyncClient(verify=verify, timeout=30) as client:
            token = await self._token(client)
            due = time.monotonic()
            while True:
                answer = await client.get(
                    f"{self._server.base_url}/v1.0/identityProtection/riskyServicePrincipals?$top=1",
                    headers={"Authorization": f"Bearer {token}"},
                )
                if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    self._refused += 1
                    await asyncio.sleep(_AGAIN_AFTER)
                    continue
                answer.raise_for_status()
                self._accepted += 1
                answered.set()
                due = max(due + _EVERY, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _token(self, client: httpx.AsyncClient) -> str:
        answer = await client.post(
            f"{self._server.tls_url}/{self._tenant_id}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self._self.app_id,
                "client_secret": self._self.secret or "",
                "scope": "https://graph.microsoft.com/.default",
            },
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])
