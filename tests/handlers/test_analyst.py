import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from desk_app import ANALYST, desk, identity

from clients.stores import Put
from clients.terms import object_id
from handlers import health
from handlers.http import Request
from response import flow, gathering
from response.finding import Finding, Source, Tier
from response.opening import open_or_join


async def test_an_order_contains_and_a_second_joins(app):
    first = await app.compromise(app.rogue.object_id)
    second = await app.compromise(app.rogue.object_id)

    assert (first.status, first.body["state"]) == (200, "pulled")
    assert "no block yet" in first.body["message"]
    assert second.body["id"] == first.body["id"]
    assert app.confirms(status=None) == 1


async def test_a_dry_run_judges_and_touches_nothing(app):
    answer = await app.compromise(app.rogue.object_id, dryRun=True)

    assert (answer.status, answer.body["verdict"]) == (200, "contain")
    assert answer.body["breaker"].startswith("armed")
    assert await app.containments() == []
    assert await app.ledger_kinds() == []
    assert app.confirms(status=None) == 0


@pytest.mark.parametrize(
    ("principal", "body", "status", "code"),
    [
        ("invoice-reader", {"reason": "because"}, 400, "not_an_object_id"),
        ("{7c9e6679-7425-4de4-944b-e07fc1f90ae7}", {"reason": "because"}, 400, "not_an_object_id"),
        ("7c9e6679-7425-4de4-944b-e07fc1f90ae7", {"reason": "because"}, 404, "principal_not_found"),
        ("7c9e6679-7425-4de4-944b-e07fc1f90ae7", {}, 400, "wrong_shape"),
        ("7c9e6679-7425-4de4-944b-e07fc1f90ae7", {"reason": "because", "dryrun": True}, 400, "wrong_shape"),
        ("7c9e6679-7425-4de4-944b-e07fc1f90ae7", {"reason": "because", "dryRun": "yes"}, 400, "wrong_shape"),
        (
            "7c9e6679-7425-4de4-944b-e07fc1f90ae7",
            {"reason": "because", "lever": "delete"},
            400,
            "unknown_lever",
        ),
    ],
)
async def test_orders_that_are_none_get_a_clear_error(app, principal, body, status, code):
    answer = await app.call("compromise", route={"principalId": principal}, body=body)

    assert (answer.status, answer.body["error"]["code"]) == (status, code)
    assert app.confirms(status=None) == 0


async def test_an_application_object_id_names_the_right_principal(app):
    answer = await app.compromise(app.rogue.application_object_id)

    assert answer.status == 404
    assert app.rogue.object_id in answer.body["error"]["message"]
    assert "app registration" in answer.body["error"]["message"]


async def test_an_app_id_names_the_right_principal(app):
    answer = await app.compromise(app.rogue.app_id)

    assert answer.status == 404
    assert f"object id {app.rogue.object_id}" in answer.body["error"]["message"]


async def test_our_own_identity_is_refused(app):
    answer = await app.compromise(app.estate.app.object_id)

    assert (answer.status, answer.body["error"]["code"]) == (409, "vetoed")
    assert "own-identity" in answer.body["error"]["message"]
    assert app.confirms(status=None) == 0


async def test_microsofts_own_application_is_refused(app):
    graph = app.estate.tenant.principal_by_app_id("00000003-0000-0000-c000-000000000000")

    answer = await app.compromise(graph.object_id)

    assert answer.status == 409
    assert "microsoft-application" in answer.body["error"]["message"]


async def test_the_caller_cannot_order_itself(app):
    answer = await app.call(
        "compromise",
        route={"principalId": app.rogue.object_id},
        body={"reason": "covering tracks"},
        headers=identity("Containment.Execute", oid=app.rogue.object_id),
    )

    assert answer.status == 409


async def test_a_protected_principal_is_refused_even_to_a_person(tmp_path, quick_turns):
    async with desk(tmp_path) as probe:
        protected = probe.rogue.object_id
    async with desk(tmp_path / "two", PROTECTED_PRINCIPALS=protected) as app:
        answer = await app.compromise(app.rogue.object_id)

        assert answer.status == 409
        assert "protected-principal" in answer.body["error"]["message"]
        assert app.confirms(status=None) == 0


