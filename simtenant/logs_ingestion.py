"""
The Logs Ingestion API: rows posted to a stream of a data collection rule land in a custom table of the workspace.

Shape: ``contracts/logs-ingestion.subset.yaml``. Limits: ``facts/azure-platform.md`` §4.1 (1 MB a call, 64 KB a field,
longer ones cut silently; 12,000 calls a minute; no order, no removal of duplicates). The codes in error bodies are not
documented and are ours, as is 404 for an unknown rule. Which columns a rule takes is its stream's declaration: the
others are dropped silently, here as there.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from simtenant.faults import APP_ID
from simtenant.tenant import Tenant
from simtenant.tokens import InvalidTokenError
from workbench.engine import InvalidRowError, LogEngine

AUDIENCE: Final = "https://monitor.azure.com"
MAX_BODY: Final = 1024 * 1024
MAX_FIELD: Final = 64 * 1024
CALLS_PER_MINUTE: Final = 12_000
STREAMS: Final[Mapping[str, str]] = MappingProxyType({"Custom-AgentbreakerAudit_CL": "AgentbreakerAudit_CL"})


class UploadRefusedError(Exception):
    """A refusal in the API's shape."""

    def __init__(
        self, status: HTTPStatus, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    def answer(self) -> web.Response:
        """Return the error body, its code in ``x-ms-error-code`` too, and ``Retry-After`` where there is one."""
        headers = {"x-ms-error-code": self.code}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        body = {"error": {"code": self.code, "message": str(self)}}
        return web.json_response(body, status=self.status, headers=headers)


@dataclass(frozen=True, slots=True)
class Upload:
    """One accepted call: who sent it, and how many rows of how many bytes."""

    app_id: str
    rows: int
    size: int


class LogsIngestion:
    """
    ``/dataCollectionRules/{ruleId}/streams/{stream}`` for one data collection rule.

    ``publishers`` are the object ids that hold Monitoring Metrics Publisher on the rule. Accepted rows become visible
    the tenant's ``log_ingestion_delay`` after its now. ``uploads`` lists what was accepted; ``lose_answers`` lets the
    next calls be accepted without the caller learning of it (503), which no client can tell from a refusal.
    """

    def __init__(
        self, tenant: Tenant, engine: LogEngine, *, calls_per_minute: int = CALLS_PER_MINUTE
    ) -> None:
        self.tenant = tenant
        self.rule_id = f"dcr-{tenant.settings.tenant_id.replace('-', '').lower()}"
        self.publishers: set[str] = set()
        self.uploads: list[Upload] = []
        self.lose_answers = 0
        self.max_body = MAX_BODY
        self._engine = engine
        self._columns = {stream: dict(engine.tables()[table]) for stream, table in STREAMS.items()}
        self._calls_per_minute = calls_per_minute
        self._calls: deque[float] = deque()

    def routes(self) -> list[web.RouteDef]:
        """Return the one route of the API."""
        return [web.post("/dataCollectionRules/{rule}/streams/{stream}", self._post)]

    async def _post(self, request: web.Request) -> web.Response:
        try:
            app_id = self._admit(request)
            stream = request.match_info["stream"]
            rows, size = await self._rows(request)
            await asyncio.to_thread(self._store, stream, rows)
        except UploadRefusedError as refused:
            return refused.answer()
        self.uploads.append(Upload(app_id, len(rows), size))
        if self.lose_answers:
            self.lose_answers -= 1
            return UploadRefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", "Try again later."
            ).answer()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _admit(self, request: web.Request) -> str:
        try:
            claims = self.tenant.tokens.validate(request.headers.get("Authorization"), AUDIENCE)
        except InvalidTokenError as error:
            raise UploadRefusedError(HTTPStatus.UNAUTHORIZED, "InvalidToken", str(error)) from error
        request[APP_ID] = claims.app_id
        if not request.query.get("api-version"):
            raise UploadRefusedError(
                HTTPStatus.BAD_REQUEST, "MissingApiVersion", "The api-version query parameter is required."
            )
        if request.match_info["rule"] != self.rule_id:
            raise UploadRefusedError(
                HTTPStatus.NOT_FOUND, "NotFound", "The data collection rule was not found."
            )
        if claims.object_id not in self.publishers:
            raise UploadRefusedError(
                HTTPStatus.FORBIDDEN,
                "OperationFailed",
                "The authentication token provided does not have access to ingest data for the data collection rule.",
            )
        if request.match_info["stream"] not in STREAMS:
            raise UploadRefusedError(
                HTTPStatus.BAD_REQUEST, "InvalidStream", "The rule does not declare this stream."
            )
        self._count_call()
        return claims.app_id

    def _count_call(self) -> None:
        now = self.tenant.clock.now().timestamp()
        while self._calls and self._calls[0] <= now - 60:
            self._calls.popleft()
        if len(self._calls) >= self._calls_per_minute:
            wait = max(1, round(self._calls[0] + 60 - now))
            raise UploadRefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "TooManyRequests",
                "The rule's limit is reached.",
                retry_after=wait,
            )
        self._calls.append(now)

    async def _rows(self, request: web.Request) -> tuple[list[dict[str, Any]], int]:
        """Read the body, which the server has unpacked already when it came compressed."""
        raw = await request.read()
        if len(raw) > self.max_body:
            raise UploadRefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "ContentLengthLimitExceeded", "A call takes 1 MB."
            )
        try:
            rows = json.loads(raw)
        except ValueError as error:
            raise UploadRefusedError(
                HTTPStatus.BAD_REQUEST, "InvalidPayload", "The body is no JSON."
            ) from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UploadRefusedError(
                HTTPStatus.BAD_REQUEST, "InvalidPayload", "The body is no array of objects."
            )
        return rows, len(raw)

    def _store(self, stream: str, rows: list[dict[str, Any]]) -> None:
        columns = self._columns[stream]
        kept = [
            {name: _cut(value) for name, value in row.items() if name in columns and value is not None}
            for row in rows
        ]
        delay = self.tenant.settings.log_ingestion_delay if kept else timedelta(0)
        try:
            self._engine.insert(STREAMS[stream], kept, ingested_at=self.tenant.clock.now() + delay)
        except InvalidRowError as error:
            raise UploadRefusedError(HTTPStatus.BAD_REQUEST, "InvalidPayload", str(error)) from error


def _cut(value: Any) -> Any:
    """Cut a field as the service does, silently; of a dynamic that leaves text which is no JSON any more."""
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text.encode("utf-8", "replace")) <= MAX_FIELD else text[:MAX_FIELD]
