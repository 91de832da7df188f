"""The judgement by itself: ``decide`` and every guardrail over evidence in memory. No store, no service, no sockets."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from bench.figures import Json, against
from clients.terms import AppId, Kind, Mark, NotAsked, ObjectId, Person, ServicePrincipal, TenantId, Unknown
from response.brake import Counts
from response.decision import Verdict, decide
from response.evidence import Armed, Evidence, NotArmed
from response.finding import Finding, Source, Tier
from response.guardrails import guard
from response.policy import Disabling, Mode, ResponsePolicy
from response.privilege import Privilege

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET_MS: Final = 1.0
JUDGEMENTS: Final = 2_000
EARLIER: Final = 100  # findings about one principal within an hour: an agent that goes wild under every rule
_SEED: Final = 20261126
_NOW: Final = datetime(2026, 11, 26, 12, tzinfo=UTC)
_TENANT: Final = TenantId("11111111-1111-4111-8111-111111111111")
_POLICY: Final = ResponsePolicy(
    mode=Mode.ENFORCE,
    rule_modes={f"AG-{number:02}": Mode.APPROVE for number in range(5, 10)},
    protected=frozenset(f"00000000-0000-4000-8000-{number:012}" for number in range(500)),
    automatic_per_hour=3,
    agent_risk=True,
    disabling=Disabling.APPROVAL,
    removal_levers=True,
)
_FAMILIES: Final = ("reach", "volume", "probing", "origin", "token", "credential", "control", "dlp")


def measure(runs: int) -> Json:
    """Time one judgement after the other; give milliseconds each, and how many of them ended how."""
    cases = _cases()
    samples: list[float] = []
    verdicts = dict.fromkeys(map(str, Verdict), 0)
    for _ in range(max(3, min(runs, 10))):
        for finding, evidence in cases:
            began = time.perf_counter()
            decision = guard(decide(finding, evidence, _POLICY, _NOW), finding, evidence, _POLICY)
            samples.append((time.perf_counter() - began) * 1000)
            verdicts[str(decision.verdict)] += 1
    found = against(samples, p50=TARGET_MS, p95=TARGET_MS, digits=4)
    return {
        "unit": "ms",
        "runs": len(samples),
        "earlierFindings": EARLIER,
        "target": {"p50": TARGET_MS, "p95": TARGET_MS},
        "judgement": found,
        "verdicts": verdicts,
        "ok": found["ok"],
    }


def _cases() -> Sequence[tuple[Finding, Evidence]]:
    choose = random.Random(_SEED)
    return [_case(number, choose) for number in range(JUDGEMENTS)]


def _case(number: int, choose: random.Random) -> tuple[Finding, Evidence]:
    principal = ServicePrincipal(
        ObjectId(f"7c9e6679-7425-4de4-944b-{number:012}"),
        AppId(f"88888888-8888-4888-8888-{number:012}"),
        f"agent-{number}",
        choose.choice((Kind.APPLICATION, Kind.APPLICATION, Kind.MANAGED_IDENTITY, Kind.AGENT_IDENTITY)),
        _TENANT,
        account_enabled=True,
    )
    # Every other principal has had nothing but signs of one family, so that none of a hundred agrees and all are read.
    lonely = number % 2 == 0
    earlier = tuple(_finding(principal, choose, "reach" if lonely else "") for _ in range(EARLIER))
    evidence = Evidence(
        principal=principal,
        armed=choose.choice((Armed(("policy-1",)), NotArmed("none", "one"))),
        own_identities=frozenset({ObjectId("aaaaaaaa-0000-4000-8000-000000000001")}),
        microsoft_risk=choose.choice((None, NotAsked("another finding agrees already"))),
        earlier=earlier,
        kill_switch_stopped=False,
        ongoing=earlier,
        at=_NOW,
        mark=choose.choice((None, None, Mark.APPROVAL, Unknown("HTTP 503"))),
        privilege=choose.choice((Privilege(0, ("Application.ReadWrite.All",)), Privilege(2, ()))),
        owners=(Person("22222222-0000-4000-8000-000000000002", "Ada"),),
        change_window=None,
        undone_at=choose.choice((None, _NOW - timedelta(minutes=50))),
        on_probation=False,
        brake=Counts(choose.randrange(4), choose.randrange(8), choose.randrange(4)),
        active_principals=10_000,
        brake_tripped="",
        ledger_broken="",
    )
    return _finding(principal, choose, "reach"), evidence


def _finding(principal: ServicePrincipal, choose: random.Random, family: str) -> Finding:
    ago = timedelta(seconds=choose.randrange(3600))
    return Finding(
        source=Source.RULE,
        rule_id=f"AG-{choose.randrange(1, 31):02}",
        family=family or choose.choice(_FAMILIES),
        tier=choose.choice((Tier.CORROBORATED, Tier.CORROBORATED, Tier.AUTO)),
        principal=principal.object_id,
        first_seen=_NOW - ago - timedelta(minutes=1),
        last_seen=_NOW - ago,
        reason="called what it never called",
        raised_by="agentbreaker",
        only_failures=choose.random() < 0.1,
    )
