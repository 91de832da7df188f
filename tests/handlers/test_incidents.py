import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from desk_app import PLAYBOOK, desk, identity
from test_review import contained, settle, undo

from handlers import incidents as incidents_module
from response import flow
from response.finding import Tier

AG_04 = "ag_04"


@pytest.fixture(autouse=True)
def short_lag(monkeypatch):
    monkeypatch.setattr(incidents_module, "LAG_WAITS", (0.01, 0.02))


def raised(app, *principals, rule="AG-04", confidence="high", details=True, **options):
    ours = {r.id: str(r.sentinel_id) for r in app.process.rules}
    custom = {
        "ServicePrincipalId": [p.object_id for p in principals],
        "AppId": [p.app_id for p in principals],
        "DetectionId": [rule],
        "Confidence": [confidence],
    }
    return app.estate.sentinel.raise_incident(
        "Key Vault used for the first time",
        principals=principals,
        rule_id=ours.get(rule, rule),
        custom_details=custom if details else {},
        **options,
    )


async def settled(app, times=4):
    for _ in range(times):
        await flow.settle(app.process.world)


async def test_an_incident_of_our_own_rule_contains_and_is_commented(app):
    incident = raised(app, app.rogue)

    answer = await app.incident(incident)

    assert answer.status == 200
    result = answer.body["results"][0]
    assert (result["principalId"], result["state"]) == (app.rogue.object_id, "pulled")
    assert app.confirms() == 1
    (comment,) = app.comments()
    assert "is being checked" in comment.message
    assert "Dismiss risk" in comment.message


async def test_the_same_incident_ten_times_at_once_leads_to_one_containment_and_one_comment(app):
    incident = raised(app, app.rogue)

    answers = await asyncio.gather(*(app.incident(incident) for _ in range(10)))

    assert [answer.status for answer in answers] == [200] * 10
    assert len({answer.body["results"][0]["containmentId"] for answer in answers}) == 1
    assert {answer.body["results"][0]["state"] for answer in answers} == {"pulled"}
    assert len(await app.containments()) == 1
    assert app.confirms(status=None) == 1
    assert len(app.comments()) == 1
    writes = [s for s in app.estate.tenant.requests if "/comments/" in s.path and s.method == "PUT"]
    assert len(writes) == 1


async def test_redelivery_after_the_containment_is_proven_changes_nothing(app):
    incident = raised(app, app.rogue)
    await app.incident(incident)
    before = len(await app.ledger_kinds())

    again = await app.incident(incident)

    assert again.body["results"][0]["repeated"] is True
    assert len(await app.ledger_kinds()) == before
    assert app.confirms(status=None) == 1


async def test_a_second_incident_about_the_same_principal_joins(app):
    await app.incident(raised(app, app.rogue))

    second = raised(app, app.rogue)
    await app.incident(second)

    (containment,) = await app.containments()
    assert len(containment["incidents"]) == 2
    assert app.confirms(status=None) == 1
    assert len(app.comments()) == 2  # each incident is told once


async def test_entities_that_lag_are_asked_for_again(app):
    incident = raised(app, app.rogue, entities_lag=2)

    answer = await app.incident(incident)

    assert answer.body["results"][0]["state"] == "pulled"


async def test_an_incident_without_a_principal_is_nothing_to_do_and_no_comment(app):
    incident = raised(app, details=False)

    answer = await app.incident(incident)

    assert answer.status == 200
    assert answer.body["outcome"].startswith("nothing to do")
    assert app.comments() == []
    assert await app.containments() == []


async def test_two_principals_in_one_incident_wait_for_a_person(app):
    other = app.estate.population.benign[0].principal
    incident = raised(app, app.rogue, other)

    answer = await app.incident(incident)

    assert [r["state"] for r in answer.body["results"]] == ["awaiting_approval"] * 2
    assert "the incident names 2 principals" in answer.body["results"][0]["judgement"]["reasons"]
    assert app.confirms(status=None) == 0


