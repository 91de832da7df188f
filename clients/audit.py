"""The audit table in the workspace, through azure-monitor-ingestion: rows in, accepted or an error out."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients import retry
from clients.errors import ClientError, NotSent, OutcomeUnknown, Refused, from_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from azure.core.credentials_async import AsyncTokenCredential

SERVICE: Final = "Logs ingestion"
# A call takes 1 MB, uncompressed too (Azure Monitor's limits-custom-logs). The SDK cuts at 1 MiB without counting
# what stands between rows; we cut below, so that one upload is one call, and its answer is about these rows.
MAX_CALL: Final = 900_000
_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 10  # of silence on the socket
_WHOLE_SECONDS: Final = 15  # one request from start to end
_WITHIN: Final = timedelta(seconds=15)  # ``settle`` comes again every 30 s
_GOVERNMENT: Final = ".ingest.monitor.azure.us"


def size(row: Mapping[str, Any]) -> int:
    """Give how many bytes a row takes of a call, with what stands between it and the next."""
    return len(json.dumps(row)) + 2


class AuditClient:
    """Appends rows to one stream of one data collection rule."""

    def __init__(
        self,
        endpoint: str,
        credential: AsyncTokenCredential,
        rule_id: str,
        stream: str,
        *,
        ca_bundle: str = "",
    ) -> None:
        from azure.monitor.ingestion.aio import LogsIngestionClient

        url = urlsplit(endpoint)
        cloud = "us" if (url.hostname or "").endswith(_GOVERNMENT) else "com"
        # The bearer policy refuses http; settings allow it for localhost only.
        self._options: dict[str, Any] = {"enforce_https": False} if url.scheme == "http" else {}
        transport: dict[str, Any] = {"connection_verify": ca_bundle} if ca_bundle else {}
        self._client = LogsIngestionClient(
            endpoint,
            credential,
            credential_scopes=[f"https://monitor.azure.{cloud}/.default"],
            retry_total=0,  # one retry layer: ours
            permit_redirects=False,
            connection_timeout=_CONNECT_SECONDS,
            read_timeout=_ANSWER_SECONDS,
            **transport,
        )
        self._rule_id, self._stream = rule_id, stream

    async def upload(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """
        Send rows in one call; returns when the service has accepted them (204). Queries see them minutes later.

        Retried is what surely was not taken: throttled, or never sent. Raises: ValueError for rows that need more
        than one call; OutcomeUnknown when they may have been taken; Throttled, NotSent after the retries; Refused
        (the role Monitoring Metrics Publisher on the rule is missing), NotFound, BadRequest (413: too large).
        """
        if sum(map(size, rows)) > MAX_CALL:
            raise ValueError(f"one call takes {MAX_CALL} bytes of rows")
        async for attempt in retry.reads(within=_WITHIN):
            with attempt:
                await self._once(rows)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _once(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from azure.core.exceptions import AzureError

        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                await self._client.upload(
                    self._rule_id, self._stream, [dict(row) for row in rows], **self._options
                )
        except AzureError as error:
            raise _translated(error) from error
        except TimeoutError as error:
            raise OutcomeUnknown(SERVICE, "no answer in time") from error


def _translated(error: Exception) -> ClientError:
    import aiohttp
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceRequestTimeoutError,
    )

    # azure.core's aiohttp transport makes a ServiceRequestError, documented as "never sent", of a connection that
    # broke while we waited for the answer, too. Only an unopened connection is certain.
    if isinstance(error, ServiceRequestTimeoutError) or (
        isinstance(error, ServiceRequestError)
        and isinstance(error.inner_exception, aiohttp.ClientConnectorError)
    ):
        return NotSent(SERVICE, "not reached")
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        headers = dict(getattr(error.response, "headers", None) or {})
        code = str(getattr(error.error, "code", None) or "")
        return from_status(SERVICE, "upload", error.status_code, code=code, headers=headers, write=True)
    if isinstance(error, ClientAuthenticationError):  # azure-identity got no token, so nothing was sent
        return Refused(SERVICE, "no token")
    return OutcomeUnknown(SERVICE, f"no answer: {type(error).__name__}")
