"""The simulated tenant's time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """
    Real time plus an offset that only ever grows.

    Everything in ``simtenant`` takes the time from its tenant's clock, so a
    test lets a token expire by advancing the clock instead of waiting. What
    sleeps for real (latency faults) does not look at it.
    """

    def __init__(self) -> None:
        self._offset = timedelta(0)

    def now(self) -> datetime:
        """Return the tenant's time: aware, UTC."""
        return datetime.now(UTC) + self._offset

    def advance(self, by: timedelta) -> None:
        """
        Move the tenant's time forward.

        Raises: ValueError for a negative step; tokens and risk states would
        otherwise travel back to before they were made.
        """
        if by < timedelta(0):
            raise ValueError(f"a clock does not go back (asked for {by})")
        self._offset += by


def iso(moment: datetime) -> str:
    """Write a UTC time the way Graph does: ``2026-11-24T02:04:57.123456Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
