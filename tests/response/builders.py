"""Values to judge, with the harmless default in every field."""

from datetime import UTC, datetime, timedelta

from clients.terms import AppId, Kind, NotAsked, ObjectId, ServicePrincipal, TenantId
from response.brake import Counts
from response.evidence import Armed, Evidence
from response.finding import Finding, Source, Tier
from response.policy import Mode, ResponsePolicy
from response.privilege import Privilege

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
TENANT = TenantId("11111111-1111-4111-8111-111111111111")
AGENT = ObjectId("7c9e6679-7425-4de4-944b-e07fc1f90ae7")
OURSELVES = ObjectId("aaaaaaaa-0000-4000-8000-000000000001")
ANALYST = "bbbbbbbb-0000-4000-8000-000000000002"


def principal(**changes):
    values = {
        "object_id": AGENT,
        "app_id": AppId("88888888-8888-4888-8888-888888888888"),
        "display_name": "invoice-reader",
        "kind": Kind.APPLICATION,
        "owner_tenant": TENANT,
        "account_enabled": True,
    }
    return ServicePrincipal(**(values | changes))


def finding(**changes):
    values = {
        "source": Source.RULE,
        "rule_id": "AG-04",
        "family": "vault",
        "tier": Tier.AUTO,
        "principal": AGENT,
        "first_seen": NOON - timedelta(minutes=2),
        "last_seen": NOON - timedelta(minutes=1),
        "reason": "first Key Vault use",
        "raised_by": "agentbreaker",
    }
    return Finding(**(values | changes))


def evidence(**changes):
    values = {
        "principal": principal(),
        "armed": Armed(("policy-1",)),
        "own_identities": frozenset({OURSELVES}),
        "microsoft_risk": NotAsked("not needed"),
        "earlier": (),
        "kill_switch_stopped": False,
        "at": NOON,
        "mark": None,
        "privilege": Privilege(2, ()),
        "owners": (),
        "change_window": None,
        "undone_at": None,
        "on_probation": False,
        "brake": Counts(0, 0, 0),
        "active_principals": NotAsked("not needed"),
        "brake_tripped": "",
        "ledger_broken": "",
    }
    return Evidence(**(values | changes))


def policy(**changes):
    values = {"mode": Mode.ENFORCE, "rule_modes": {}, "protected": frozenset(), "automatic_per_hour": 3}
    return ResponsePolicy(**(values | changes))
