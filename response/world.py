"""The outside things of one run. Only the flow sees the whole; each step is given what it uses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from response.alive import Heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta

    from clients.audit import AuditClient
    from clients.errors import ClientError
    from clients.graph import GraphClient
    from clients.logs import LogsClient
    from clients.sentinel import SentinelClient
    from clients.stores import Store
    from clients.terms import ObjectId
    from clients.webhook import WebhookClient
    from response.policy import ResponsePolicy
    from response.turns import Turns


_IN_BACKGROUND: Final = 3  # one less than ``clients/logs.py`` allows at once


class ReadingGate:
    """
    One run of a process reads what all need, policies say, while the others wait for its answer: a reading costs a turn.

    A failure is an answer too: whoever waited gets it, instead of trying as long again, one after the other.
    """

    REMEMBERED_SECONDS: Final = 5.0

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._failed: tuple[float, ClientError] | None = None

    def failed(self, error: ClientError) -> None:
        """Remember a failed reading."""
        self._failed = time.monotonic(), error

    def raise_if_just_failed(self) -> None:
        """Raise what the last reading raised, if that was a moment ago."""
        if self._failed is not None and time.monotonic() - self._failed[0] < self.REMEMBERED_SECONDS:
            raise self._failed[1]


@dataclass(slots=True)
class Crowd:
    """
    How many runs of this process are on their way to a batch, and how many wait for one.

    Whoever gathers a batch waits a moment for those on their way (``batches.py``); the more wait, the less often
    each looks. A wrong number costs time and nothing else.
    """

    arriving: int = 0
    waiting: int = 0
    looking: set[str] = field(default_factory=set)
    """Attempts of dead processes that a run of this one looks after at the moment."""

    @contextlib.contextmanager
    def arrives(self) -> Iterator[None]:
        """Count a run as on its way for as long as the block runs."""
        self.arriving += 1
        try:
            yield
        finally:
            self.arriving -= 1

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Count a run as waiting for as long as the block runs."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


@dataclass(frozen=True, slots=True)
class World:
    """Clients, store and policy of one process; ``now`` gives aware UTC. ``webhook`` None: nobody is told by one."""

    graph: GraphClient
    logs: LogsClient
    sentinel: SentinelClient
    store: Store
    turns: Turns
    policy: ResponsePolicy
    own_principals: frozenset[ObjectId]
    policies_max_age: timedelta
    batch_size: int
    now: Callable[[], datetime]
    what_if: bool = False
    """Whether Microsoft's What If is asked as a second opinion on whether a policy would block."""
    heard: Heard = field(default_factory=Heard)
    """What this process has noticed of requests that others have under way."""
    crowd: Crowd = field(default_factory=Crowd)
    webhook: WebhookClient | None = None
    policies_gate: ReadingGate = field(default_factory=ReadingGate)
    windows_gate: ReadingGate = field(default_factory=ReadingGate)
    active_gate: ReadingGate = field(default_factory=ReadingGate)
    background: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_IN_BACKGROUND))
    """To be held for a log query that can wait: whoever has no time finds one of the client's free."""
    audit: AuditClient | None = None
    """Where the ledger is shipped to; None where no audit table was set."""