async def test_an_empty_protected_list_stops_everything(tmp_path, quick_turns):
    async with desk(tmp_path, PROTECTED_PRINCIPALS="") as app:
        answer = await app.compromise(app.rogue.object_id)

        assert answer.status == 409
        assert "AGENTBREAKER_PROTECTED_PRINCIPALS" in answer.body["error"]["message"]
        assert app.confirms(status=None) == 0


async def test_the_kill_switch_stops_and_releases(app):
    stop = await app.call("killswitch", body={"stopped": True, "reason": "exercise"})
    refused = await app.compromise(app.rogue.object_id)
    await app.call("killswitch", body={"stopped": False, "reason": "exercise over"})
    done = await app.compromise(app.rogue.object_id)

    assert stop.status == 200
    assert refused.status == 409
    assert "kill-switch" in refused.body["error"]["message"]
    assert done.body["state"] == "pulled"
    assert (await app.ledger_kinds()).count("kill_switch") == 2


async def test_a_kill_switch_pulled_between_claim_and_lever_parks_the_claim(app, monkeypatch):
    real, asked = gathering.kill_switch_stopped, []

    async def late(store):
        asked.append(1)
        return len(asked) > 1 or await real(store)

    monkeypatch.setattr(gathering, "kill_switch_stopped", late)

    answer = await app.compromise(app.rogue.object_id)

    assert answer.status == 202
    assert answer.body["state"] == "awaiting_approval"
    assert app.confirms(status=None) == 0


async def test_containments_can_be_filtered_and_bad_filters_are_named(app):
    opened = (await app.compromise(app.rogue.object_id)).body

    assert [c["id"] for c in (await app.call("containments", query={"state": "pulled"})).body["value"]] == [
        opened["id"]
    ]
    assert (await app.call("containments", query={"state": "proven"})).body["value"] == []
    assert (await app.call("containments", query={"principalId": app.rogue.object_id.upper()})).body["value"]
    assert (await app.call("containments", query={"since": "2099-01-01T00:00:00Z"})).body["value"] == []
    assert (await app.call("containments", route={"id": opened["id"]})).body["id"] == opened["id"]
    for query, code in (
        ({"state": "gone"}, "unknown_state"),
        ({"since": "yesterday"}, "not_a_time"),
        ({"since": "2026-01-01T00:00:00"}, "not_a_time"),
        ({"principalId": "x"}, "not_an_object_id"),
        ({"stat": "pulled"}, "unknown_filter"),
    ):
        answer = await app.call("containments", query=query)
        assert (answer.status, answer.body["error"]["code"]) == (400, code)
    assert (await app.call("containments", route={"id": "nope"})).status == 404


async def test_the_dossier_says_what_is_known(app):
    await app.compromise(app.rogue.object_id)

    dossier = (await app.call("principal", route={"principalId": app.rogue.object_id})).body

    assert dossier["principal"]["kind"] == "application"
    assert dossier["breaker"].startswith("armed")
    assert dossier["containments"][0]["state"] == "pulled"
    assert dossier["residualAccess"]["until"]


async def test_the_dossier_of_a_principal_that_graph_refuses_says_unknown(app):
    app.estate.app.app_roles.clear()

    dossier = (await app.call("principal", route={"principalId": app.rogue.object_id})).body

    assert "403" in dossier["principal"]["unknown"]


async def test_readiness_names_what_is_missing(app):
    app.estate.app.app_roles.discard("Policy.Read.All")

    checks = {c["name"]: c for c in (await app.call("readiness")).body["checks"]}

    assert checks["graph permissions"]["ok"] is False
    assert "Policy.Read.All" in checks["graph permissions"]["detail"]
    assert checks["armed policies"]["ok"] is None
    assert checks["kill switch"]["ok"] is True
    assert checks["ledger"]["ok"] is True
    assert checks["rule AG-04"]["ok"] is False


