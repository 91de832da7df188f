"""
Faults on demand, and the log of requests.

A fault is armed for the requests whose ``METHOD /path`` matches a pattern; it
is spent after a number of them or stays until cleared. The kinds are what a
caller of Microsoft's services really meets: slowness, an error status, a
connection that breaks before the request took effect or after it did, and a
body that trickles.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

TEMPLATE: Final = web.RequestKey("template", str)
"""A service writes here what a request is, with ids replaced by names; used for counting."""
APP_ID: Final = web.RequestKey("app_id", str)
"""A service writes here whose token a request carried."""
NAMED: Final = web.RequestKey("named", tuple)
"""Graph writes here which ids an action on risk was asked about, refused ones included."""
CHANGED: Final = web.RequestKey("changed", tuple)
"""Graph writes here on which ids such an action took effect."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A demo that runs for days must not eat the laptop's memory.
_KEPT_REQUESTS: Final = 20_000

_CODES: Final = {
    403: "Authorization_RequestDenied",
    404: "Request_ResourceNotFound",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}

# What a gateway in front of Graph sends: no JSON, so no OData error either.
_HTML = "<html><head><title>{status}</title></head><body><h2>Our services are not available right now</h2></body></html>"


class FaultKind(StrEnum):
    """What goes wrong with a request."""

    LATENCY = "latency"
    STATUS = "status"
    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    SLOW_BODY = "slow_body"


@dataclass
class Fault:
    """
    One armed fault.

    ``pattern`` is searched in ``METHOD /path``. ``times`` is how many more
    requests it hits, ``None`` means until cleared. ``seconds`` serves latency
    and slow_body; ``status``, ``retry_after`` (seconds), ``code`` and ``html``
    serve status. ``hits`` counts the requests it has hit.
    """

    pattern: re.Pattern[str]
    kind: FaultKind
    times: int | None = 1
    seconds: float = 0.0
    status: int = 503
    code: str | None = None
    retry_after: int | None = None
    html: bool = False
    hits: int = 0

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """
        Read a fault from the body of ``POST /_sim/faults``.

        Raises: ValueError naming every field that is unknown or malformed.
        """
        wrong = [f"unknown field {name!r}" for name in sorted(set(body) - set(_FIELDS))]
        for name, kinds in _FIELDS.items():
            value = body.get(name)
            if value is None:
                continue
            # bool is an int for Python; "times": true is a mistake all the same.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wrong.append(f"{name} cannot be {value!r}")
        try:
            pattern = re.compile(str(body.get("path_pattern", "")))
        except re.error as error:
            wrong.append(f"path_pattern is no regular expression: {error}")
            pattern = re.compile("")
        if not body.get("path_pattern"):
            wrong.append("path_pattern is missing")
        if body.get("kind") not in set(FaultKind):
            wrong.append(f"kind must be one of {', '.join(FaultKind)}")
        # Only numbers are compared; what is no number has been named above.
        wrong += [
            f"{name} must be from {low} to {high}"
            for name, low, high in _RANGES
            if isinstance(body.get(name), int | float) and not low <= body[name] <= high
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        options = {name: value for name, value in body.items() if name not in {"path_pattern", "kind"}}
        return cls(pattern=pattern, kind=FaultKind(body["kind"]), **options)


_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "path_pattern": (str,),
    "kind": (str,),
    "times": (int,),
    "seconds": (int, float),
    "status": (int,),
    "code": (str,),
    "retry_after": (int,),
    "html": (bool,),
}
_RANGES: Final = (
    ("times", 1, 1_000_000),
    ("seconds", 0, 600),
    ("status", 400, 599),
    ("retry_after", 0, 86_400),
)