async def test_an_incident_of_a_rule_nobody_vouched_for_waits_for_a_person(app):
    answer = await app.incident(raised(app, app.rogue, rule="99999999-9999-4999-8999-999999999999"))

    assert answer.body["results"][0]["state"] == "awaiting_approval"
    assert app.confirms(status=None) == 0


async def test_a_rule_that_the_settings_trust_contains(tmp_path, quick_turns):
    rule = "99999999-9999-4999-8999-999999999999"
    async with desk(tmp_path, TRUSTED_ANALYTICS_RULES=rule) as app:
        answer = await app.incident(raised(app, app.rogue, rule=rule))

        assert answer.body["results"][0]["state"] == "pulled"


async def test_an_account_entity_alone_names_a_principal_for_a_person_to_decide(app):
    answer = await app.incident(raised(app, app.rogue, details=False))

    assert answer.body["results"][0]["principalId"] == app.rogue.object_id
    assert answer.body["results"][0]["state"] == "awaiting_approval"


async def test_the_body_is_a_pointer_and_what_it_claims_is_not_believed(app):
    incident = raised(app, app.rogue)
    victim = app.estate.population.benign[0].principal
    body = json.loads(json.dumps(incident.playbook_body()).replace(app.rogue.object_id, victim.object_id))

    answer = await app.call("incidents", body=body, headers=identity("Incident.Submit", oid=PLAYBOOK))

    assert [r["principalId"] for r in answer.body["results"]] == [app.rogue.object_id]


async def test_an_application_object_id_in_custom_details_is_recognised(app):
    incident = app.estate.sentinel.raise_incident(
        "x",
        rule_id=str(app.process.rules[0].sentinel_id),
        custom_details={"ServicePrincipalId": [app.rogue.application_object_id]},
    )

    answer = await app.incident(incident)

    (result,) = answer.body["results"]
    assert result["containmentId"] is None
    assert app.rogue.object_id in result["judgement"]["reasons"][0]
    assert "app registration" in result["judgement"]["reasons"][0]
    assert app.confirms(status=None) == 0


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b"\xff\xfe", 400, "not_json"),
        (b"[" * 100_000, 400, "not_json"),
        (b"[]", 400, "wrong_shape"),
        (b'{"object": {"id": 7}}', 400, "wrong_shape"),
        (b'{"object": {}}', 400, "wrong_shape"),
        (b'{"object": {"id": "/subscriptions/x"}}', 400, "not_an_incident"),
        (b'{"object": {"id": "' + b"a" * 1_100_000 + b'"}}', 413, "body_too_large"),
    ],
)
async def test_bodies_that_are_none_get_a_clear_error(app, raw, status, code):
    answer = await app.call("incidents", raw=raw, headers=identity("Incident.Submit"))

    assert (answer.status, answer.body["error"]["code"]) == (status, code)
    assert answer.body["error"]["message"]
    assert len(app.estate.tenant.requests) == 0


async def test_an_incident_of_another_workspace_is_refused_and_not_read(app):
    body = raised(app, app.rogue).playbook_body()
    body["object"]["id"] = body["object"]["id"].replace("law-security", "law-other")

    answer = await app.call("incidents", body=body, headers=identity("Incident.Submit"))

    assert (answer.status, answer.body["error"]["code"]) == (403, "foreign_workspace")
    assert len(app.estate.tenant.requests) == 0


async def test_an_unknown_incident_is_404(app):
    body = raised(app, app.rogue).playbook_body()
    app.estate.sentinel.incidents.clear()

    answer = await app.call("incidents", body=body, headers=identity("Incident.Submit"))

    assert (answer.status, answer.body["error"]["code"]) == (404, "incident_not_found")


