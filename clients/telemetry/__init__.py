"""
What this process says about itself: spans, measurements, and its own log lines. Off until ``switch_on``.

Off, a call here compares a name with None and returns one object that does nothing; no OpenTelemetry module is
imported. On, ``otel.py`` hands what is said here to OpenTelemetry, and ``azure.py`` to Application Insights.

Names and attributes come from ``words.py`` and nowhere else: an object id, a name or a token has no place to stand in.
Nothing here raises: a fault of telemetry is logged and never stops what it tells about.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

from clients.errors import ClientError
from clients.telemetry.words import SERVICE_ERRORS, Metric, SpanName

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from clients.telemetry.words import Value


class Span(Protocol):
    """A stretch of work that is being told about."""

    def set(self, **attributes: Value) -> None:
        """Add attributes; each is one of ``words.ATTRIBUTES``."""
        ...


class Backend(Protocol):
    """Where it goes. Two implementations: ``otel.OtelBackend``, and none."""

    def span(
        self, name: SpanName, parent: str, links: Sequence[str], attributes: dict[str, Value]
    ) -> AbstractContextManager[Span]:
        """Open a span around a block."""
        ...

    def measure(self, metric: Metric, value: float, attributes: dict[str, Value]) -> None:
        """Add to a counter, or record in a histogram."""
        ...

    def current(self) -> str:
        """Give the traceparent of the span that is open here, empty outside of any."""
        ...


class _Nothing:
    """The span of a process that tells nothing."""

    def set(self, **attributes: Value) -> None:
        """Do nothing."""


_NO_SPAN: Final = nullcontext[Span](_Nothing())
_backend: Backend | None = None


def switch_on(backend: Backend | None) -> None:
    """Tell ``backend`` from now on; None: nobody. Called once a process, before its first run."""
    global _backend  # noqa: PLW0603  # set once at start and then only read, like a logger's level
    _backend = backend


def is_on() -> bool:
    """Whether anybody is told."""
    return _backend is not None


def span(
    name: SpanName, *, parent: str = "", links: Sequence[str] = (), **attributes: Value
) -> AbstractContextManager[Span]:
    """
    Open a span around a block; an exception that leaves the block is noted by its type and passes on.

    ``parent`` and ``links`` are traceparents as ``current`` gives them; without a parent the span that is open here is.
    """
    if _backend is None:
        return _NO_SPAN
    return _backend.span(name, parent, links, attributes)


def measure(metric: Metric, value: float = 1, **attributes: Value) -> None:
    """Add to a counter, or record in a histogram."""
    if _backend is not None:
        _backend.measure(metric, value, attributes)


def current() -> str:
    """Give the W3C traceparent of the span that is open here; empty when telemetry is off or none is open."""
    return "" if _backend is None else _backend.current()


def call(name: SpanName, service: str, operation: str) -> AbstractContextManager[object]:
    """Open a span around one request to a service; an error of it is counted by service and status."""
    return _NO_SPAN if _backend is None else _call(name, service, operation)


@contextmanager
def _call(name: SpanName, service: str, operation: str) -> Iterator[None]:
    with span(name, service=service, operation=operation):
        try:
            yield
        except ClientError as error:
            measure(
                SERVICE_ERRORS, service=error.service, status=error.status or 0, error=type(error).__name__
            )
            raise
