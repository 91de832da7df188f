"""
The vocabulary of telemetry, whole: every span, every measurement, every attribute and what its values may look like.

Shown to people in ``docs/telemetry.md``, which a test keeps in step. Values that do not fit their attribute's pattern
are replaced by ``other``, so that whatever a caller passes by mistake stays here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

Value: TypeAlias = "str | int | float | bool"
OTHER: Final = "other"
SCOPE: Final = "agentbreaker"


class SpanName(StrEnum):
    """Names of spans. Constants: what a span is about stands in its attributes, as far as it may."""

    TRIGGER = "trigger"
    RULE_QUERY = "rule query"
    LOG_QUERY = "log query"
    GRAPH_CALL = "graph call"
    ARM_CALL = "resource manager call"
    DECISION = "decision"
    LEDGER_COMMIT = "ledger commit"
    PULL = "pull"
    VERIFICATION = "verification"


SPANS: Final = {
    SpanName.TRIGGER: "One run of a function: an HTTP call or a timer.",
    SpanName.RULE_QUERY: "One query of one rule over one window.",
    SpanName.LOG_QUERY: "One request to Log Analytics, retries apart.",
    SpanName.GRAPH_CALL: "One request to Microsoft Graph, retries apart.",
    SpanName.ARM_CALL: "One request to Resource Manager (Sentinel, workspace), retries apart.",
    SpanName.DECISION: "Gathering evidence about one finding and deciding, guardrails included.",
    SpanName.LEDGER_COMMIT: "One atomic commit of a change of state with its ledger entries.",
    SpanName.PULL: "One request that pulls a lever, or takes it back, for everything in its batch.",
    SpanName.VERIFICATION: "A containment's state changed by what the tenant shows; in the trace that opened it.",
}


class Kind(StrEnum):
    """How values of a measurement are put together. There are no gauges: one would repeat its last value for ever."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measurement: its name, kind, UCUM unit, attributes, and what it means."""

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    meaning: str


def _counter(name: str, unit: str, attributes: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"agentbreaker.{name}", Kind.COUNTER, unit, attributes, meaning)


def _seconds(name: str, attributes: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"agentbreaker.{name}", Kind.HISTOGRAM, "s", attributes, meaning)


# fmt: off
FINDINGS: Final = _counter("findings", "{finding}", ("rule", "source", "tier"), "Findings that were judged.")
DECISIONS: Final = _counter("decisions", "{decision}", ("verdict", "mode"), "Judgements, guardrails included.")
VETOES: Final = _counter("vetoes", "{veto}", ("guardrail",), "Guardrails that objected to a judgement.")
CONTAINMENTS: Final = _counter("containments", "{containment}", ("state",), "Containments that came into a state.")
ENTRIES: Final = _counter("ledger.entries", "{entry}", ("kind",), "Ledger entries committed.")
LEDGER_CHECKS: Final = _counter("ledger.checks", "{check}", ("outcome",), "Checks of the ledger: intact, broken or unreadable.")
TIME_TO_CONFIRM: Final = _seconds("time_to_confirm", (), "From a containment's claim to its effect read back.")
TIME_TO_PROOF: Final = _seconds("time_to_proof", (), "From Graph's acceptance to the refused sign-in that proves the block.")
QUOTA_WAITS: Final = _seconds("quota_waits", (), "Waiting for the tenant's ID Protection turn, by whoever had to wait.")
WATERMARK_AGE: Final = _seconds("watermark_age", ("rule", "group"), "How far a rule's watermark is behind, after each of its sweeps.")
QUERY_TIME: Final = _seconds("query_time", ("rule", "outcome"), "A rule's query, retries and waiting for a free one included.")
PARTIALS: Final = _counter("partials", "{answer}", ("rule",), "Log answers that came back incomplete, and so were no answer.")
SWEEPS: Final = _counter("sweeps", "{sweep}", ("group", "outcome"), "Sweeps that came to their end: ok, or failed for at least one rule. Group settle is the timer of that name.")
RULE_SWEEPS: Final = _counter("rule_sweeps", "{sweep}", ("rule", "outcome"), "Sweeps of one rule: ok, or failed, whatever stopped it.")
REJECTED_ROWS: Final = _counter("rejected_rows", "{row}", ("rule",), "Rows of a rule's answer that are no finding, so that nobody is judged for them.")
SERVICE_ERRORS: Final = _counter("service_errors", "{error}", ("service", "status", "error"), "Requests that a service refused or did not answer (status 0).")
REFUSED_CALLS: Final = _counter("refused_calls", "{call}", ("trigger", "code"), "HTTP calls the app refused: no identity, or a missing app role.")
# fmt: on
METRICS: Final = (
    FINDINGS,
    DECISIONS,
    VETOES,
    CONTAINMENTS,
    ENTRIES,
    LEDGER_CHECKS,
    TIME_TO_CONFIRM,
    TIME_TO_PROOF,
    QUOTA_WAITS,
    WATERMARK_AGE,
    QUERY_TIME,
    PARTIALS,
    SWEEPS,
    RULE_SWEEPS,
    REJECTED_ROWS,
    SERVICE_ERRORS,
    REFUSED_CALLS,
)

RULE: Final = r"AG-\d{2}[a-z]?"
_WORD: Final = r"[a-z][a-z_-]{0,29}"  # no digits, so no id and no appId; members of our own enumerations
_CLASS: Final = r"[A-Z][A-Za-z]{1,39}"
TRIGGERS: Final = (
    "incidents compromise containments principal approval undo killswitch signals notifications "
    "retry_notifications openapi readiness dormant sweep_fast sweep sweep_baseline sweep_dormant settle"
)
_SERVICES: Final = (
    "Microsoft Graph",
    "Log Analytics",
    "Microsoft Sentinel",
    "Resource Manager",
    "Entra",
    "Logs ingestion",
    "the webhook",
)

ATTRIBUTES: Final = {
    "rule": re.compile(RULE),
    "source": re.compile(_WORD),
    "tier": re.compile(_WORD),
    "verdict": re.compile(_WORD),
    "mode": re.compile(_WORD),
    "guardrail": re.compile(_WORD),
    "state": re.compile(_WORD),
    "kind": re.compile(_WORD),
    "outcome": re.compile(_WORD),
    "lever": re.compile(_WORD),
    "step": re.compile(_WORD),
    "group": re.compile(_WORD),
    "code": re.compile(_WORD),
    "trigger": re.compile("|".join(TRIGGERS.split())),
    "service": re.compile("|".join(map(re.escape, _SERVICES))),
    "operation": re.compile(
        r"[a-z]+( [A-Za-z]+){0,5}"
    ),  # the words our clients use for a request: "read risk"
    "error": re.compile(_CLASS),
    "status": None,  # None: numbers only
    "entries": None,
    "writes": None,
    "findings": None,
    "principals": None,
    "vetoes": None,
}
"""What an attribute's value must look like, whole. A text for an attribute of numbers, or any other name, is ``other``."""


def cleaned(name: str, value: object) -> Value:
    """Give the value if it may leave the process under that name, else ``other``."""
    if isinstance(value, bool | int | float):
        return value
    pattern = ATTRIBUTES.get(name)
    text = str(value)
    return text if pattern is not None and pattern.fullmatch(text) else OTHER
