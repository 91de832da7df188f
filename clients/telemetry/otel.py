"""
Telemetry through OpenTelemetry, with providers of our own.

The global providers stay what they were, which is nothing: the Graph SDK (kiota) and azure-core open spans on those that
carry whole URLs, thus object ids, and whatever else in the process asks OpenTelemetry for a tracer. None of that can
reach an exporter of ours. What can is what ``clients.telemetry`` is told, in the words of ``words.py``.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from clients.telemetry.words import (
    ATTRIBUTES,
    METRICS,
    RULE,
    SCOPE,
    TRIGGERS,
    Kind,
    Metric,
    SpanName,
    cleaned,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from clients.telemetry.words import Value

log = logging.getLogger("agentbreaker.telemetry")
OUTSIDE: Final = frozenset({SpanName.GRAPH_CALL, SpanName.LOG_QUERY, SpanName.ARM_CALL, SpanName.RULE_QUERY})
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")
_NO_STATUS: Final = Status(StatusCode.ERROR)  # without a description, which would be the exception's text
_MOST_LINKS: Final = 100  # the exporter writes them into one field of 8,192 characters


class OtelBackend:
    """
    Spans, measurements and log lines into the given processors and readers.

    Every span is kept: what happens here is rare and each of it may be asked about, and a sampled caller would otherwise
    decide what we see of ourselves. The log lines are those of ``agentbreaker.*``, at INFO and above, see ``said``.
    """

    def __init__(
        self,
        *,
        spans: Sequence[SpanProcessor] = (),
        metrics: Sequence[MetricReader] = (),
        logs: Sequence[LogRecordProcessor] = (),
        instance: str = "",
    ) -> None:
        # Not Resource.create(): that reads the environment and the machine.
        # The exporter fills in the host's name where there is no device id.
        who = instance or SCOPE
        resource = Resource({"service.name": SCOPE, "service.instance.id": who, "device.id": who})
        self._tracers = TracerProvider(sampler=ALWAYS_ON, resource=resource)
        for processor in spans:
            self._tracers.add_span_processor(processor)
        self._meters = MeterProvider(metric_readers=metrics, resource=resource)
        self._loggers = LoggerProvider(resource=resource)
        for log_processor in logs:
            self._loggers.add_log_record_processor(log_processor)
        self._tracer = self._tracers.get_tracer(SCOPE)
        meter = self._meters.get_meter(SCOPE)
        self._instruments: dict[str, Any] = {
            metric.name: (meter.create_counter if metric.kind is Kind.COUNTER else meter.create_histogram)(
                metric.name, unit=metric.unit, description=metric.meaning
            )
            for metric in METRICS
        }
        self._handler = _Handler(self._loggers)
        self._level = logging.getLogger(SCOPE).level
        if logs:
            logging.getLogger(SCOPE).addHandler(self._handler)
            logging.getLogger(SCOPE).setLevel(logging.INFO)

    @contextmanager
    def span(
        self, name: SpanName, parent: str, links: Sequence[str], attributes: dict[str, Value]
    ) -> Iterator[_Span]:
        """Open a span around a block."""
        span = self._start(name, parent, links, attributes)
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            yield _Span(span)
        except BaseException as error:
            # By type only: texts of exceptions quote keys of the store, thus object ids.
            span.set_attribute("agentbreaker.error", cleaned("error", type(error).__name__))
            status = getattr(error, "status", None)
            if isinstance(status, int):
                span.set_attribute("agentbreaker.status", status)
            span.set_status(_NO_STATUS)
            raise
        finally:
            contexts.detach(token)
            _end(span)

    def _start(
        self, name: SpanName, parent: str, links: Sequence[str], attributes: dict[str, Value]
    ) -> trace.Span:
        """Start a span; one that says nothing where OpenTelemetry fails, which must not stop what it is about."""
        try:
            return self._tracer.start_span(
                str(name),
                context=_context(parent),
                kind=SpanKind.CLIENT if name in OUTSIDE else SpanKind.INTERNAL,
                attributes=_all_cleaned(attributes),
                links=[Link(found) for link in links[:_MOST_LINKS] if (found := _span_context(link))],
                record_exception=False,
            )
        except Exception as error:  # noqa: BLE001  # whatever a processor raises
            log.warning("a span could not be started: %s", type(error).__name__)
            return trace.INVALID_SPAN

    def measure(self, metric: Metric, value: float, attributes: dict[str, Value]) -> None:
        """Add to a counter, or record in a histogram."""
        named = {key: cleaned(key, attributes[key]) for key in metric.attributes if key in attributes}
        try:
            instrument = self._instruments[metric.name]
            if metric.kind is Kind.COUNTER:
                instrument.add(value, named)
            else:
                instrument.record(value, named)
        except Exception as error:  # noqa: BLE001  # as in ``_start``
            log.warning("a measurement was lost: %s", type(error).__name__)

    def current(self) -> str:
        """Give the traceparent of the span that is open here, empty outside of any."""
        found = trace.get_current_span().get_span_context()
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-01" if found.is_valid else ""

    def flush(self, within_seconds: float) -> None:
        """Hand over what is waiting; whatever does not go out in that time is left to the next."""
        within = int(within_seconds * 1000)
        for provider in (self._tracers, self._meters, self._loggers):
            provider.force_flush(within)

    def close(self) -> None:
        """End: what is waiting goes out, or is lost with the process. May take as long as the exporters do."""
        logging.getLogger(SCOPE).removeHandler(self._handler)
        logging.getLogger(SCOPE).setLevel(self._level)
        self._tracers.shutdown()
        self._meters.shutdown()
        self._loggers.shutdown()


def _end(span: trace.Span) -> None:
    try:
        span.end()
    except Exception as error:  # noqa: BLE001  # what a processor raises must not hide what the block did
        log.warning("a span could not be ended: %s", type(error).__name__)


class _Span:
    """An OpenTelemetry span that takes our attributes only."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **attributes: Value) -> None:
        """Add attributes."""
        self._span.set_attributes(_all_cleaned(attributes))


