"""
How log rows reach the workspace: late, in batches, and some of them more than once.

A detection that only works on punctual, unique rows works nowhere, so the delay and the duplicates are the
point of this module. Sources: ``facts/log-tables.md`` §0.3 (2.7 % of Graph activity rows and about 4 % of
service principal sign-ins arrive again, up to four copies, payload identical, envelope time different), §0.4
(the envelope time of a sign-in runs after its ``CreatedDateTime``) and §8 (latency a table).
"""

import asyncio
import contextlib
import random
import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self

from simtenant.tenant import Tenant
from workbench.engine import LogEngine

SIGN_IN_TABLES: Final = frozenset({"AADServicePrincipalSignInLogs", "AADManagedIdentitySignInLogs"})

# How much later than a sign-in row a table's rows arrive, from the latencies of facts/log-tables.md §8. Damped: a demo
# with a delay of two seconds should wait for Office rows, but not fifteen times as long as the real ratio says.
DELAY_FACTORS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "MicrosoftGraphActivityLogs": 1.5,
        "OfficeActivity": 3.0,
        "AuditLogs": 1.2,
    }
)

# Shares of the duplicated rows that come a third and a fourth time; only "up to four copies" is measured.
_THIRD_COPY = 0.06
_FOURTH_COPY = 0.01

_WRITE_EVERY_SECONDS = 0.05


class IngestionFailedError(RuntimeError):
    """Rows could not be written to the workspace and are lost; the cause says why."""


class Ingestion:
    """
    Take log rows at once and let the workspace show them later: the tenant's ``LogSink``.

    Each row becomes visible ``log_ingestion_delay`` times the factor of its table after the tenant's now, give or take
    a fifth, and ``duplicate_share`` of them arrive again with a later envelope and ingestion time; both settings are
    read at each row. The visibility itself is
    the engine's: a row is stored with its future ingestion time and queries do not see beyond their own clock.

    Used as an async context manager it writes in the background; otherwise ``flush`` writes. Once the background
    writer has failed, every ``write``, ``flush`` and the exit raise: nothing is accepted after a loss.
    """

    def __init__(
        self, tenant: Tenant, engine: LogEngine, *, factors: Mapping[str, float] = DELAY_FACTORS
    ) -> None:
        self._tenant = tenant
        self._engine = engine
        self._random = random.Random(tenant.settings.seed)
        self._factors = factors
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._waiting: dict[str, list[tuple[dict[str, object], datetime]]] = defaultdict(list)
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write_forever(), name="log ingestion")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._raise_failure()
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        await self.flush()

    def write(self, table: str, row: Mapping[str, object]) -> None:
        """
        Accept one row; it is stored later and seen later still.

        ``TimeGenerated`` of a sign-in is the envelope's and is set here, between ``CreatedDateTime`` and the
        ingestion; for other tables it is kept, or is now. ``Type`` and ``TenantId`` (the workspace) are filled.

        Raises: IngestionFailedError when the background writer could not store an earlier row.
        """
        self._raise_failure()
        now = self._tenant.clock.now()
        with self._lock:
            for copy in range(1 + self._extra_copies()):
                delivered, ingested_at = self._envelope(table, row, now, copy)
                self._waiting[table].append((delivered, ingested_at))

    async def flush(self) -> None:
        """
        Store everything accepted so far; returns when it is in the engine (not: visible).

        Raises: IngestionFailedError when the background writer has failed, or what the engine objects to now.
        """
        self._raise_failure()
        # Also with nothing waiting: the background writer may hold rows that are not stored yet.
        await asyncio.to_thread(self._store)
        self._raise_failure()

    def _extra_copies(self) -> int:
        if self._random.random() >= self._tenant.settings.duplicate_share:
            return 0
        draw = self._random.random()
        return 3 if draw < _FOURTH_COPY else 2 if draw < _THIRD_COPY else 1

    def _envelope(
        self, table: str, row: Mapping[str, object], now: datetime, copy: int
    ) -> tuple[dict[str, object], datetime]:
        delay = self._tenant.settings.log_ingestion_delay
        lateness = delay * self._factors.get(table, 1.0) * self._random.uniform(0.8, 1.2)
        ingested_at = now + lateness + copy * delay * self._random.uniform(0.2, 0.6)
        happened = row.get("CreatedDateTime") if table in SIGN_IN_TABLES else row.get("TimeGenerated")
        if not isinstance(happened, datetime):
            happened = now
        delivered: dict[str, object] = {"Type": table, "TenantId": self._tenant.settings.workspace_id, **row}
        if table in SIGN_IN_TABLES:
            delivered["CreatedDateTime"] = happened
            delivered["TimeGenerated"] = happened + (ingested_at - now) * self._random.uniform(0.3, 0.9)
        else:
            delivered["TimeGenerated"] = happened + copy * (ingested_at - now) * self._random.uniform(
                0.1, 0.3
            )
        return delivered, ingested_at

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_EVERY_SECONDS)
            if self._waiting:
                await asyncio.to_thread(self._store)

    def _store(self) -> None:
        # One writer at a time, and the taking under the same lock: a flush returns only when the rows another
        # thread took before it are stored as well.
        with self._write_lock:
            with self._lock:
                waiting, self._waiting = self._waiting, defaultdict(list)
            for table, rows in waiting.items():
                self._engine.insert(
                    table, [row for row, _ in rows], ingested_at=[ingested_at for _, ingested_at in rows]
                )

    def _raise_failure(self) -> None:
        """Pass on what ended the background writer: the tenant's log has a hole from then on."""
        writer = self._writer
        if writer is not None and writer.done() and not writer.cancelled():
            raise IngestionFailedError("log rows were lost, see the cause") from writer.exception()
