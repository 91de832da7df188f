"""
The tenant's ID Protection second: who may send the next ID Protection or Conditional Access request.

The whole tenant has about one such request a second, all applications together, without Retry-After
(docs throttling-limits). The turn is a record in the store, so that all processes of this app share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients import telemetry
from clients.stores import Conflict, Insert, Replace, Store, StoreError
from clients.telemetry.words import QUOTA_WAITS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger("agentbreaker.turns")
KEY: Final = "slot:identity-protection"
# A little over the documented second: clocks of two processes differ, and a refused try costs a turn too.
INTERVAL: Final = timedelta(seconds=1.05)

_RENEWED_EVERY: Final = 0.1  # seconds at least, however short an interval a measurement sets


class Turns:
    """Gives out turns, one per ``INTERVAL``, over all processes on one store."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store, self._now, self._lock = store, now, asyncio.Lock()
        self._etag = ""  # of the turn that this process took last

    async def try_take(self) -> timedelta | None:
        """
        Take the next turn if it is free. Returns None when taken, else how long until it may be.

        Raises: StoreError. Then no turn was taken, and nothing may be sent.
        """
        async with self._lock:  # one taker a process: the store decides only between processes
            record = await self._store.get(KEY)
            now = (
                self._now()
            )  # not before: reading takes time, and whoever holds the turn renews it meanwhile
            if record is not None:
                wait = datetime.fromisoformat(record.body["free_at"]) - now
                # A turn further ahead than two intervals was written by a clock that ran wild: take it. Between one
                # and two it may only be a little ahead of ours, and its holder is at work.
                if timedelta(0) < wait <= 2 * INTERVAL:
                    return wait
            body = {"free_at": (now + INTERVAL).isoformat()}
            write = Insert(KEY, body) if record is None else Replace(KEY, body, record.etag)
            try:
                self._etag = (await self._store.commit([write]))[KEY]
            except Conflict:
                return INTERVAL
            return None

    async def take(self) -> None:
        """Wait for a turn and take it. Raises: as ``try_take``."""
        began = 0.0
        while (wait := await self.try_take()) is not None:
            began = began or time.monotonic()
            await asyncio.sleep(wait.total_seconds())
        if began:
            telemetry.measure(QUOTA_WAITS, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[Turn]:
        """
        Keep the turn just taken for as long as the block runs, which gathers and records what is to be sent.

        Without it the next turn would be given out meanwhile, and of two requests in a second one is refused. It is
        free an ``INTERVAL`` after the block, or the process, has ended. Enter it right after ``take`` or ``try_take``.
        """
        turn = Turn(self, self._etag)
        holding = asyncio.create_task(turn.hold())
        try:
            yield turn
        finally:
            holding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await holding

    async def renew(self, etag: str) -> str:
        """Count the next turn from now, if the one with this etag is still the last. Raises: Conflict; StoreError."""
        free_at = (self._now() + INTERVAL).isoformat()
        return (await self._store.commit([Replace(KEY, {"free_at": free_at}, etag)]))[KEY]


class Turn:
    """One turn, kept by ``Turns.held``."""

    def __init__(self, turns: Turns, etag: str) -> None:
        self._turns, self._etag, self._lock, self._over = turns, etag, asyncio.Lock(), False

    async def hold(self) -> None:
        """Keep it until the request goes out, or somebody else has taken the next one."""
        while not self._over:
            await asyncio.sleep(max(INTERVAL.total_seconds() / 3, _RENEWED_EVERY))
            try:
                await self._renew()
            except StoreError as error:  # then it may be lost, which ``sending`` finds out
                log.debug("a turn could not be kept: %s", type(error).__name__)

    async def sending(self) -> None:
        """
        Say that the request goes out now; wait for another turn where this one went to somebody else meanwhile.

        Between turn and request a batch is gathered and recorded, which takes time; the next turn is counted
        from here, or the next request would follow too soon and be refused. Raises: as ``Turns.try_take``.
        """
        try:
            await self._renew()
        except Conflict:
            await self._turns.take()
        self._over = True

    async def _renew(self) -> None:
        async with self._lock:
            if not self._over:
                self._etag = await self._turns.renew(self._etag)