async def test_titles_from_the_tenant_are_escaped_in_the_comment(app):
    app.rogue.display_name = "<img src=x onerror=alert(1)>\u202e"
    incident = raised(app, app.rogue)
    incident.properties["title"] = "</ul><script>alert(1)</script>"

    await app.incident(incident)

    (comment,) = app.comments()
    assert "<script>" not in comment.message
    assert "<img" not in comment.message
    assert "\u202e" not in comment.message
    assert "&lt;script&gt;" in comment.message
    assert len(comment.message) <= 30_000


async def test_observe_decides_and_records_and_touches_nothing(tmp_path, quick_turns):
    async with desk(tmp_path, mode="observe") as app:
        answer = await app.incident(raised(app, app.rogue))

        assert answer.body["results"][0]["state"] == "proposed"
        assert answer.body["results"][0]["judgement"]["verdict"] == "contain"
        assert app.confirms(status=None) == 0
        assert "nothing was touched" in app.comments()[0].message


async def test_approve_parks_automatic_findings(tmp_path, quick_turns):
    async with desk(tmp_path, mode="approve") as app:
        answer = await app.incident(raised(app, app.rogue))

        assert answer.body["results"][0]["state"] == "awaiting_approval"
        assert app.confirms(status=None) == 0


async def test_without_an_enabled_policy_it_says_not_covered(tmp_path, quick_turns):
    async with desk(tmp_path, armed=False) as app:
        app.estate.tenant.add_risk_policy(state="enabledForReportingButNotEnforced")
        await app.incident(raised(app, app.rogue))

        await settled(app)

        (containment,) = await app.containments()
        assert containment["state"] == "not_covered"
        assert "only reports" in containment["breaker"]
        assert "NOT blocked" in app.comments()[0].message


async def test_a_managed_identity_is_not_confirmed(app):
    identity_of_host = app.estate.tenant.add_managed_identity("vm-agent")

    answer = await app.incident(raised(app, identity_of_host))

    (result,) = answer.body["results"]
    assert result["state"] == "awaiting_approval"
    assert "managed identity" in result["judgement"]["reasons"][0]
    assert app.confirms(status=None) == 0


async def test_a_204_is_not_containment_until_a_denial_is_seen(app):
    await app.incident(raised(app, app.rogue))
    await settled(app)
    (containment,) = await app.containments()
    assert containment["state"] == "confirmed"
    assert containment["proof"] is None

    await refused_sign_in(app)
    await settled(app)

    (containment,) = await app.containments()
    assert containment["state"] == "proven"
    assert containment["proof"]["errorCode"] == "53003"
    assert containment["proof"]["policyId"] == app.estate.policy_id
    (comment,) = app.comments()
    assert "was refused" in comment.message


async def refused_sign_in(app):
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{app.estate.server.base_url}/{app.estate.tenant.settings.tenant_id}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": app.rogue.app_id,
                "client_secret": app.rogue.secret,
                "scope": "https://vault.azure.net/.default",
            },
        )
    assert "AADSTS53003" in answer.text
    await app.estate.ingestion.flush()


async def test_a_risk_that_never_takes_effect_ends_as_failed(app, monkeypatch):
    app.estate.tenant.settings.risk_takes_effect_after = timedelta(days=1)
    await app.incident(raised(app, app.rogue))
    await settled(app, 1)
    assert (await app.containments())[0]["state"] == "pulled"
    later = app.process.world.now() + timedelta(minutes=16)
    world = app.process.world
    await flow.settle(replace(world, now=lambda: later))

    assert (await app.containments())[0]["state"] == "failed"


async def test_an_alert_of_our_rule_without_a_confidence_weighs_what_the_rule_does_by_itself(app):
    """AG-04 alone is corroborated: neither a containment nor context."""
    rule = next(r for r in app.process.rules if r.id == "AG-04")
    incident = app.estate.sentinel.raise_incident(
        "x", rule_id=str(rule.sentinel_id), custom_details={"ServicePrincipalId": [app.rogue.object_id]}
    )

    answer = await app.incident(incident)

    (result,) = answer.body["results"]
    assert result["judgement"]["verdict"] == "watch"
    assert "one sign alone" in result["judgement"]["reasons"][0]


