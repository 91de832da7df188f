"""How long one judgement takes: decide and every guardrail, without any question to anybody."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from bench.figures import Json, spread
from clients.terms import AppId, Kind, NotAsked, ObjectId, ServicePrincipal, TenantId
from response.brake import Counts
from response.decision import Verdict, decide
from response.evidence import Armed, Evidence
from response.finding import Finding, Source, Tier
from response.guardrails import guard
from response.policy import Mode, ResponsePolicy
from response.privilege import privilege_of

TARGET_MS: Final = 1.0
_EACH: Final = 500  # judgements in one measurement: one alone is below what the clock tells
_NOON: Final = datetime(2026, 3, 3, 12, tzinfo=UTC)
_AGENT: Final = ObjectId("7c9e6679-7425-4de4-944b-e07fc1f90ae7")
_TENANT: Final = TenantId("11111111-1111-4111-8111-111111111111")


def measure(runs: int) -> Json:
    """Judge a finding that is contained after everything was asked, with twenty earlier findings to weigh."""
    policy = ResponsePolicy(Mode.ENFORCE, {}, frozenset(), 3)
    finding, evidence = _finding(0), _evidence()
    milliseconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        for _ in range(_EACH):
            decision = guard(decide(finding, evidence, policy, _NOON), finding, evidence, policy)
        milliseconds.append((time.perf_counter() - began) * 1000 / _EACH)
        if decision.verdict is not Verdict.CONTAIN:
            raise RuntimeError(f"the case is no containment any more: {decision.reasons}")
    found = spread(milliseconds[1:], digits=4)
    return {
        "unit": "ms",
        "runs": runs,
        "judgementsARun": _EACH,
        "target": {"p50": TARGET_MS},
        "decideAndGuard": found,
        "ok": found["p50"] <= TARGET_MS,
    }


def _finding(number: int) -> Finding:
    return Finding(
        source=Source.RULE,
        rule_id="AG-01" if number else "AG-10",
        family="reach" if number else "origin",
        tier=Tier.CORROBORATED,
        principal=_AGENT,
        first_seen=_NOON - timedelta(minutes=number),
        last_seen=_NOON - timedelta(minutes=number),
        reason="new for it",
        raised_by="agentbreaker",
    )


def _evidence() -> Evidence:
    return Evidence(
        principal=ServicePrincipal(
            _AGENT,
            AppId("88888888-8888-4888-8888-888888888888"),
            "invoice-reader",
            Kind.APPLICATION,
            _TENANT,
            True,
        ),
        armed=Armed(("policy",)),
        own_identities=frozenset({ObjectId("aaaaaaaa-0000-4000-8000-000000000001")}),
        microsoft_risk=NotAsked("another finding agrees already"),
        earlier=tuple(_finding(number) for number in range(1, 21)),
        kill_switch_stopped=False,
        at=_NOON,
        mark=None,
        privilege=privilege_of([f"Microsoft Graph/Role{n}.Read.All" for n in range(30)], []),
        owners=(),
        change_window=None,
        undone_at=None,
        on_probation=False,
        brake=Counts(0, 0, 0),
        active_principals=NotAsked("not needed"),
        brake_tripped="",
        ledger_broken="",
    )
