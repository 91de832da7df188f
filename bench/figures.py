"""Arithmetic on measurements: medians, ratios to a target, and time that must not be counted twice."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds of the wall clock."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it is; nothing when it ends before it begins."""
        return max(0.0, self.ended - self.began)

    def clipped(self, to: Span) -> Span:
        """Give the part that lies inside another."""
        return Span(max(self.began, to.began), min(self.ended, to.ended))


def covered(spans: Iterable[Span], within: Span) -> float:
    """Give how many seconds of ``within`` lie under at least one span; where spans overlap, time counts once."""
    total, until = 0.0, within.began
    for span in sorted((s.clipped(within) for s in spans), key=lambda s: s.began):
        total += Span(max(span.began, until), span.ended).seconds
        until = max(until, span.ended)
    return total


def spread(samples: Sequence[float], *, digits: int = 3) -> Json:
    """Give p50 (median), p95 (nearest rank: a value that was measured), least and most, and how many runs."""
    ordered = sorted(samples)
    return {
        "p50": round(statistics.median(ordered), digits),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], digits),
        "min": round(ordered[0], digits),
        "max": round(ordered[-1], digits),
        "runs": len(ordered),
    }


def against(samples: Sequence[float], *, p50: float, p95: float | None = None, digits: int = 3) -> Json:
    """Give the spread, its ratios to the targets (below 1 is within), and whether every target is met."""
    found = spread(samples, digits=digits)
    ratios = {"p50": round(found["p50"] / p50, 3)}
    if p95 is not None:
        ratios["p95"] = round(found["p95"] / p95, 3)
    return found | {"ratioToTarget": ratios, "ok": all(ratio <= 1 for ratio in ratios.values())}
