"""
The Log Analytics query API over the local engine.

Shapes: ``contracts/log-analytics-query.subset.yaml``. Limits: ``facts/azure-platform.md`` §3.1 (5 running queries
and a queue of 200 an identity, 500,000 rows). The texts of errors follow what the service is known to answer; the
codes of a 429 body are not documented and are ours. What cannot be told apart from the real service by a client is
faithful; what can is: no cross-workspace queries, no ``$batch``, no byte limit, no server timeout.
"""

import asyncio
import contextlib
import json
import math
import re
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from simtenant.ingestion import Ingestion
from simtenant.tenant import Tenant
from simtenant.tokens import InvalidTokenError
from workbench.engine import LogEngine, QueryError, QueryFault, Result

AUDIENCE: Final = "https://api.loganalytics.io"
MAX_RUNNING: Final = 5
MAX_QUEUED: Final = 200
MAX_ROWS: Final = 500_000

_REFUSALS: Final[Mapping[QueryFault, tuple[str, str]]] = MappingProxyType(
    {
        QueryFault.SYNTAX: ("SyntaxError", "SYN0002"),
        QueryFault.UNKNOWN_TABLE: ("SemanticError", "SEM0100"),
        QueryFault.UNKNOWN_COLUMN: ("SemanticError", "SEM0100"),
        # Perhaps good KQL: the local engine knows less than the service, and its message says so.
        QueryFault.UNSUPPORTED: ("SemanticError", "SEM0001"),
        QueryFault.TYPE: ("SemanticError", "SEM0064"),
        QueryFault.FAILED: ("SemanticError", "SEM0001"),
    }
)


class QueryRefusedError(Exception):
    """A refusal in the API's shape; ``inner`` is the chain of inner errors, outermost first."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        inner: Sequence[tuple[str, str]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.inner = inner
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return ``{"error": {...}}`` with nested ``innererror``."""
        innermost: dict[str, Any] | None = None
        for code, message in reversed(self.inner):
            error: dict[str, Any] = {"code": code, "message": message}
            if innermost is not None:
                error["innererror"] = innermost
            innermost = error
        outer: dict[str, Any] = {
            "message": str(self),
            "code": self.code,
            "correlationId": str(uuid.uuid4()),
        }
        if innermost is not None:
            outer["innererror"] = innermost
        return {"error": outer}


@dataclass
class _Slots:
    """What one identity has running and waiting."""

    running: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_RUNNING))
    now_running: int = 0
    queued: int = 0


