"""What readiness says of a tenant that is not as it should be: what is wrong, and what to do."""

from datetime import timedelta

import pytest
from desk_app import desk

from handlers import tenant_checks
from simtenant.faults import FaultKind
from simtenant.tenant import TenantSettings


async def checks(app):
    return {c["name"]: c for c in (await app.call("readiness")).body["checks"]}


async def test_a_sound_tenant_has_licence_workspace_and_clock(app):
    found = await checks(app)

    assert [found[name]["ok"] for name in ("licence", "workspace", "clock")] == [True, True, True]


async def test_a_tenant_without_the_licence_is_told_so(tmp_path, quick_turns):
    async with desk(tmp_path, tenant=TenantSettings(licensed=False)) as app:
        found = (await checks(app))["licence"]

    assert found["ok"] is False
    assert "Workload ID Premium" in found["detail"]
    assert tenant_checks.is_in_the_way(found)


async def test_a_licence_that_nobody_may_look_at_is_not_known_and_in_nobodys_way(app):
    app.estate.app.app_roles.discard("LicenseAssignment.Read.All")

    found = (await checks(app))["licence"]

    assert found["ok"] is None
    assert "LicenseAssignment.Read.All" in found["detail"]
    assert not tenant_checks.is_in_the_way(found)


async def test_a_workspace_id_of_another_workspace_is_found(app):
    app.estate.workspace.customer_id = "99999999-0000-4000-8000-000000000009"

    found = (await checks(app))["workspace"]

    assert found["ok"] is False
    for name in ("AGENTBREAKER_WORKSPACE_ID", "AGENTBREAKER_WORKSPACE_RESOURCE_ID", "99999999"):
        assert name in found["detail"]


@pytest.mark.parametrize(
    ("status", "ok", "says"),
    [(403, None, "Log Analytics Reader"), (404, False, "does not exist"), (503, None, "503")],
)
async def test_a_workspace_that_is_not_shown_says_why_and_what_to_do(app, status, ok, says):
    app.estate.tenant.faults.add(r"GET .*/workspaces/[^/]+$", FaultKind.STATUS, status=status, times=None)

    found = (await checks(app))["workspace"]

    assert found["ok"] is ok
    assert says in found["detail"]
    assert tenant_checks.is_in_the_way(found)


async def test_a_clock_that_is_wrong_is_told(app):
    now = app.process.world.now()

    right, wrong = [
        (await tenant_checks.workspace(app.process, moment))[1]
        for moment in (now, now + timedelta(minutes=9))
    ]

    assert right["ok"] is True
    assert wrong["ok"] is False
    assert "Set the clock" in wrong["detail"]


async def test_a_table_on_another_plan_blinds_its_rules_and_says_so(app):
    app.estate.workspace.plans["AZKVAuditLogs"] = "Basic"
    app.estate.workspace.plans["MicrosoftGraphActivityLogs"] = "Auxiliary"

    found = await checks(app)

    assert found["tables of AG-02"]["ok"] is False
    assert "MicrosoftGraphActivityLogs is on plan Auxiliary" in found["tables of AG-02"]["detail"]


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

    assert await tenant_checks.plans(app.process) == {}
