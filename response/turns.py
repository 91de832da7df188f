"""
The tenant's ID Protection second: who may send the next ID Protection or Conditional Access request.

The whole tenant has about one such request a second, all applications together, without Retry-After
(docs throttling-limits). The turn is a record in the store, so that all processes of this app share it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients.stores import Conflict, Insert, Put, Replace, Store

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = "slot:identity-protection"
# A little over the documented second: clocks of two processes differ, and a refused try costs a turn too.
INTERVAL: Final = timedelta(seconds=1.05)


class Turns:
    """Gives out turns, one per ``INTERVAL``, over all processes on one store."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store, self._now, self._lock = store, now, asyncio.Lock()

    async def try_take(self) -> timedelta | None:
        """
        Take the next turn if it is free. Returns None when taken, else how long until it may be.

        Raises: StoreError. Then no turn was taken, and nothing may be sent.
        """
        async with self._lock:  # one taker a process: the store decides only between processes
            now = self._now()
            record = await self._store.get(KEY)
            if record is not None:
                wait = datetime.fromisoformat(record.body["free_at"]) - now
                # A turn further ahead than one interval was written by a clock that ran wild: take it.
                if timedelta(0) < wait <= INTERVAL:
                    return wait
            body = {"free_at": (now + INTERVAL).isoformat()}
            write = Insert(KEY, body) if record is None else Replace(KEY, body, record.etag)
            try:
                await self._store.commit([write])
            except Conflict:
                return INTERVAL
            return None

    async def sending(self) -> None:
        """
        Say that the request of the turn just taken goes out now.

        Between turn and request a batch is gathered and recorded, which takes time; the next turn is counted
        from here, or the next request would follow too soon and be refused. Raises: as ``try_take``.
        """
        await self._store.commit([Put(KEY, {"free_at": (self._now() + INTERVAL).isoformat()})])

    async def take(self) -> None:
        """Wait for a turn and take it. Raises: as ``try_take``."""
        while (wait := await self.try_take()) is not None:
            await asyncio.sleep(wait.total_seconds())
