"""``python -m workbench policies``: what is never written, what is, and the whole story of arming a breaker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from policies_world import (
    AGENT_POLICY,
    CODE_POLICY,
    LOCATION_POLICY,
    SOMEBODY,
    SP_POLICY,
    Desk,
    desk,
)

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, ServicePrincipal, TenantId
from response.breaker import armed
from response.evidence import Armed, NotArmed
from simtenant.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ENABLED, REPORT_ONLY = "enabled", "enabledForReportingButNotEnforced"


@pytest.fixture
async def d(tmp_path: Path, monkeypatch: Any, capsys: Any) -> AsyncIterator[Desk]:
    async with desk(tmp_path, monkeypatch, capsys) as opened:
        yield opened


def breaker_for(d: Desk) -> object:
    agent = d.agent
    principal = ServicePrincipal(
        ObjectId(agent.object_id),
        AppId(agent.app_id),
        agent.display_name,
        Kind.APPLICATION,
        TenantId(d.tenant.settings.tenant_id),
        True,
    )
    return armed([policy_from_graph(one) for one in d.tenant.policies], principal)


async def test_the_whole_story_from_report_only_to_a_refused_agent_and_back(d: Desk) -> None:
    code, said = await d.run("apply", SP_POLICY)
    assert (code, d.policy()["state"]) == (0, REPORT_ONLY), said
    assert isinstance(breaker_for(d), NotArmed)

    d.at_risk(d.agent)
    await d.fortnight(d.agent)
    assert (await d.sign_in(d.agent))[0] == 200  # it only reports

    code, said = await d.run("promote", SP_POLICY)
    assert code == 1
    assert f"{d.agent.object_id}  invoice-agent  2 times" in said  # every row came twice
    assert "NOT COVERED" in said
    assert d.policy()["state"] == REPORT_ONLY

    code, said = await d.run("promote", SP_POLICY, "--accept", d.agent.object_id)
    assert (code, d.policy()["state"]) == (0, ENABLED), said
    assert isinstance(breaker_for(d), Armed)
    status, why = await d.sign_in(d.agent)
    assert status == 400
    assert "AADSTS53003" in why

    code, said = await d.run("rollback", SP_POLICY)
    assert (code, d.policy()["state"]) == (0, REPORT_ONLY), said
    assert (await d.sign_in(d.agent))[0] == 200
    assert isinstance(breaker_for(d), NotArmed)


async def test_an_exclusion_covers_a_principal_without_starting_the_fortnight_again(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    d.at_risk(d.agent)
    await d.fortnight(d.agent)

    code, said = await d.run("apply", SP_POLICY, "--exclude", d.agent.object_id)
    assert code == 0, said
    code, said = await d.run("promote", SP_POLICY)

    assert (code, d.policy()["state"]) == (0, ENABLED), said
    assert "excluded meanwhile" in said
    assert (await d.sign_in(d.agent))[0] == 200


async def test_agents_have_their_own_policy_over_beta(d: Desk) -> None:
    blueprint = d.tenant.add_agent_blueprint("blueprint")
    agent = d.tenant.add_agent_identity("agent", blueprint=blueprint)

    code, said = await d.run("apply", AGENT_POLICY, "--exclude-agent", agent.object_id)

    assert code == 0, said
    clients = d.policy(AGENT_POLICY)["conditions"]["clientApplications"]
    assert clients["excludeAgentIdServicePrincipals"] == [agent.object_id]
    assert [
        one.path.split("/")[1] for one in d.tenant.requests if one.method == "POST" and "polic" in one.path
    ] == ["beta"]
    assert await d.run("plan", AGENT_POLICY) == (0, f"= {AGENT_POLICY}: is as written, state {REPORT_ONLY}\n")

    sibling = d.tenant.add_agent_identity("sibling", blueprint=blueprint)
    d.at_risk(agent, sibling)
    await d.fortnight(agent, sibling)
    code, said = await d.run("promote", AGENT_POLICY)
    assert (code, f"{sibling.object_id}  sibling" in said, agent.object_id in said) == (1, True, False), said
    code, said = await d.run("promote", AGENT_POLICY, "--accept", sibling.object_id)
    assert code == 0, said
    assert [(await d.sign_in(one))[0] for one in (agent, sibling)] == [200, 400]


# --- never on creation or update ------------------------------------------------------------------


async def test_applying_never_changes_the_state_nor_touches_another_policy(d: Desk) -> None:
    other = d.tenant.add_risk_policy(display_name="somebody's own")
    before = json.dumps(other)
    await d.run("apply", SP_POLICY)
    d.edit(state="disabled")
    await d.run("plan", SP_POLICY)

    code, said = await d.run("apply", SP_POLICY, "--exclude", SOMEBODY, "--overwrite-edits")

    assert (code, d.policy()["state"]) == (0, "disabled"), said
    assert json.dumps(other) == before


async def test_a_policy_of_the_same_name_that_we_did_not_create_is_never_touched(d: Desk) -> None:
    d.tenant.add_risk_policy(display_name=SP_POLICY, exclude=[SOMEBODY])
    before = d.policy()

    code, said = await d.run("apply", SP_POLICY)

    assert (code, d.policy(), d.writes()) == (1, before, [])
    assert before["id"] in said
    assert "--policy-id" in said


async def test_a_policy_whose_id_was_told_becomes_ours_and_keeps_its_exclusions(d: Desk) -> None:
    stored = d.tenant.add_risk_policy(
        display_name="old name", exclude=[SOMEBODY], state=REPORT_ONLY, levels=["medium"]
    )

    before = dict(stored)
    code, said = await d.run("apply", SP_POLICY, "--policy-id", stored["id"])
    assert (code, d.writes(), dict(stored)) == (0, [], before), said
    assert "nothing was written" in said

    code, said = await d.run("plan", SP_POLICY)
    assert "servicePrincipalRiskLevels: medium" in said
    assert (await d.run("apply", SP_POLICY))[0] == 0

    found = d.policy()
    assert found["id"] == stored["id"]
    assert found["conditions"]["clientApplications"]["excludeServicePrincipals"] == [SOMEBODY]
    assert found["conditions"]["servicePrincipalRiskLevels"] == ["high"]


EXCLUDED_OTHERWISE = {
    "roles": ("users", {"excludeRoles": [SOMEBODY]}),
    "platforms": ("platforms", {"includePlatforms": ["all"], "excludePlatforms": ["linux"]}),
    "applications": ("applications", {"excludeApplications": [SOMEBODY]}),
    "filter": ("clientApplications", {"servicePrincipalFilter": {"mode": "exclude", "rule": "x"}}),
    "no place in its file": ("locations", {"includeLocations": ["All"], "excludeLocations": ["AllTrusted"]}),
}


@pytest.mark.parametrize("which", EXCLUDED_OTHERWISE)
async def test_an_exclusion_that_a_later_apply_would_drop_keeps_a_policy_from_becoming_ours(
    d: Desk, which: str
) -> None:
    part, more = EXCLUDED_OTHERWISE[which]
    stored = d.tenant.add_risk_policy(display_name="theirs", state=REPORT_ONLY)
    conditions = stored["conditions"]
    conditions[part] = (conditions.get(part) or {}) | more

    code, said = await d.run("apply", SP_POLICY, "--policy-id", stored["id"])

    assert (code, d.writes()) == (1, []), said
    assert "It is not made ours" in said
    code, said = await d.run("rollback", SP_POLICY, "--report-only")
    assert code == 1, said
    assert "not one of the policies we created" in said


async def test_what_another_excluded_is_never_dropped_by_taking_the_policy_over(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    theirs = d.policy()["conditions"] | {
        "clientApplications": {
            "includeServicePrincipals": ["ServicePrincipalsInMyTenant"],
            "excludeServicePrincipals": [SOMEBODY],
        }
    }
    d.edit(conditions=theirs)
    said = (await d.run("plan", SP_POLICY))[1]
    assert f"apply {SP_POLICY} --policy-id {d.policy()['id']}" in said

    assert (await d.run("apply", SP_POLICY, "--policy-id", d.policy()["id"]))[0] == 0
    assert await d.run("plan", SP_POLICY) == (0, f"= {SP_POLICY}: is as written, state {REPORT_ONLY}\n")
    assert d.policy()["conditions"] == theirs


async def test_only_what_its_file_says_is_ever_enabled(d: Desk) -> None:
    stored = d.tenant.add_risk_policy(
        display_name="Finance: block all", state=REPORT_ONLY, levels=["low", "medium", "high"]
    )
    await d.run("apply", SP_POLICY, "--policy-id", stored["id"])

    code, said = await d.run("promote", SP_POLICY, "--accept-short-history", "0")

    assert (code, stored["state"], d.writes()) == (1, REPORT_ONLY, []), said
    assert "is not what its file says" in said


async def test_one_that_fails_half_way_says_which_and_what_was_written_before(d: Desk) -> None:
    place = d.tenant.add_named_location({"@odata.type": "#microsoft.graph.ipNamedLocation", "ipRanges": []})
    d.fault(
        "POST .*/conditionalAccess/policies", FaultKind.LATENCY
    )  # takes the first request, and lets it through
    d.fault("POST .*/conditionalAccess/policies", FaultKind.STATUS, status=403)

    names = (SP_POLICY, LOCATION_POLICY, CODE_POLICY)
    code, said = await d.run("apply", *names, "--location", place["id"], "--exclude-user", SOMEBODY)

    assert (code, [one["displayName"] for one in d.tenant.policies]) == (1, [SP_POLICY]), said
    assert (
        f"! {LOCATION_POLICY}: stopped here, for the reason below. Written before: {SP_POLICY}."
        f" Not tried: {CODE_POLICY}" in said
    )


@pytest.mark.parametrize("how", ["exclusion", "report-only again", "rollback"])
async def test_days_in_which_others_had_changed_it_are_never_counted_because_we_wrote_since(
    d: Desk, how: str
) -> None:
    await d.run("apply", SP_POLICY)
    await d.run("apply", SP_POLICY, "--exclude", d.person.object_id)
    await d.sign_in(d.agent)
    d.later(1)
    d.edit(state="disabled")
    d.at_risk(d.agent)
    d.later(12)
    await d.sign_in(d.agent)
    d.edit(state=REPORT_ONLY)
    d.later(2)
    other = d.tenant.add_application("other")
    await d.sign_in(other)
    match how:
        case "exclusion":
            assert (await d.run("apply", SP_POLICY, "--exclude", SOMEBODY))[0] == 0
        case "report-only again":
            await d.run("promote", SP_POLICY, "--accept-short-history", "0")
            assert d.policy()["state"] == ENABLED
            assert (await d.run("rollback", SP_POLICY, "--report-only"))[0] == 0
        case _:
            assert (await d.run("rollback", SP_POLICY))[0] == 0
            assert (await d.run("apply", SP_POLICY))[0] == 0

    code, said = await d.run("promote", SP_POLICY)

    assert (code, d.policy()["state"]) == (1, REPORT_ONLY), said
    assert "days and 14 are needed" in said


async def test_an_enabled_policy_is_never_widened(d: Desk) -> None:
    await d.run("apply", SP_POLICY, "--exclude", SOMEBODY)
    await d.run("promote", SP_POLICY, "--accept-short-history", "0")
    assert d.policy()["state"] == ENABLED
    before = d.policy()

    code, said = await d.run("apply", SP_POLICY, "--remove", SOMEBODY)
    assert (code, d.policy()) == (1, before), said

    code, said = await d.run("apply", SP_POLICY, "--exclude", d.agent.object_id)
    assert (code, d.policy()["state"]) == (0, ENABLED), said
    code, said = await d.run("rollback", SP_POLICY)  # would drop that exclusion from a policy that blocks
    assert code == 1, said
    assert len(d.policy()["conditions"]["clientApplications"]["excludeServicePrincipals"]) == 2


async def test_exclusions_of_earlier_runs_are_not_forgotten(d: Desk) -> None:
    await d.run("apply", SP_POLICY, "--exclude", SOMEBODY)
    await d.run("apply", SP_POLICY, "--exclude", d.agent.object_id)
    await d.run("apply", SP_POLICY)

    ids = d.policy()["conditions"]["clientApplications"]["excludeServicePrincipals"]
    assert sorted(ids) == sorted([SOMEBODY, d.agent.object_id])


async def test_a_template_that_is_not_filled_is_refused_and_a_location_must_exist(d: Desk) -> None:
    code, said = await d.run("apply", LOCATION_POLICY)
    assert (code, d.tenant.policies) == (1, [])
    assert "--location" in said

    code, said = await d.run("apply", LOCATION_POLICY, "--location", SOMEBODY)
    assert (code, d.tenant.policies) == (1, [])
    assert "no named location" in said

    place = d.tenant.add_named_location({"@odata.type": "#microsoft.graph.ipNamedLocation", "ipRanges": []})
    code, said = await d.run("apply", LOCATION_POLICY, "--location", place["id"])
    assert code == 0, said
    assert d.policy(LOCATION_POLICY)["conditions"]["locations"]["excludeLocations"] == [place["id"]]


async def test_a_policy_for_people_is_never_applied_without_a_way_back_in(d: Desk) -> None:
    code, said = await d.run("apply", CODE_POLICY, SP_POLICY)
    assert (code, d.tenant.policies, d.writes()) == (1, [], []), said
    assert "--exclude-user" in said

    code, said = await d.run("apply", CODE_POLICY, "--exclude-user", SOMEBODY)
    assert (code, d.policy(CODE_POLICY)["conditions"]["users"]["excludeUsers"]) == (0, [SOMEBODY]), said


# --- somebody else edits --------------------------------------------------------------------------


async def test_an_edit_by_someone_else_is_shown_and_never_overwritten_unasked(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    conditions = d.policy()["conditions"] | {"servicePrincipalRiskLevels": ["high", "medium"]}
    d.edit(conditions=conditions)

    for action in ("apply", "promote", "rollback"):
        code, said = await d.run(action, SP_POLICY)
        assert (code, "servicePrincipalRiskLevels: medium" in said) == (1, True), said
    code, _ = await d.run("apply", SP_POLICY, "--overwrite-edits")
    assert code == 1  # no plan has shown it
    code, said = await d.run("plan", SP_POLICY)
    assert (code, "+ conditions.servicePrincipalRiskLevels: medium" in said) == (1, True)
    assert d.policy()["conditions"] == conditions

    code, said = await d.run("apply", SP_POLICY, "--overwrite-edits")
    assert (code, d.policy()["conditions"]["servicePrincipalRiskLevels"]) == (0, ["high"]), said


async def test_an_edit_right_before_the_write_refuses_it(d: Desk, monkeypatch: Any) -> None:
    await d.run("apply", SP_POLICY)
    conditions = d.policy()["conditions"] | {"servicePrincipalRiskLevels": ["low"]}
    d.edit_before_next_write(monkeypatch, conditions=conditions)

    code, said = await d.run("promote", SP_POLICY, "--accept-short-history", "0")

    assert (code, d.policy()["state"], d.writes()) == (1, REPORT_ONLY, ["POST 201"])
    assert "+ conditions.servicePrincipalRiskLevels: low" in said


async def test_a_block_can_be_stopped_whatever_was_edited_and_the_edit_stays_somebody_elses(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    await d.run("promote", SP_POLICY, "--accept-short-history", "0")
    d.edit(conditions=d.policy()["conditions"] | {"servicePrincipalRiskLevels": ["high", "medium"]})

    code, said = await d.run("rollback", SP_POLICY, "--report-only")
    assert (code, d.policy()["state"]) == (0, REPORT_ONLY), said

    code, said = await d.run("promote", SP_POLICY, "--accept-short-history", "0")
    assert (code, d.policy()["state"]) == (1, REPORT_ONLY)
    assert "someone else edited" in said


async def test_an_edit_between_plan_and_apply_refuses(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    await d.run("plan", SP_POLICY, "--exclude", SOMEBODY)
    d.edit(state="disabled")

    code, said = await d.run("apply", SP_POLICY, "--exclude", SOMEBODY)

    assert (code, d.writes()) == (1, ["POST 201"])
    assert "+ state: disabled" in said


async def test_a_deleted_policy_is_not_created_again_unasked(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    d.tenant.policies.clear()

    assert (await d.run("apply", SP_POLICY))[0] == 1
    assert d.tenant.policies == []
    assert (await d.run("apply", SP_POLICY, "--recreate"))[0] == 0
    assert len(d.tenant.policies) == 1
