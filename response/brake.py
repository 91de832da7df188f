"""The storm brake: how many automatic containments there were, and how many are allowed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.terms import NotAsked, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from response.policy import ResponsePolicy

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(hours=24)
STAYS: Final = "the mode is approve until a person releases the brake"


@dataclass(frozen=True, slots=True)
class Automatic:
    """One automatic containment: when it was claimed, and the object ids of the principal's owners."""

    at: datetime
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Automatic containments of all runs: in the last hour, in the last day, and in a day for any one owner."""

    last_hour: int
    last_day: int
    by_owner: int


def read(body: Mapping[str, Any]) -> tuple[Automatic, ...]:
    """Read the brake's record. Raises: KeyError, TypeError or ValueError for anything else."""
    return tuple(
        Automatic(datetime.fromisoformat(one), ())  # records of before owners were counted hold times alone
        if isinstance(one, str)
        else Automatic(datetime.fromisoformat(one["at"]), tuple(map(str, one["owners"])))
        for one in body["times"]
    )


def written(known: Iterable[Automatic], now: datetime, owners: Iterable[str]) -> dict[str, Any]:
    """Give the record with one more, without those that count no longer."""
    kept = [one for one in known if now - one.at < DAY]
    more = Automatic(now, tuple(sorted(owners)))
    return {"times": [{"at": one.at.isoformat(), "owners": list(one.owners)} for one in (*kept, more)]}


def count(known: Iterable[Automatic], owners: Iterable[str], now: datetime) -> Counts:
    """Count what is in the windows; ``owners`` are those of the principal in question."""
    day = [one for one in known if now - one.at < DAY]
    theirs = [sum(owner in one.owners for one in day) for owner in owners]
    return Counts(sum(now - one.at < HOUR for one in day), len(day), max(theirs, default=0))


def asks_for_share(counts: Counts, policy: ResponsePolicy) -> bool:
    """Whether the share of active principals decides: up to the number of an hour it never does."""
    return counts.last_day >= policy.automatic_per_hour


def reached(counts: Counts, active: int | Unknown | NotAsked, policy: ResponsePolicy) -> str | Unknown:
    """
    Say which limit is reached; empty when none is, Unknown when that cannot be told.

    ``active`` is asked only where ``asks_for_share``.
    """
    if counts.last_hour >= policy.automatic_per_hour:
        return (
            f"{counts.last_hour} automatic containments in the last hour, {policy.automatic_per_hour} are allowed "
            "(AGENTBREAKER_AUTOMATIC_PER_HOUR)"
        )
    if counts.last_day >= policy.automatic_per_day:
        return (
            f"{counts.last_day} automatic containments in the last 24 hours, {policy.automatic_per_day} are allowed "
            "(AGENTBREAKER_AUTOMATIC_PER_DAY)"
        )
    if counts.by_owner >= policy.automatic_per_owner:
        return (
            f"{counts.by_owner} automatic containments in 24 hours of principals of one owner, "
            f"{policy.automatic_per_owner} are allowed (AGENTBREAKER_AUTOMATIC_PER_OWNER)"
        )
    if not asks_for_share(counts, policy):
        return ""
    if isinstance(active, Unknown | NotAsked):
        return Unknown(f"how many principals are active could not be counted: {active.why}")
    allowed = max(policy.automatic_per_hour, active * policy.automatic_share_percent // 100)
    if counts.last_day >= allowed:
        return (
            f"{counts.last_day} automatic containments in the last 24 hours, {allowed} allowed for "
            f"{active} principals active in that time (AGENTBREAKER_AUTOMATIC_SHARE_PERCENT)"
        )
    return ""
