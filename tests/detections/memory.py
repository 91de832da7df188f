"""A workspace and a store in memory, for what a sweep does with rows that come late, calls that fail and runs that meet."""

import asyncio
import itertools
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from clients.errors import ClientError
from clients.logs import Rows
from clients.stores import Conflict, Delete, Insert, Put, Record, Replace
from detections.catalog import DETECTIONS, RESULT_COLUMNS, Rule, SweepGroup
from response.policy import Mode, ResponsePolicy

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
PRINCIPALS = tuple(f"11111111-2222-4333-8444-{number:012d}" for number in range(1, 9))
_ANY = Rule.from_folder(DETECTIONS / "ag_07_probing")
_BOUND = re.compile(r"^let window(?:Start|End) = datetime\(([^)]+)\);$", re.MULTILINE)


def rule(**changes: Any) -> Rule:
    """A rule that says what happened in its window, a row a principal and resource."""
    given = {
        "id": "AG-07",
        "window": timedelta(minutes=15),
        "late_arrival": timedelta(minutes=10),
        "lookback": timedelta(0),
        "quiet_for": timedelta(0),
        "sweep": SweepGroup.WINDOWED,
        "lifts": (),
        "only_failures": False,
        "tier_by_confidence": {},
        "query": "let windowStart = ago(25m);\nlet windowEnd = now();\nT",
    }
    return replace(_ANY, **(given | changes))


@dataclass(frozen=True)
class Event:
    """Something happened at ``at`` and can be queried from ``seen`` on."""

    principal: str
    at: datetime
    seen: datetime
    resource: str = ""
    rule_text: str = "T"


@dataclass
class Workspace:
    """Answers each query with what is visible in its window by now; ``failures`` are raised first, one a query."""

    events: list[Event]
    clock: "Clock"
    failures: list[ClientError | None] = field(default_factory=list)
    windows: list[tuple[datetime, datetime]] = field(default_factory=list)
    confidence: str = "medium"
    broken: ClientError | None = None

    async def query(self, kql: str, start: datetime, end: datetime) -> Rows:
        await asyncio.sleep(0)
        if not _BOUND.search(kql):  # what evidence asks: no change is announced, and nobody signed in
            return Rows(("PrincipalId", "Opens", "Closes"), ())
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        first, last = (datetime.fromisoformat(text) for text in _BOUND.findall(kql))
        assert start <= first
        assert end == last
        self.windows.append((first, last))
        seen: dict[tuple[str, str], list[datetime]] = {}
        for event in self.events:
            if first <= event.at <= last and event.seen <= self.clock.now and kql.endswith(event.rule_text):
                seen.setdefault((event.principal, event.resource), []).append(event.at)
        rows = []
        for (principal, resource), times in seen.items():
            values = {
                "PrincipalId": principal,
                "FirstSeen": min(times),
                "LastSeen": max(times),
                "Count": len(times),
                "Resource": resource,
                "Confidence": self.confidence,
                "EventIds": "[]",
            }
            rows.append(tuple(values.get(name, "") for name in RESULT_COLUMNS))
        return Rows(RESULT_COLUMNS, tuple(rows))


@dataclass
class Clock:
    now: datetime = NOON


class Memory:
    """The store's contract on a dictionary; every call lets others run. ``failures``: one a commit."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.history: list[Insert | Replace | Put | Delete] = []
        self.failures: list[Exception | None] = []
        self._etags = itertools.count()

    async def get(self, key: str) -> Record | None:
        await asyncio.sleep(0)
        return self.records.get(key)

    async def get_many(self, keys: list[str]) -> list[Record | None]:
        return [await self.get(key) for key in keys]

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        await asyncio.sleep(0)
        keys = sorted(key for key in self.records if key.startswith(prefix) and key > after)
        return [self.records[key] for key in keys[:limit]]

    async def commit(self, writes: Any) -> dict[str, str]:
        await asyncio.sleep(0)
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        for write in writes:
            before = self.records.get(write.key)
            if isinstance(write, Insert) and before is not None:
                raise Conflict(write.key)
            if isinstance(write, Replace | Delete) and (before is None or before.etag != write.etag):
                raise Conflict(write.key)
        etags = {}
        for write in writes:
            self.history.append(write)
            if isinstance(write, Delete):
                del self.records[write.key]
                continue
            etags[write.key] = str(next(self._etags))
            self.records[write.key] = Record(write.key, dict(write.body), etags[write.key])
        return etags

    def watermarks(self) -> list[datetime]:
        """Every watermark that was ever written, in order."""
        moved = [w for w in self.history if w.key.startswith("watermark:") and not isinstance(w, Delete)]
        return [datetime.fromisoformat(w.body["until"]) for w in moved]


def world(workspace: Workspace, store: Memory) -> Any:
    policy = ResponsePolicy(Mode.ENFORCE, {}, frozenset(), 3)
    return SimpleNamespace(
        logs=workspace,
        store=store,
        now=lambda: workspace.clock.now,
        policy=policy,
        background=asyncio.Semaphore(3),
    )