class LogAnalytics:
    """
    ``/v1/workspaces/{id}/query`` for the tenant's workspace.

    A query's ``now()`` and what it can see are both the tenant clock's. ``allowed`` holds the object ids that may
    query (``None``: every principal). Faults for tests: ``partial_next``, ``throttle_next``, ``query_takes``.
    ``queries`` counts those that ran, ``most_running`` is the largest number that ran at once.
    """

    def __init__(
        self,
        tenant: Tenant,
        engine: LogEngine,
        *,
        ingestion: Ingestion | None = None,
        allowed: Iterable[str] | None = None,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.tenant = tenant
        self.engine = engine
        self.allowed = None if allowed is None else set(allowed)
        self.max_rows = max_rows
        self.query_takes = timedelta(0)
        self.queries = 0
        self.most_running = 0
        self._ingestion = ingestion
        self._slots: defaultdict[str, _Slots] = defaultdict(_Slots)
        self._partial = 0
        self._throttled: list[int | None] = []

    def partial_next(self, queries: int = 1) -> None:
        """Let the next queries answer 200 with half of their rows and ``error.code`` ``PartialError``."""
        self._partial += queries

    def throttle_next(self, queries: int = 1, *, retry_after: int | None = None) -> None:
        """Let the next queries answer 429, with ``Retry-After`` in seconds or without one."""
        self._throttled += [retry_after] * queries

    def routes(self) -> list[web.RouteDef]:
        """Return the query routes, with and without the version in front as ``azure-monitor-query`` sends it."""
        path = "/v1/workspaces/{workspace}/query"
        return [web.post(path, self._post), web.get(path, self._get)]

    async def _post(self, request: web.Request) -> web.Response:
        async def asked() -> Mapping[str, Any]:
            try:
                body = await request.json()
            except ValueError as error:
                raise _bad_argument("The request body could not be read as JSON") from error
            if not isinstance(body, dict):
                raise _bad_argument("The request body must be a JSON object")
            return body

        return await self._answer(request, asked)

    async def _get(self, request: web.Request) -> web.Response:
        async def asked() -> Mapping[str, Any]:
            return dict(request.query)

        return await self._answer(request, asked)

    async def _answer(
        self, request: web.Request, asked: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> web.Response:
        started = time.perf_counter()
        try:
            caller = self._admit(request)
            body = await asked()
            query = body.get("query")
            if not isinstance(query, str) or not query.strip():
                raise _bad_argument("The request is missing the query")
            limits = parse_timespan(body.get("timespan"), self.tenant.clock.now())
            async with self._slot(caller):
                result = await self._run(query, limits)
        except QueryRefusedError as error:
            headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return web.json_response(error.body(), status=error.status, headers=headers)
        answer = self._tables(result)
        if "include-statistics=true" in request.headers.get("Prefer", ""):
            answer["statistics"] = {"query": {"executionTime": time.perf_counter() - started}}
        return web.json_response(answer)

    def _admit(self, request: web.Request) -> str:
        try:
            claims = self.tenant.tokens.validate(request.headers.get("Authorization"), AUDIENCE)
        except InvalidTokenError as error:
            raise QueryRefusedError(
                HTTPStatus.UNAUTHORIZED,
                "AuthorizationRequiredError",
                "Valid authentication was not provided",
                inner=[("InvalidTokenError", str(error))],
            ) from error
        known = request.match_info["workspace"].lower() == self.tenant.settings.workspace_id.lower()
        if not known or (self.allowed is not None and claims.object_id not in self.allowed):
            # One answer for both: the service does not tell strangers which workspaces exist.
            raise QueryRefusedError(
                HTTPStatus.FORBIDDEN,
                "InsufficientAccessError",
                "The provided credentials have insufficient access to perform the requested operation",
            )
        if self._throttled:
            raise _too_many("Too many queries were sent, try again later", self._throttled.pop(0))
        return claims.object_id

    @contextlib.asynccontextmanager
    async def _slot(self, caller: str) -> AsyncIterator[None]:
        """Wait for one of the identity's five places, in order of arrival; a full queue is a 429."""
        slots = self._slots[caller]
        if slots.running.locked() and slots.queued >= MAX_QUEUED:
            raise _too_many(f"More than {MAX_QUEUED} queries are waiting", None)
        slots.queued += 1
        try:
            await slots.running.acquire()
        finally:
            slots.queued -= 1
        slots.now_running += 1
        self.most_running = max(self.most_running, slots.now_running)
        try:
            yield
        finally:
            slots.now_running -= 1
            slots.running.release()

    async def _run(self, query: str, limits: tuple[datetime, datetime] | None) -> Result:
        if self._ingestion is not None:
            # What is due by the clock must be seen, also when the background writer is behind.
            await self._ingestion.flush()
        await asyncio.sleep(self.query_takes.total_seconds())
        self.queries += 1
        now = self.tenant.clock.now()
        if limits is not None:
            query = self._limited(query, *limits)
        try:
            return await asyncio.to_thread(self.engine.query, query, now=now, visible_at=now)
        except QueryError as error:
            kind, code = _REFUSALS[error.code]
            raise _bad_query(kind, code, error.message) from error

    def _limited(self, query: str, first: datetime, last: datetime) -> str:
        """
        Put a filter on ``TimeGenerated`` around every table the query names: what ``timespan`` does.

        A let statement hides the table behind its filtered self, which only the local engine allows. All on one line,
        so that line numbers in errors stay true.
        """
        window = f"between (datetime({_utc(first)}) .. datetime({_utc(last)}))"
        named = [table for table in self.engine.tables() if re.search(rf"\b{table}\b", query)]
        return "".join(f"let {table} = {table} | where TimeGenerated {window}; " for table in named) + query

    def _tables(self, result: Result) -> dict[str, Any]:
        types = [kind for _, kind in result.columns]
        rows = [[cell(value, kind) for value, kind in zip(row, types, strict=True)] for row in result.rows]
        error: dict[str, Any] | None = None
        if len(rows) > self.max_rows:
            rows = rows[: self.max_rows]
            error = _partial_error(
                f"The results of this query exceed the set limit of {self.max_rows} records."
            )
        if self._partial:
            self._partial -= 1
            rows = rows[: len(rows) // 2]
            error = _partial_error("A shard did not answer in time; its rows are missing.")
        columns = [{"name": name, "type": kind} for name, kind in result.columns]
        answer: dict[str, Any] = {"tables": [{"name": "PrimaryResult", "columns": columns, "rows": rows}]}
        if error is not None:
            answer["error"] = error
        return answer


def parse_timespan(text: object, now: datetime) -> tuple[datetime, datetime] | None:
    """
    Read an ISO 8601 period: a duration back from ``now``, start/end, start/duration or duration/end.

    Returns: first and last moment, or ``None`` for no limit. Raises: QueryRefusedError (400).
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise _bad_argument("The timespan must be a string")
    first, slash, last = text.partition("/")
    try:
        if not slash:
            return now - _duration(first), now
        if first.startswith("P"):
            end = _moment(last)
            return end - _duration(first), end
        start = _moment(first)
        return start, start + _duration(last) if last.startswith("P") else _moment(last)
    except ValueError as error:
        raise _bad_argument(f"The timespan '{text}' is not a valid ISO 8601 period") from error


_DURATION = re.compile(
    r"P(?:(?P<weeks>[\d.]+)W)?(?:(?P<days>[\d.]+)D)?"
    r"(?:T(?:(?P<hours>[\d.]+)H)?(?:(?P<minutes>[\d.]+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError(f"{text} is not a duration")
    return timedelta(**{unit: float(number) for unit, number in found.groupdict(default="0").items()})


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def cell(value: object, kind: str) -> object:
    """
    Write one value as the API does.

    datetime as ISO with Z, dynamic as JSON text, timespan as ``d.hh:mm:ss.fffffff``, guid and decimal as text, the
    three reals that JSON cannot hold as ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
    """
    if value is None:
        return "" if kind == "string" else None
    if isinstance(value, datetime):
        return _utc(value.replace(tzinfo=UTC) if value.tzinfo is None else value)
    if isinstance(value, timedelta):
        return _timespan(value)
    if kind == "dynamic" or isinstance(value, (list, dict)):
        if isinstance(value, str):
            return value
        return json.dumps(value, separators=(",", ":"), default=str)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (Decimal, uuid.UUID)):
        return str(value)
    return value


def _timespan(value: timedelta) -> str:
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    hours, rest = divmod(value.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    days = f"{value.days}." if value.days else ""
    ticks = f".{value.microseconds * 10:07d}" if value.microseconds else ""
    return f"{sign}{days}{hours:02d}:{minutes:02d}:{seconds:02d}{ticks}"


def _bad_argument(message: str) -> QueryRefusedError:
    return QueryRefusedError(HTTPStatus.BAD_REQUEST, "BadArgumentError", message)


def _bad_query(kind: str, code: str, message: str) -> QueryRefusedError:
    shown = {
        "SyntaxError": "A recognition error occurred in the query.",
        "SemanticError": "A semantic error occurred.",
    }[kind]
    return QueryRefusedError(
        HTTPStatus.BAD_REQUEST,
        "BadArgumentError",
        "The request had some invalid properties",
        inner=[(kind, shown), (code, message)],
    )


def _too_many(message: str, retry_after: int | None) -> QueryRefusedError:
    return QueryRefusedError(
        HTTPStatus.TOO_MANY_REQUESTS, "TooManyRequestsError", message, retry_after=retry_after
    )


def _partial_error(message: str) -> dict[str, Any]:
    return {
        "code": "PartialError",
        "message": "There were some errors when processing your query.",
        "details": [
            {
                "code": "EngineError",
                "message": "Something went wrong processing your query on the server.",
                "innererror": {"code": "-2133196797", "message": message},
            }
        ],
    }