async def test_an_alert_of_an_auto_rule_without_a_confidence_waits_for_a_person(app):
    """It may be of a principal that is still learning: what was not read must not make it bolder."""
    rule = next(r for r in app.process.rules if r.tier is Tier.AUTO)
    incident = app.estate.sentinel.raise_incident(
        "x", rule_id=str(rule.sentinel_id), custom_details={"ServicePrincipalId": [app.rogue.object_id]}
    )

    answer = await app.incident(incident)

    (result,) = answer.body["results"]
    assert (result["judgement"]["verdict"], result["state"]) == ("ask", "awaiting_approval")


@pytest.mark.parametrize("rule", ["AG-01", "AG-19", "AG-30e"])
async def test_an_alert_about_who_is_learning_adds_context_whatever_the_rule(app, rule):
    answer = await app.incident(raised(app, app.rogue, rule=rule, confidence="learning"))

    (result,) = answer.body["results"]
    assert result["judgement"]["verdict"] == "watch"
    assert result["judgement"]["reasons"][0].startswith("context only")
    assert await app.containments() == []


async def test_a_closed_incident_is_nothing_to_do(app):
    incident = raised(app, app.rogue)
    incident.properties["status"] = "Closed"

    answer = await app.incident(incident)

    assert answer.body["outcome"] == "nothing to do: the incident is closed"
    assert app.confirms(status=None) == 0


async def test_an_alert_grouped_in_later_is_judged(app):
    incident = raised(app, app.rogue, confidence="medium")
    first = await app.incident(incident)
    later = raised(app, app.rogue, confidence="high")
    incident.alerts.append(later.alerts[0])
    second = await app.incident(incident)
    third = await app.incident(incident)

    assert first.body["results"][0]["judgement"]["verdict"] == "watch"
    assert second.body["results"][0]["state"] == "pulled"
    assert third.body["results"][0]["repeated"] is True
    assert app.confirms(status=None) == 1


async def test_signs_of_two_families_grouped_into_one_incident_contain(app):
    incident = raised(app, app.rogue, rule="AG-04", confidence="medium")
    other = raised(app, app.rogue, rule="AG-08", confidence="medium")
    incident.alerts.append(other.alerts[0])

    answer = await app.incident(incident)

    assert answer.body["results"][0]["state"] == "pulled"


# --- alerts that Sentinel grouped into one incident -----------------------------------------------


def grouped(app, *, end=None, rule="AG-08"):
    """An incident with two alerts of medium confidence and different families, the second with an end of its own."""
    incident = raised(app, app.rogue, rule="AG-04", confidence="medium")
    (second,) = raised(app, app.rogue, rule=rule, confidence="medium").alerts
    if end is not None:
        second["properties"]["endTimeUtc"] = end
    incident.alerts.append(second)
    return incident


async def test_grouped_alerts_that_agree_contain(app):
    await app.incident(grouped(app))

    assert app.confirms() == 1


@pytest.mark.parametrize("end", ["long ago", "none"])
async def test_grouped_alerts_that_lie_apart_or_say_no_time_never_agree(app, end):
    long_ago = (app.process.world.now() - timedelta(days=7)).isoformat()

    await app.incident(grouped(app, end=long_ago if end == "long ago" else ""))

    assert app.confirms(status=None) == 0


async def test_a_grouped_alert_of_a_rule_that_may_only_be_observed_never_agrees(tmp_path, quick_turns):
    async with desk(tmp_path, RULE_MODES="AG-08=observe") as app:
        await app.incident(grouped(app))

        assert app.confirms(status=None) == 0


async def test_a_grouped_alert_from_before_an_undo_never_agrees(app):
    old = app.process.world.now().isoformat()
    await undo(app, await contained(app))
    before = app.confirms(status=None)
    await settle(app, timedelta(hours=25), times=2)  # probation is over

    await app.incident(grouped(app, end=old))

    assert app.confirms(status=None) == before
