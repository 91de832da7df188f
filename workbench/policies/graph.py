"""
Conditional Access policies over Graph, for the desk only: the app that is deployed has no code that writes a policy.

Bodies are passed as JSON, because what a newer Graph adds must be seen and kept. Requests go out one after the other and
not faster than ``pace``: the tenant allows about one request a second to ID Protection and Conditional Access, all
applications together, and answers 429 without Retry-After (docs throttling-limits). The contract declares no ETag and no
If-Match for policies, so a write cannot be made conditional: who calls compares right before it.
Source: Graph "conditionalAccessPolicy", v1.0 and beta.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from clients import retry
from clients.errors import Malformed, OutcomeUnknown
from clients.graph.calls import SERVICE, Beta, GraphCalls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import httpx
    from azure.core.credentials_async import AsyncTokenCredential

    from workbench.policies.bodies import Json

PACE: Final = timedelta(seconds=1.1)
_POLICIES: Final = "identity/conditionalAccess/policies"
_LOCATIONS: Final = "identity/conditionalAccess/namedLocations"


class PolicyGraph(GraphCalls):
    """The calls. Each raises an error of ``clients/errors.py``; a 429 was not done and is asked again, a write else never."""

    read_within = timedelta(seconds=60)

    def __init__(
        self,
        base_url: str,
        credential: AsyncTokenCredential,
        http: httpx.AsyncClient,
        tenant_id: str,
        pace: timedelta = PACE,
    ) -> None:
        super().__init__(base_url, credential, http, tenant_id, self._next_turn)
        self._pace, self._next = pace.total_seconds(), 0.0

    async def list(self, *, beta: bool) -> list[Json]:
        """Read all policies (Policy.Read.All)."""
        with self._a_pace_after():
            found = await self._read_all("list policies", Beta(self._url(_POLICIES, beta=beta)))
        if not all(one.get("id") for one in found):
            raise Malformed(SERVICE, "list policies: one without id")
        return found

    async def read(self, policy_id: str, *, beta: bool) -> Json:
        """Read one policy. Raises: NotFound."""
        url = self._url(f"{_POLICIES}/{policy_id}", beta=beta)
        with self._a_pace_after():
            found = await self._read("read policy", Beta(url), paced=True)
        if str(found.get("id", "")).lower() != policy_id.lower() or not isinstance(
            found.get("conditions"), dict
        ):
            raise Malformed(SERVICE, "read policy: another policy, or none")
        return found

    async def location(self, location_id: str) -> Json:
        """Read a named location. Raises: NotFound."""
        url = self._url(f"{_LOCATIONS}/{location_id}", beta=False)
        with self._a_pace_after():
            return await self._read("read named location", Beta(url), paced=True)

    async def create(self, body: Mapping[str, Any], *, beta: bool) -> Json:
        """Create a policy and give it as Graph answered. Raises: OutcomeUnknown, and as for every write."""
        answer = await self._write("POST", "create policy", self._url(_POLICIES, beta=beta), body, (201,))
        try:
            made = json.loads(answer)
        except ValueError as error:
            raise OutcomeUnknown(SERVICE, "create policy: unreadable answer") from error
        if not isinstance(made, dict) or not made.get("id"):
            raise OutcomeUnknown(SERVICE, "create policy: the answer names no policy")
        return made

    async def patch(self, policy_id: str, body: Mapping[str, Any], *, beta: bool) -> None:
        """Change a policy. Raises: OutcomeUnknown, and as for every write."""
        url = self._url(f"{_POLICIES}/{policy_id}", beta=beta)
        await self._write("PATCH", "change policy", url, body, (200, 204))

    def _url(self, path: str, *, beta: bool) -> str:
        return f"{self._base_url}/{'beta' if beta else 'v1.0'}/{path}"

    async def _write(
        self, method: str, what: str, url: str, body: Mapping[str, Any], accepts: tuple[int, ...]
    ) -> bytes:
        # A write raises neither Unavailable nor a retried OutcomeUnknown: what is asked again here was throttled or
        # never sent, so it was not done.
        async for attempt in retry.reads(within=self.read_within):
            with attempt:
                await self._turn()
                with self._a_pace_after():
                    return await self._send(what, url, body, method=method, accepts=accepts)
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    @contextmanager
    def _a_pace_after(self) -> Iterator[None]:
        """Let the next turn come a pace after the answer: a request that was long on its way counts when it arrives."""
        try:
            yield
        finally:
            self._next = time.monotonic() + self._pace

    async def _next_turn(self) -> None:
        wait = self._next - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._pace
