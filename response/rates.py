"""How often a source may be heard: a sliding minute in the store, so that all processes count together."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients.stores import Conflict, Insert, Replace

if TYPE_CHECKING:
    from clients.stores import Store

WINDOW: Final = timedelta(minutes=1)
_RACES: Final = 60


async def admit(source: str, per_minute: int, store: Store, now: datetime) -> timedelta | None:
    """
    Count one call of ``source``; None when it is let in, else how long until the next one may be.

    What is refused is not counted. Raises: StoreError; then nobody was let in, Conflict when others were faster
    very often.
    """
    key = f"rate:{source}"
    for race in range(_RACES):
        record = await store.get(key)
        times = _recent(record.body["times"], now) if record else []
        if len(times) >= per_minute:
            free = datetime.fromtimestamp(times[-per_minute] / 1000, UTC) + WINDOW
            return max(free - now, timedelta(seconds=1))
        body = {"times": [*times, int(now.timestamp() * 1000)]}
        try:
            await store.commit([Insert(key, body) if record is None else Replace(key, body, record.etag)])
        except Conflict:
            await asyncio.sleep(random.uniform(0, 0.005 * (race + 1)))
        else:
            return None
    raise Conflict(key)


def _recent(times: list[int], now: datetime) -> list[int]:
    """Keep what lies in the minute around now; a clock that ran wild must not shut a source out for longer."""
    return sorted(ms for ms in times if abs(now - datetime.fromtimestamp(ms / 1000, UTC)) < WINDOW)
