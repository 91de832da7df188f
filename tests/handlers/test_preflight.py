"""What a first deployment gets wrong is told by readiness, with what to do about it."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from desk_app import desk, identity

from clients.errors import NotFound, Unavailable
from handlers import health, preflight
from handlers.http import Request
from simtenant.tenant import TenantSettings


async def asked(app, **changes):
    return {found.name: found for found in await preflight.workspace(replace(app.process.world, **changes))}


async def test_readiness_tells_of_workspace_and_clocks(app):
    answer = await health.readiness(Request("GET", {}, {}, identity("Containment.Read"), b""), app.process)

    found = {check["name"]: check for check in answer.body["checks"]}
    assert (found["workspace"]["ok"], found["clocks"]["ok"]) == (True, True)


@pytest.mark.parametrize(
    ("seconds", "says"), [(450, "7 minutes ahead of"), (-570, "9 minutes behind"), (240, "agree")]
)
async def test_clocks_that_differ_by_more_than_five_minutes_are_told_with_the_remedy(app, seconds, says):
    now = app.process.world.now

    clocks = (await asked(app, now=lambda: now() + timedelta(seconds=seconds)))["clocks"]

    assert says in clocks.detail
    assert clocks.ok is ("NTP" not in clocks.detail)


async def test_a_workspace_id_that_is_wrong_is_told_with_the_remedy(tmp_path):
    async with desk(tmp_path, WORKSPACE_ID="99999999-9999-4999-8999-999999999999") as app:
        found = await asked(app)

    assert found["workspace"].ok is False
    assert "AGENTBREAKER_WORKSPACE_ID" in found["workspace"].detail
    assert "Log Analytics Data Reader" in found["workspace"].detail
    assert found["clocks"].ok is None


def answering(error):
    async def query(*_):
        raise error

    return SimpleNamespace(query=query)


async def test_a_workspace_that_is_not_there_and_one_that_is_down_are_told_apart(app):
    gone = await preflight.workspace(
        replace(app.process.world, logs=answering(NotFound("Log Analytics", "query", status=404)))
    )
    down = await preflight.workspace(
        replace(app.process.world, logs=answering(Unavailable("Log Analytics", "query", status=503)))
    )

    assert (gone[0].ok, down[0].ok) == (False, None)
    assert "customerId" in gone[0].detail
    assert "503" in down[0].detail


async def test_a_table_that_is_not_there_is_told_with_its_plan_as_a_reason(app):
    answer = await health._rows_in("NoSuchTable_CL", app.process.world)

    assert preflight.NO_TABLE in answer.why


async def test_a_missing_right_and_a_missing_policy_say_which_command_helps(tmp_path):
    async with desk(tmp_path, armed=False) as app:
        app.estate.app.app_roles.discard("Application.Read.All")
        rights = await health._permissions(app.process)
        (policies,) = await health._policies(app.process.world)

    assert "Application.Read.All. Run python scripts/grant_permissions.py --plan" in rights["detail"]
    assert "workbench policies plan" in policies["detail"]
    assert "Workload ID Premium" in policies["detail"]


async def test_an_empty_protected_list_says_what_to_write(app):
    process = replace(
        app.process,
        world=replace(app.process.world, policy=replace(app.process.world.policy, protected=None)),
    )

    assert "the word none" in health._protected(process)["detail"]


@pytest.mark.parametrize(
    ("licensed", "granted", "ok"), [(True, True, True), (False, True, False), (True, False, None)]
)
async def test_the_licence_is_told_where_the_app_may_ask(tmp_path, licensed, granted, ok):
    async with desk(tmp_path, tenant=TenantSettings(licensed=licensed), armed=False) as app:
        if not granted:
            app.estate.app.app_roles -= {"LicenseAssignment.Read.All"}
        found = await preflight.licence(app.process.world)

    assert found.ok is ok
    assert ("Workload ID Premium" in found.detail) is granted


async def test_a_licence_that_may_not_be_asked_for_does_not_make_the_app_unready(app, monkeypatch):
    fine = {"ok": True, "detail": ""}
    for name in ("_permissions", "_kill_switch", "_storm_brake", "_ledger", "_notifications"):
        monkeypatch.setattr(health, name, returning({"name": name, **fine}))
    for name in ("_policies", "_workspace", "_tables", "_baselines", "_watermarks"):
        monkeypatch.setattr(health, name, returning([]))
    ready = {}
    for ok in (True, None, False):
        monkeypatch.setattr(preflight, "licence", returning(preflight.Found("licence", ok, "")))
        answer = await health.readiness(
            Request("GET", {}, {}, identity("Containment.Read"), b""), app.process
        )
        ready[ok] = answer.body["ready"]

    assert ready == {True: True, None: True, False: False}


def returning(value):
    async def answer(*_):
        return value

    return answer
