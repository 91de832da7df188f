"""
Whether the process that has a request under way still lives.

Whoever sends says so every few seconds in the store. The others judge by their *own* clock for how long that record
has not changed, because the clocks of two machines may differ by minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients.stores import Conflict, Delete, Put, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger("agentbreaker.alive")
_BEAT: Final = timedelta(seconds=2)
SILENT_FOR: Final = timedelta(seconds=8)
"""Four missed beats: the process is taken for dead. Another one then looks at the tenant, and only then may send."""
_FORGET_AFTER: Final = timedelta(minutes=10)
_MOST_REMEMBERED: Final = 4000
_LOOKS: Final = 5


@contextlib.asynccontextmanager
async def alive(attempt: str, store: Store, now: Callable[[], datetime]) -> AsyncIterator[None]:
    """Say, for as long as the block runs, that whoever makes this attempt lives. Raises nothing of its own."""

    async def beat() -> None:
        while True:
            try:
                await store.commit([Put(_key(attempt), {"at": now().isoformat()})])
            except StoreError as error:  # others may then take over, which begins with a look
                log.warning("could not say that a request is under way: %s", type(error).__name__)
            await asyncio.sleep(_BEAT.total_seconds())

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        await _forget(attempt, store)


async def _forget(attempt: str, store: Store) -> None:
    try:
        record = await store.get(_key(attempt))
        if record is not None:
            await store.commit([Delete(record.key, record.etag)])
    except (Conflict, StoreError) as error:
        log.debug("an old sign of life stays: %s", type(error).__name__)


def _key(attempt: str) -> str:
    return f"alive:{attempt}"


@dataclass(frozen=True, slots=True)
class _Sign:
    """The last sign of life noticed (the record's etag), since when it has been the last, and looks since."""

    sign: str
    since: float
    since_at: datetime
    looks: int


class Heard:
    """What one process has noticed of attempts, by its own clock. ``first`` and ``silent`` note what they are asked."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, datetime]] = {}
        self._last: dict[str, _Sign] = {}

    def noticed_for(self, attempt: str, now: datetime) -> timedelta:
        """Give how long ago this process first noticed the attempt."""
        self._forget_old()
        began = self._first.setdefault(attempt, (time.monotonic(), now))
        return _elapsed(*began, now)

    async def silent(self, attempt: str, store: Store, now: datetime) -> bool:
        """Tell whether the attempt has shown no new sign of life for ``SILENT_FOR``. Raises: StoreError."""
        record = await store.get(_key(attempt))
        sign = record.etag if record is not None else ""
        known = self._last.get(attempt)
        if known is None or known.sign != sign:
            self._last[attempt] = _Sign(sign, time.monotonic(), now, 1)
            return False
        self._last[attempt] = replace(known, looks=known.looks + 1)
        # Several looks, too: a process that itself stood still for so long has only just begun to listen.
        return known.looks >= _LOOKS and _elapsed(known.since, known.since_at, now) >= SILENT_FOR

    def _forget_old(self) -> None:
        """Keep what is young; attempts are never asked about again once they are over."""
        if len(self._first) + len(self._last) > _MOST_REMEMBERED:
            self._first = dict(list(self._first.items())[-_MOST_REMEMBERED // 4 :])
            self._last = dict(list(self._last.items())[-_MOST_REMEMBERED // 4 :])


def _elapsed(began: float, began_at: datetime, now: datetime) -> timedelta:
    """The longer of two clocks, both of this process: one stands still while a machine sleeps, one may be set."""
    return max(timedelta(seconds=time.monotonic() - began), now - began_at)


async def sweep(store: Store, now: datetime) -> None:
    """Take away signs of life of processes that died long ago. Raises: StoreError."""
    for record in await store.scan("alive:"):
        try:
            over = now - datetime.fromisoformat(record.body["at"]) > _FORGET_AFTER
        except (KeyError, TypeError, ValueError) as error:  # it says nothing about anybody
            log.warning("a sign of life is unreadable and taken away: %s", type(error).__name__)
            over = True
        if over:
            await _forget(record.key.removeprefix("alive:"), store)
