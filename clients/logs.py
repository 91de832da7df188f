"""Log Analytics, through azure-monitor-query: one query in, all rows or an error out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients import retry, telemetry
from clients.errors import Malformed, NotSent, Partial, Refused, Unavailable, from_status
from clients.telemetry.words import SpanName

if TYPE_CHECKING:
    from datetime import datetime

    from azure.core.credentials_async import AsyncTokenCredential

SERVICE: Final = "Log Analytics"
# The workspace runs 5 queries of one identity at a time (azure-monitor-limits-log-queries);
# one is left for people who look while we do.
_AT_ONCE: Final = 4
_SERVER_TIMEOUT: Final = timedelta(seconds=120)
_WITHIN: Final = timedelta(seconds=150)


@dataclass(frozen=True, slots=True)
class Rows:
    """A complete answer: column names and rows. datetimes are aware UTC, dynamic values are JSON text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class LogsClient:
    """Queries one workspace. One instance a process, so that the four-at-once limit holds."""

    def __init__(
        self, base_url: str, credential: AsyncTokenCredential, workspace_id: str, *, ca_bundle: str = ""
    ) -> None:
        from azure.monitor.query.aio import LogsQueryClient

        url = urlsplit(base_url)
        # The bearer policy refuses http; settings allow it for localhost only.
        self._options: dict[str, Any] = {"enforce_https": False} if url.scheme == "http" else {}
        transport: dict[str, Any] = {"connection_verify": ca_bundle} if ca_bundle else {}
        self._client = LogsQueryClient(
            credential,
            endpoint=f"{base_url}/v1",
            audience="https://api.loganalytics.io"
            if url.hostname in ("localhost", "127.0.0.1")
            else base_url,
            retry_total=0,  # one retry layer: ours
            **transport,
        )
        self._workspace, self._gate = workspace_id, asyncio.Semaphore(_AT_ONCE)

    async def query(self, kql: str, start: datetime, end: datetime) -> Rows:
        """
        Run a query over rows between two times.

        Raises: Partial (never a short result); Throttled, Unavailable or NotSent after the retries;
        Refused; BadRequest (the query is wrong, or a table it names is not in the workspace).
        """
        if start.tzinfo is None or end.tzinfo is None or start >= end:
            # azure-monitor-query takes naive times for UTC and an empty span for "no limit".
            raise ValueError("a query needs two aware times, the first before the second")
        async with self._gate:
            async for attempt in retry.reads(within=_WITHIN):
                with attempt, telemetry.call(SpanName.LOG_QUERY, SERVICE, "query"):
                    return await self._once(kql, start, end)
        raise AssertionError("tenacity ends in a result or an error")  # pragma: no cover

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _once(self, kql: str, start: datetime, end: datetime) -> Rows:
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ServiceRequestError,
        )

        try:
            answer: Any = await self._client.query_workspace(
                self._workspace,
                kql,
                timespan=(start.astimezone(UTC), end.astimezone(UTC)),
                server_timeout=int(_SERVER_TIMEOUT.total_seconds()),
                **self._options,
            )
        except ClientAuthenticationError as error:
            raise Refused(SERVICE, "query", status=error.status_code or 401) from error
        except HttpResponseError as error:
            if error.status_code is None:
                raise Malformed(SERVICE, "query: unreadable answer") from error
            headers = dict(getattr(error.response, "headers", None) or {})
            code = getattr(error.error, "code", None) or ""
            raise from_status(SERVICE, "query", error.status_code, code=code, headers=headers) from error
        except ServiceRequestError as error:
            raise NotSent(SERVICE, "not reached") from error
        except AzureError as error:
            raise Unavailable(SERVICE, f"no answer: {type(error).__name__}") from error
        return _rows(answer)


def _rows(answer: Any) -> Rows:
    """A partial answer arrives as HTTP 200 and raises nothing by itself."""
    from azure.monitor.query import LogsQueryPartialResult

    if isinstance(answer, LogsQueryPartialResult):
        raise Partial(SERVICE, "partial result", code=getattr(answer.partial_error, "code", None) or "")
    if not answer.tables:
        raise Malformed(SERVICE, "answer without a table")
    table = answer.tables[0]
    return Rows(tuple(table.columns), tuple(tuple(row) for row in table.rows))
