"""The dormant sweep against the simulated tenant: production clients over real sockets."""

from datetime import timedelta

import pytest
from desk_app import desk

from clients.errors import ClientError
from handlers import sweeps
from simtenant.faults import FaultKind
from simtenant.tenant import LastSignIn

SIGN_INS = "AADServicePrincipalSignInLogs"
MANAGED = "AADManagedIdentitySignInLogs"


@pytest.fixture
async def place(tmp_path, quick_turns):
    """A tenant whose logs reach back far enough, with one principal nobody uses."""
    async with desk(tmp_path, SIGN_IN_ACTIVITY_REPORT="true") as app:
        app.estate.app.app_roles.add("AuditLog.Read.All")
        now = app.process.world.now()
        seen(app, SIGN_INS, "an-early-one", now - timedelta(days=90, hours=12))
        seen(app, MANAGED, "an-early-one", now - timedelta(days=90, hours=12))
        app.idle = app.estate.tenant.add_application(
            "old-import", app_roles={"Directory.ReadWrite.All"}, created_at=now - timedelta(days=500)
        )
        app.busy = app.estate.tenant.add_application(
            "daily-job", app_roles={"Directory.ReadWrite.All"}, created_at=now - timedelta(days=500)
        )
        seen(app, SIGN_INS, app.busy.object_id, now - timedelta(days=2))
        yield app


def seen(app, table, principal, at, result="0"):
    row = {
        "TimeGenerated": at,
        "ServicePrincipalId": principal,
        "ResultType": result,
        "Id": f"{principal}/{at}",
    }
    app.estate.engine.insert(table, [row])


async def entries(app):
    answer = await app.call("dormant")
    assert answer.status == 200, answer.body
    return {entry["displayName"]: entry for entry in answer.body["value"]}, answer.body


async def test_before_the_first_run_there_is_no_report(app):
    answer = await app.call("dormant")

    assert (answer.status, answer.body["error"]["code"]) == (404, "no_report_yet")


async def test_who_is_unused_and_able_is_reported_and_who_is_used_is_not(place):
    await sweeps.sweep_dormant(place.process)

    found, report = await entries(place)
    assert report["unread"] == []
    assert found["old-import"]["proposal"] == "disable"
    assert found["old-import"]["permissions"] == ["Directory.ReadWrite.All"]
    assert found["old-import"]["canSignInWith"]
    assert "daily-job" not in found
    assert "agentbreaker" not in found


async def test_nothing_is_asked_of_id_protection(place):
    await sweeps.sweep_dormant(place.process)

    assert not [seen for seen in place.estate.tenant.requests if "identityProtection" in seen.path]


async def test_a_failed_sign_in_is_no_use(place):
    now = place.process.world.now()
    seen(place, SIGN_INS, place.idle.object_id, now - timedelta(days=3), result="7000215")

    await sweeps.sweep_dormant(place.process)

    found, _ = await entries(place)
    assert found["old-import"]["proposal"] == "disable"


async def test_a_refused_report_is_unknown_and_then_nothing_is_proposed_but_to_watch(place):
    place.estate.app.app_roles.discard("AuditLog.Read.All")

    await sweeps.sweep_dormant(place.process)

    found, report = await entries(place)
    assert found["old-import"]["proposal"] == "watch"
    assert any("403" in why for why in found["old-import"]["unknown"])
    assert any(why.startswith("servicePrincipalSignInActivities") for why in report["unread"])


async def test_the_report_alone_says_that_it_is_used(place):
    """Its sign-ins are in no table here, as where a diagnostic setting leaves a category out."""
    last = LastSignIn(place.process.world.now() - timedelta(days=1), "request")
    place.estate.tenant.client_sign_ins[place.idle.app_id] = last

    await sweeps.sweep_dormant(place.process)

    found, _ = await entries(place)
    assert "old-import" not in found


async def test_the_daily_summary_stands_for_the_large_table_where_it_has_every_day(place):
    now = place.process.world.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    by_summary = place.estate.tenant.add_application("monthly-job", created_at=now - timedelta(days=500))
    rows = [
        {
            "TimeGenerated": today - timedelta(days=day - 1),
            "BinStart": today - timedelta(days=day),
            "LastSeen": today - timedelta(days=day) + timedelta(hours=5),
            "PrincipalId": by_summary.object_id if day == 20 else "somebody-else",
            "CredentialType": kind,
            "Successes": 3,
        }
        for day in range(1, 92)
        for kind in ("clientsecret", "managedidentity")
    ]
    place.estate.engine.insert("AgentSignInDaily_CL", rows)

    await sweeps.sweep_dormant(place.process)

    found, report = await entries(place)
    assert report["unread"] == []
    assert "monthly-job" not in found
    assert found["old-import"]["proposal"] == "disable"


async def test_a_summary_that_lacks_a_day_does_not_stand_for_the_large_table(place):
    """On the day it lacks, somebody was there."""
    now = place.process.world.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    lost = today - timedelta(days=40)
    there = place.estate.tenant.add_application("rare-job", created_at=now - timedelta(days=500))
    seen(place, SIGN_INS, there.object_id, lost + timedelta(hours=3))
    rows = [
        {
            "TimeGenerated": today - timedelta(days=day - 1),
            "BinStart": today - timedelta(days=day),
            "LastSeen": today - timedelta(days=day) + timedelta(hours=5),
            "PrincipalId": "somebody-else",
            "CredentialType": kind,
            "Successes": 3,
        }
        for day in range(1, 92)
        for kind in ("clientsecret", "managedidentity")
        if today - timedelta(days=day) != lost
    ]
    place.estate.engine.insert("AgentSignInDaily_CL", rows)

    await sweeps.sweep_dormant(place.process)

    found, _ = await entries(place)
    assert "rare-job" not in found
    assert found["old-import"]["proposal"] == "disable"


async def test_who_has_nothing_left_to_sign_in_with_is_not_to_be_disabled(place):
    now = place.process.world.now()
    place.estate.tenant.add_application(
        "expired-import",
        app_roles={"Directory.ReadWrite.All"},
        created_at=now - timedelta(days=500),
        credential_ends=now - timedelta(days=1),
    )

    await sweeps.sweep_dormant(place.process)

    found, _ = await entries(place)
    assert "expired-import" not in found or found["expired-import"]["proposal"] == "watch"


async def test_logs_that_do_not_reach_back_make_it_unknown(tmp_path, quick_turns):
    async with desk(tmp_path) as app:
        now = app.process.world.now()
        app.estate.tenant.add_application("old-import", created_at=now - timedelta(days=500))
        seen(app, SIGN_INS, "somebody", now - timedelta(days=30))

        await sweeps.sweep_dormant(app.process)

        found, _ = await entries(app)
        assert found["old-import"]["proposal"] == "watch"
        assert "reach back" in found["old-import"]["unknown"][0]


async def test_unreadable_principals_write_no_report_and_keep_the_old_one(place):
    await sweeps.sweep_dormant(place.process)
    _, before = await entries(place)
    place.estate.tenant.faults.add(r"GET .*/servicePrincipals$", FaultKind.STATUS, status=403)

    with pytest.raises(ClientError):
        await sweeps.sweep_dormant(place.process)

    assert (await entries(place))[1]["madeAt"] == before["madeAt"]


@pytest.mark.parametrize("query", [{"page": "0"}, {"page": "x"}, {"pages": "1"}])
async def test_a_page_that_is_none_is_refused(app, query):
    assert (await app.call("dormant", query=query)).status == 400
