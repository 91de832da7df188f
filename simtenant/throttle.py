"""
The shared quota of ID Protection and Conditional Access.

Graph allows about one request a second on these paths, per tenant, all apps
together, and answers 429 **without** Retry-After when there are more.
Source: microsoft-graph-docs-contrib concepts/throttling-limits.md and
includes/throttling-identityprotection-ca.md (collected in facts/entra.md §5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Throttle:
    """
    A bucket that refills with time and holds at most one second's requests.

    ``accepted`` and ``refused`` count what was asked since the start.
    ``others_per_second`` is what other tools of the same tenant use up, evenly;
    at or above the quota nothing is left and every request is refused. How
    Microsoft counts inside the second is not published; a bucket is our guess.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.others_per_second = 0.0
        self._level: float | None = None
        self._seen: datetime | None = None

    def acquire(self, now: datetime, per_second: float) -> bool:
        """Take one request out of the quota; ``False`` means answer 429."""
        self._refill(now, per_second)
        if self._level is not None and self._level >= 1:
            self._level -= 1
            self.accepted += 1
            return True
        self.refused += 1
        return False

    def take(self, requests: float, now: datetime, per_second: float) -> None:
        """Let another tool use ``requests`` of the quota at once, possibly ahead of time."""
        self._refill(now, per_second)
        if self._level is not None:
            self._level -= requests

    def _refill(self, now: datetime, per_second: float) -> None:
        capacity = max(1.0, per_second)
        if self._level is None or self._seen is None:
            self._level = capacity
        else:
            elapsed = max(0.0, (now - self._seen).total_seconds())
            left = per_second - self.others_per_second
            self._level = min(capacity, self._level + elapsed * left)
            if left < 0:
                # Others can empty the bucket, but do not run up a debt: Graph
                # refuses their surplus as it refuses ours.
                self._level = max(0.0, self._level)
        self._seen = now