class Faults:
    """The faults armed in one tenant; the first that matches a request hits it."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def add(
        self,
        path_pattern: str,
        kind: FaultKind | str,
        *,
        times: int | None = 1,
        seconds: float = 0.0,
        status: int = 503,
        code: str | None = None,
        retry_after: int | None = None,
        html: bool = False,
    ) -> Fault:
        """
        Arm a fault; see ``Fault`` for the options.

        Returns: the fault, whose ``hits`` can be read afterwards.
        Raises: ValueError for an unknown kind, re.error for a bad pattern.
        """
        fault = Fault(
            re.compile(path_pattern), FaultKind(kind), times, seconds, status, code, retry_after, html
        )
        self._armed.append(fault)
        return fault

    def arm(self, fault: Fault) -> None:
        """Arm a fault that was made elsewhere (``Fault.from_json``)."""
        self._armed.append(fault)

    def clear(self) -> None:
        """Forget all faults."""
        self._armed.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._armed)

    def take(self, method: str, path: str, *, kind: FaultKind | None = None) -> Fault | None:
        """Use up one turn of the first fault that matches (of one kind, if told), and return it."""
        subject = f"{method} {path}"
        for fault in self._armed:
            if fault.pattern.search(subject) and kind in (None, fault.kind):
                fault.hits += 1
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._armed.remove(fault)
                return fault
        return None


async def apply(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    """
    Answer a request the way a fault prescribes.

    A dropped connection is a closed socket without a response. After
    ``drop_after`` the handler has run and taken effect; after ``drop_before``
    and ``status`` it has not.
    """
    match fault.kind:
        case FaultKind.LATENCY:
            await asyncio.sleep(fault.seconds)
            return await handler(request)
        case FaultKind.STATUS:
            return status_response(fault)
        case FaultKind.DROP_BEFORE:
            return _hang_up(request)
        case FaultKind.DROP_AFTER:
            await handler(request)
            return _hang_up(request)
        case FaultKind.SLOW_BODY:
            return await _trickle(request, await handler(request), fault.seconds)


def status_response(fault: Fault) -> web.Response:
    """Answer with the error that a fault of kind ``status`` prescribes."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.html:
        return web.Response(
            status=fault.status,
            headers=headers,
            text=_HTML.format(status=fault.status),
            content_type="text/html",
        )
    code = fault.code or _CODES.get(fault.status, "UnknownError")
    message = f"Simulated fault: {fault.status}."
    return web.json_response(
        {"error": {"code": code, "message": message}}, status=fault.status, headers=headers
    )


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    # aiohttp finds the transport closed and sends none of this.
    return web.Response(status=500)


async def _trickle(request: web.Request, response: web.StreamResponse, seconds: float) -> web.StreamResponse:
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) < 2:
        await asyncio.sleep(seconds)
        return response
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    slow = web.StreamResponse(status=response.status, headers=headers)
    slow.content_length = len(body)
    await slow.prepare(request)
    half = len(body) // 2
    await slow.write(body[:half])
    await asyncio.sleep(seconds)
    await slow.write(body[half:])
    await slow.write_eof()
    return slow


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """
    One request as the tenant saw it.

    ``template`` is the path with ids replaced by names in braces, so that
    requests can be counted by what they do. ``app_id`` is the caller's, where
    a token said it. ``status`` is 0 where the connection was dropped.
    ``named`` are the ids in the body of an action on risk, whatever became of
    it, ``changed`` those it took effect on, also when no answer arrived.
    """

    at: datetime
    method: str
    template: str
    path: str
    status: int
    app_id: str | None
    seconds: float
    named: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class RequestLog:
    """The latest requests of a tenant, oldest first, and counts of all of them."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: deque[SeenRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, seen: SeenRequest) -> None:
        """Remember one request."""
        self.total += 1
        self._kept.append(seen)
        self._counts[seen.method, seen.template] += 1

    def __iter__(self) -> Iterator[SeenRequest]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything, so that a measurement starts at zero."""
        self.total = 0
        self._kept.clear()
        self._counts.clear()

    def count(
        self, template_contains: str = "", *, method: str | None = None, app_id: str | None = None
    ) -> int:
        """Count kept requests whose template contains a text, optionally of one method and caller."""
        return sum(
            template_contains in seen.template
            and (method is None or seen.method == method)
            and (app_id is None or seen.app_id == app_id)
            for seen in self._kept
        )

    def counts(self) -> dict[str, int]:
        """Count all requests since the start by ``METHOD template``."""
        return {f"{method} {template}": n for (method, template), n in sorted(self._counts.items())}