def _all_cleaned(attributes: dict[str, Value]) -> dict[str, Value]:
    # The exporter leaves out what looks like a standard attribute, so ours say whose they are.
    found = {
        f"agentbreaker.{key}": cleaned(key, value) for key, value in attributes.items() if key in ATTRIBUTES
    }
    if "service" in attributes:
        found["peer.service"] = cleaned("service", attributes["service"])  # becomes the dependency's target
    return found


def _span_context(traceparent: str) -> SpanContext | None:
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED)
    context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)
    return context if context.is_valid else None


def _context(parent: str) -> contexts.Context | None:
    """Give the context of a parent elsewhere; None, which is the one that is open here, where there is none."""
    found = _span_context(parent)
    return trace.set_span_in_context(trace.NonRecordingSpan(found)) if found else None


# --- log lines -----------------------------------------------------------------------------------

# Our own words for things of our own: rules, containments, triggers. Anything else that is text may be a tenant's.
_SAYABLE: Final = re.compile(rf"{RULE}|\d{{8}}T\d{{6}}-[0-9a-f]{{8}}|-")
_TRIGGERS: Final = frozenset(TRIGGERS.split())
_SEVERITIES: Final = {
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


def said(record: logging.LogRecord) -> str:
    """
    Give a log line as it may leave the process: the template, and of its arguments only what is ours.

    Numbers, members of our enumerations, ids of rules and containments, names of triggers are kept. An exception is its
    type, with a status or the settings at fault. Any other text is three dots.
    """
    arguments = record.args
    if isinstance(arguments, dict):
        values: Any = {key: _sayable(value) for key, value in arguments.items()}
    else:
        values = tuple(_sayable(value) for value in arguments or ())
    try:
        return str(record.msg) % values if values else str(record.msg)
    except (TypeError, ValueError):
        return str(record.msg)


def _sayable(value: object) -> object:
    match value:
        case bool() | int() | float() | None:
            return value
        case Enum():
            return value.value
        case BaseException():
            return _kind_of(value)
        case str() if _SAYABLE.fullmatch(value) or value in _TRIGGERS:
            return value
    return "..."


def _kind_of(error: BaseException) -> str:
    """Name an exception by type, with what it says about itself that is no text of others."""
    told = [type(error).__name__]
    status = getattr(error, "status", None)
    if isinstance(status, int):
        told.append(str(status))
    told += [str(name) for name in getattr(error, "names", ())]
    return " ".join(told)


class _Handler(logging.Handler):
    """Hands the lines of our own loggers to OpenTelemetry."""

    def __init__(self, loggers: LoggerProvider) -> None:
        super().__init__(logging.INFO)
        self._loggers = loggers

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one line; a fault here is logging's to deal with, never the caller's."""
        try:
            attributes: dict[str, str] = {}
            if record.exc_info and record.exc_info[0] is not None:
                attributes["agentbreaker.error"] = str(cleaned("error", record.exc_info[0].__name__))
            self._loggers.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                severity_text=record.levelname,
                body=said(record),
                attributes=attributes,
            )
        except Exception:  # noqa: BLE001  # as logging.Handler asks of every handler
            self.handleError(record)
