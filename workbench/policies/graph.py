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
import time
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from clients import retry
from clients.errors import Malformed, NotSent, OutcomeUnknown, Unavailable, error_code, from_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from workbench.policies.bodies import Json

SERVICE: Final = "Microsoft Graph"
PACE: Final = timedelta(seconds=1.1)
_WITHIN: Final = timedelta(seconds=60)
_POLICIES: Final = "identity/conditionalAccess/policies"
_LOCATIONS: Final = "identity/conditionalAccess/namedLocations"


class PolicyGraph:
    """The calls. Each raises an error of ``clients/errors.py``; a 429 was not done and is asked again, a write else never."""

    def __init__(
        self,
        base_url: str,
        token: Callable[[], Awaitable[str]],
        http: httpx.AsyncClient,
        pace: timedelta = PACE,
    ) -> None:
        self._base, self._token, self._http, self._pace = base_url, token, http, pace.total_seconds()
        self._next = 0.0

    async def list(self, *, beta: bool) -> list[Json]:
        """Read all policies (Policy.Read.All)."""
        items: list[Json] = []
        url = self._url(_POLICIES, beta=beta)
        while url:
            page = await self._read("list policies", url)
            value = page.get("value")
            if not isinstance(value, list) or not all(
                isinstance(one, dict) and one.get("id") for one in value
            ):
                raise Malformed(SERVICE, "list policies: no list")
            items += value
            url = str(page.get("@odata.nextLink") or "")
            if url and urlsplit(url)[:2] != urlsplit(self._base)[:2]:
                raise Malformed(SERVICE, "list policies: the next page is on another host")
        return items

    async def read(self, policy_id: str, *, beta: bool) -> Json:
        """Read one policy. Raises: NotFound."""
        found = await self._read("read policy", self._url(f"{_POLICIES}/{policy_id}", beta=beta))
        if str(found.get("id", "")).lower() != policy_id.lower() or not isinstance(
            found.get("conditions"), dict
        ):
            raise Malformed(SERVICE, "read policy: another policy, or none")
        return found

    async def location(self, location_id: str) -> Json:
        """Read a named location. Raises: NotFound."""
        return await self._read("read named location", self._url(f"{_LOCATIONS}/{location_id}", beta=False))

    async def create(self, body: Mapping[str, Any], *, beta: bool) -> Json:
        """Create a policy and give it as Graph answered. Raises: OutcomeUnknown, and as for every write."""
        answer = await self._write("POST", "create policy", self._url(_POLICIES, beta=beta), body, (201,))
        try:
            made = answer.json()
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
        return f"{self._base}/{'beta' if beta else 'v1.0'}/{path}"

    async def _read(self, what: str, url: str) -> Json:
        async for attempt in retry.reads(within=_WITHIN):
            with attempt:
                answer = await self._send("GET", what, url, None, write=False)
                if answer.status_code != HTTPStatus.OK:
                    raise _error(what, answer, write=False)
                try:
                    found = answer.json()
                except ValueError as error:
                    raise Malformed(SERVICE, f"{what}: unreadable answer") from error
                if not isinstance(found, dict):
                    raise Malformed(SERVICE, f"{what}: no object")
                return found
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def _write(
        self, method: str, what: str, url: str, body: Mapping[str, Any], accepts: tuple[int, ...]
    ) -> httpx.Response:
        # A write raises neither Unavailable nor a retried OutcomeUnknown: what is asked again here was throttled or
        # never sent, so it was not done.
        async for attempt in retry.reads(within=_WITHIN):
            with attempt:
                answer = await self._send(method, what, url, body, write=True)
                if answer.status_code not in accepts:
                    raise _error(what, answer, write=True)
                return answer
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def _send(
        self, method: str, what: str, url: str, body: Mapping[str, Any] | None, *, write: bool
    ) -> httpx.Response:
        token = await self._token()  # first: the wait is between requests, however long a token takes
        await self._turn()
        headers = {
            "Authorization": f"Bearer {token}",
            # Without it, enumeration members added later come back as unknownFutureValue.
            "Prefer": "include-unknown-enum-members",
        }
        try:
            return await self._http.request(method, url, json=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(SERVICE, f"not reached, to {what}") from error
        except httpx.HTTPError as error:
            kind = OutcomeUnknown if write else Unavailable
            raise kind(SERVICE, f"no answer, to {what}: {type(error).__name__}") from error

    async def _turn(self) -> None:
        wait = self._next - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._pace


def _error(what: str, answer: httpx.Response, *, write: bool) -> Exception:
    return from_status(
        SERVICE, what, answer.status_code, code=error_code(answer), headers=dict(answer.headers), write=write
    )
