"""
The workspace's summary rules: some time after a bin's end, its rows become the baseline's, once and never again.

The queries are those of ``detections/baselines/``, the run is ``workbench.baselines.summarise``; this only watches the
tenant's clock. In Azure the platform does, with the same bins and delays (azure-monitor-docs ``summary-rules.md``).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Self

from detections import baselines
from workbench.baselines import summarise

if TYPE_CHECKING:
    from datetime import datetime

    from simtenant.tenant import Tenant
    from workbench.engine import LogEngine

_LOOK_EVERY_SECONDS: Final = 1.0


class SummaryRules:
    """
    All summary rules of a workspace; an async context manager that runs them in the background.

    Begins with the bins that are open when it is made; those before are the backfill's. A rule that fails ends all of
    them, and the exit raises what it was: a baseline with a hole is worse than none. So the exit waits for the bin
    under way.
    """

    def __init__(self, tenant: Tenant, engine: LogEngine) -> None:
        self._tenant, self._engine = tenant, engine
        now = tenant.clock.now()
        self._rules = baselines.load()
        self._next: dict[str, datetime] = {rule.table: rule.floor(now) for rule in self._rules}
        self._work: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._closing.clear()
        self._work = asyncio.create_task(self._run_until_closed(), name="summary rules")
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not by cancelling: the thread of a bin would go on behind our back, and what it raises be lost.
        self._closing.set()
        if self._work is not None:
            await self._work

    async def run_due(self) -> int:
        """Summarise every bin whose end and delay are over, oldest first. Returns how many."""
        done = 0
        for rule in self._rules:
            # The clock may have been put forward by days.
            while (at := self._next[rule.table]) + rule.bin + rule.delay <= self._tenant.clock.now():
                if self._closing.is_set():
                    return done
                await asyncio.to_thread(summarise, self._engine, rule, at)
                self._next[rule.table] = at + rule.bin
                done += 1
        return done

    async def _run_until_closed(self) -> None:
        while not self._closing.is_set():
            await self.run_due()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _LOOK_EVERY_SECONDS)
