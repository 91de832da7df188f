"""What readiness says of a tenant that is not as it should be: what is wrong, and what to do."""

import pytest
from desk_app import desk

from clients.terms import Unknown
from detections.catalog import load
from handlers import health, preflight
from simtenant.faults import FaultKind


async def checks(app):
    return {c["name"]: c for c in (await app.call("readiness")).body["checks"]}


async def test_a_workspace_id_of_another_workspace_is_found(app):
    sound = (await checks(app))["workspace settings"]
    app.estate.workspace.customer_id = "99999999-0000-4000-8000-000000000009"

    found = (await checks(app))["workspace settings"]

    assert sound["ok"] is True
    assert found["ok"] is False
    for name in ("AGENTBREAKER_WORKSPACE_ID", "AGENTBREAKER_WORKSPACE_RESOURCE_ID", "99999999"):
        assert name in found["detail"]


@pytest.mark.parametrize(
    ("status", "ok", "says", "ready"),
    [
        (403, None, "could not be compared", True),
        (404, False, "names no workspace", False),
        (503, None, "503", True),
    ],
)
async def test_a_workspace_that_resource_manager_does_not_show_says_so(app, status, ok, says, ready):
    app.estate.tenant.faults.add(r"GET .*/workspaces/[^/]+$", FaultKind.STATUS, status=status, times=None)

    found = (await checks(app))["workspace settings"]

    assert found["ok"] is ok
    assert says in found["detail"]
    assert preflight.may_stay_unknown(found) is ready


async def test_a_table_on_another_plan_blinds_its_rules_and_says_so(app):
    app.estate.workspace.plans["AZKVAuditLogs"] = "Basic"
    app.estate.workspace.plans["MicrosoftGraphActivityLogs"] = "Auxiliary"

    found = await checks(app)

    assert found["tables of AG-02"]["ok"] is False
    assert "MicrosoftGraphActivityLogs is on plan Auxiliary" in found["tables of AG-02"]["detail"]


UNREAD = Unknown("Log Analytics: query (HTTP 400). No such table")


@pytest.mark.parametrize(
    ("rule_id", "rows", "ok", "says"),
    [
        ("AG-04", {"AZKVAuditLogs": True, "AzureDiagnostics": UNREAD}, True, "have rows"),
        ("AG-04", {"AZKVAuditLogs": False, "AzureDiagnostics": False}, False, "AZKVAuditLogs: no rows of the last day"),
        ("AG-04", {"AZKVAuditLogs": False, "AzureDiagnostics": UNREAD}, False, "No such table"),
        ("AG-04", {"AZKVAuditLogs": UNREAD, "AzureDiagnostics": UNREAD}, None, "Without"),
        ("AG-28", {"AADServicePrincipalRiskEvents": False, "AADAgentRiskEvents": UNREAD}, True, "as is usual"),
        ("AG-28", {"AADServicePrincipalRiskEvents": UNREAD, "AADAgentRiskEvents": UNREAD}, None, "No such table"),
    ],
)  # fmt: skip
def test_tables_that_stand_in_for_one_another_are_not_called_full_when_none_is(rule_id, rows, ok, says):
    rule = next(rule for rule in load() if rule.id == rule_id)

    found = health._sees(rule, rows, {})

    assert found["ok"] is ok, found
    assert says in found["detail"]


async def test_a_rule_that_is_switched_off_is_neither_swept_nor_asked_for(tmp_path, quick_turns):
    async with desk(tmp_path, RULES_OFF="AG-27, AG-23") as app:
        found = await checks(app)
        swept = {rule.id for rule in app.process.swept}
        known = {rule.id for rule in app.process.rules}

    assert known - swept == {"AG-23", "AG-27"}
    assert not [name for name in found if name.endswith(("AG-23", "AG-27"))]
    assert found["rules"]["ok"] is True
    assert "switched off: AG-23, AG-27" in found["rules"]["detail"]


async def test_a_rule_that_is_none_cannot_be_switched_off(tmp_path, quick_turns):
    async with desk(tmp_path, RULES_OFF="AG-99") as app:
        found = (await checks(app))["rules"]

    assert found["ok"] is False
    assert "AG-99" in found["detail"]


async def test_agents_need_a_policy_of_their_own(tmp_path, quick_turns):
    async with desk(tmp_path, AGENT_RISK="true") as app:
        found = await checks(app)
    async with desk(tmp_path) as app:
        without = await checks(app)

    assert found["armed policies"]["ok"] is True
    assert found["armed policies for agents"]["ok"] is False
    assert "agent risk" in found["armed policies for agents"]["detail"]
    assert "armed policies for agents" not in without


async def test_plans_that_cannot_be_read_say_nothing_about_tables(app):
    app.estate.tenant.faults.add(r"GET .*/tables", FaultKind.STATUS, status=403, times=None)

    assert await preflight.plans(app.process) == {}