@pytest.mark.parametrize(
    ("behind", "ok", "says"),
    [
        (timedelta(minutes=3), True, "3 minutes ago"),
        (timedelta(hours=30), False, "should have brought it further"),
        (-timedelta(hours=2), False, "yet to come"),
    ],
)
async def test_readiness_says_how_far_each_rule_has_looked(app, behind, ok, says):
    world = app.process.world
    until = (world.now() - behind).isoformat()
    await world.store.commit([Put("watermark:AG-07", {"until": until}), Put("watermark:AG-08", {})])

    checks = {c["name"]: c for c in (await app.call("readiness")).body["checks"]}

    assert checks["rule AG-07"]["ok"] is ok
    assert says in checks["rule AG-07"]["detail"]
    assert checks["rule AG-08"]["ok"] is None


async def test_readiness_says_which_rules_a_missing_baseline_blinds(app):
    table = "AgentVaultDaily_CL"

    before = {c["name"]: c for c in (await app.call("readiness")).body["checks"]}[f"baseline {table}"]
    now = app.process.world.now()
    app.estate.engine.insert(
        table, [{"BinStart": now - timedelta(days=1), "TimeGenerated": now - timedelta(hours=3)}]
    )
    after = {c["name"]: c for c in (await app.call("readiness")).body["checks"]}[f"baseline {table}"]

    assert before["ok"] is False
    assert "AG-04" in before["detail"]
    assert after["ok"] is True


async def test_readiness_answers_in_time_where_the_logs_do_not(app, monkeypatch):
    monkeypatch.setattr(health, "_ANSWER_WITHIN", timedelta(seconds=1))

    async def never(*_):
        await asyncio.sleep(60)

    logs = SimpleNamespace(query=never)
    stuck = replace(app.process, world=replace(app.process.world, logs=logs))

    async with asyncio.timeout(30):
        answer = await health.readiness(Request("GET", {}, {}, identity("Containment.Read"), b""), stuck)

    checks = {c["name"]: c for c in answer.body["checks"]}
    assert checks["baseline AgentVaultDaily_CL"]["ok"] is None
    assert "no answer within" in checks["baseline AgentVaultDaily_CL"]["detail"]


async def test_readiness_asks_for_the_right_to_a_report_that_is_switched_on(tmp_path, quick_turns):
    async with desk(tmp_path, SIGN_IN_ACTIVITY_REPORT="true") as app:
        checks = {c["name"]: c for c in (await app.call("readiness")).body["checks"]}

    assert "AuditLog.Read.All" in checks["graph permissions"]["detail"]


async def test_a_hundred_orders_share_a_few_confirm_calls(tmp_path):
    """The tenant allows one ID Protection call a second; the turn is real here."""
    async with desk(tmp_path, AUTOMATIC_PER_HOUR="1000") as app:
        agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(100)]

        answers = await asyncio.gather(*(app.compromise(agent.object_id) for agent in agents))

        assert {answer.body["state"] for answer in answers} == {"pulled"}
        assert app.confirms(status=None) <= 5
        assert app.process.world.batch_size == 50
        assert ANALYST in {c["requestedBy"] for c in await app.containments()}


async def test_one_bad_id_in_a_batch_is_found_by_halving_and_fails_alone(app):
    world = app.process.world
    agents = [app.estate.tenant.add_application(f"agent-{n}") for n in range(8)]
    for agent in agents:
        now = world.now()
        finding = Finding(
            Source.ANALYST, "", "analyst", Tier.AUTO, object_id(agent.object_id), now, now, "test", ANALYST
        )
        evidence, decision = await flow.judge(finding, world)
        await open_or_join(finding, decision, evidence, world, now)
    del app.estate.tenant.principals[agents[3].object_id]

    await flow.settle(world)

    states = {c["principalId"]: c["state"] for c in await app.containments()}
    assert states.pop(agents[3].object_id) == "failed"
    assert set(states.values()) <= {"pulled", "confirmed"}
