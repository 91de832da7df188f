"""The one retry layer: tenacity, at the call. The SDKs' own retries are off, so that waits do not multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_base, wait_random_exponential

from clients.errors import NotSent, Throttled, Unavailable

if TYPE_CHECKING:
    from datetime import timedelta


class _AsAsked(wait_base):
    """Wait the time that the service named; where it named none, back off exponentially with jitter."""

    _unasked = wait_random_exponential(multiplier=0.4, max=4)
    # Graph says to back off exponentially without Retry-After, and a refused try counts against the
    # quota (concepts/throttling.md); a second is one turn of the ID Protection quota.
    _throttled = wait_random_exponential(multiplier=1, min=1, max=5)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, Throttled):
            if error.retry_after is not None:
                return error.retry_after.total_seconds()
            return self._throttled(retry_state)
        return self._unasked(retry_state)


def reads(*, within: timedelta) -> AsyncRetrying:
    """
    Retry a read: what was throttled, unavailable or never sent, five times at most, and not beyond ``within``.

    Writes are not retried here at all. Who writes decides after looking (``response/containment.py``).
    """
    seconds = within.total_seconds()
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, Throttled | Unavailable | NotSent)),
        wait=_AsAsked(),
        stop=stop_after_attempt(5) | stop_before_delay(seconds),
        reraise=True,
    )
