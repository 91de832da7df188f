"""The policies of infra/conditional-access against Microsoft's contract, and how bodies are compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from graph_contract import SHARED, check_request
from hypothesis import given
from hypothesis import strategies as st
from policies_world import AGENT_POLICY, CODE_POLICY, LEGACY_POLICY, LOCATION_POLICY, SOMEBODY, SP_POLICY

from clients.policies import policy_from_graph
from clients.terms import AppId, Kind, ObjectId, ServicePrincipal
from response.breaker import Breaker, Coverage
from response.coverage import About
from workbench.policies import bodies, catalog
from workbench.policies.book import read_saved
from workbench.policies.catalog import Filling
from workbench.policies.refusal import RefusedError
from workbench.usage import UsageError

if TYPE_CHECKING:
    from pathlib import Path

POLICIES = "/identity/conditionalAccess/policies"
FILLED = Filling((SOMEBODY,), (SOMEBODY,), (SOMEBODY,), (SOMEBODY,), (SOMEBODY,))


def filled(name: str) -> dict[str, Any]:
    return catalog.filled(catalog.load(name), FILLED)


def test_the_five_policies_are_there() -> None:
    assert catalog.names() == sorted([SP_POLICY, AGENT_POLICY, LOCATION_POLICY, CODE_POLICY, LEGACY_POLICY])


@pytest.mark.parametrize("name", catalog.names())
def test_every_policy_starts_as_report_only_and_blocks(name: str) -> None:
    body = filled(name)

    assert (body["state"], body["grantControls"]["builtInControls"]) == (bodies.REPORT_ONLY, ["block"])
    assert bodies.needs_beta(body) is (name == AGENT_POLICY)
    assert bodies.is_for_people(body) is (name in (CODE_POLICY, LEGACY_POLICY))


@pytest.mark.skipif(
    SHARED is None, reason="POLICY BODIES NOT CHECKED: no contracts here (set AGENTDESK_SHARED)"
)
@pytest.mark.parametrize("name", catalog.names())
def test_bodies_are_what_the_contract_takes_and_nothing_else(name: str) -> None:
    version = "beta" if name == AGENT_POLICY else "v1.0"
    one = f"{POLICIES}/{{conditionalAccessPolicy-id}}"
    wanted = filled(name)
    edited = json.loads(json.dumps(wanted))
    edited["conditions"]["signInRiskLevels"] = ["high"]
    edited["conditions"]["userRiskLevels"] = []

    check_request(version, "POST", POLICIES, wanted)
    check_request(version, "PATCH", one, bodies.patch(edited, wanted))
    check_request(version, "PATCH", one, {"state": bodies.ENABLED})


@pytest.mark.skipif(
    SHARED is None, reason="POLICY BODIES NOT CHECKED: no contracts here (set AGENTDESK_SHARED)"
)
def test_the_check_of_bodies_can_fail() -> None:
    with pytest.raises(AssertionError, match="agentIdRiskLevels"):
        check_request("v1.0", "POST", POLICIES, filled(AGENT_POLICY))


@pytest.mark.parametrize(
    ("name", "kind"), [(SP_POLICY, Kind.APPLICATION), (AGENT_POLICY, Kind.AGENT_IDENTITY)]
)
def test_enabled_they_arm_the_breaker_for_who_is_not_excluded(name: str, kind: Kind) -> None:
    body = filled(name) | {"id": SOMEBODY, "state": bodies.ENABLED}
    breaker = Breaker([policy_from_graph(body)])

    def coverage(object_id: str) -> Coverage:
        return breaker.answer(
            About(ServicePrincipal(ObjectId(object_id), AppId("x"), "", kind, None, None))
        ).coverage

    assert coverage("5d1f0000-0000-4000-8000-00000000000b") is Coverage.ARMED
    assert coverage(SOMEBODY) is Coverage.NOT_COVERED


def test_a_template_that_is_not_filled_is_refused() -> None:
    with pytest.raises(RefusedError, match="--location"):
        catalog.filled(catalog.load(LOCATION_POLICY), Filling())


def test_what_graph_adds_is_no_difference() -> None:
    ours = filled(SP_POLICY)
    theirs = {
        **ours,
        "id": SOMEBODY,
        "@odata.context": "x",
        "createdDateTime": "2026-01-01T00:00:00Z",
        "modifiedDateTime": None,
        "sessionControls": None,
        "templateId": None,
        "conditions": {
            **ours["conditions"],
            "platforms": None,
            "userRiskLevels": [],
            "locations": {"includeLocations": [], "excludeLocations": []},
            "clientApplications": {
                **ours["conditions"]["clientApplications"],
                "excludeServicePrincipals": [SOMEBODY.upper()],
                "servicePrincipalFilter": None,
            },
        },
    }

    assert bodies.fingerprint(ours) == bodies.fingerprint(theirs)
    assert bodies.differences(ours, theirs) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state",), "enabled"),
        (("conditions", "servicePrincipalRiskLevels"), ["high", "low"]),
        (("conditions", "applications", "excludeApplications"), ["Office365"]),
        (("conditions", "somethingNew"), {"a": True}),
        (("sessionControls",), {"disableResilienceDefaults": False}),
        (("partialEnablementStrategy",), "x"),
    ],
)
def test_anything_else_is_a_difference_also_what_this_version_does_not_know(
    path: tuple[str, ...], value: Any
) -> None:
    ours = filled(SP_POLICY)
    theirs = json.loads(json.dumps(ours))
    part = theirs
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value

    assert bodies.fingerprint(ours) != bodies.fingerprint(theirs)
    assert bodies.differences(ours, theirs)
    assert not bodies.only_excludes_more(ours, theirs) or path == ("state",)


IDS = st.sets(st.sampled_from([f"5d1f0000-0000-4000-8000-00000000000{n}" for n in range(4)]))


@given(before=IDS, after=IDS)
def test_dropping_an_exclusion_is_never_taken_for_narrowing(before: set[str], after: set[str]) -> None:
    template = catalog.load(SP_POLICY)
    old = catalog.filled(template, Filling(principals=tuple(before)))
    new = catalog.filled(template, Filling(principals=tuple(after)))

    assert bodies.only_excludes_more(old, new) is (before <= after)


def test_a_patch_never_carries_the_state_and_empties_what_others_added() -> None:
    wanted = filled(SP_POLICY)
    edited = json.loads(json.dumps(wanted))
    edited["conditions"]["locations"] = {"includeLocations": ["All"], "excludeLocations": ["AllTrusted"]}
    edited["conditions"]["applications"]["excludeApplications"] = ["Office365"]

    made = bodies.patch(edited | {"state": "enabled"}, wanted)

    assert "state" not in made
    assert made["conditions"]["locations"] is None
    assert made["conditions"]["applications"]["excludeApplications"] == []


def test_a_body_is_only_restored_from_where_it_was_saved(tmp_path: Path) -> None:
    elsewhere = tmp_path / "body.json"
    elsewhere.write_text(json.dumps(filled(SP_POLICY)))
    with pytest.raises(UsageError):
        read_saved(str(elsewhere), tmp_path / "bodies")
