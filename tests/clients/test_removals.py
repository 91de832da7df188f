"""Removal levers over real sockets: take away, give back, twice, and with answers that are lost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from graph_world import READS, World, as_ours, running

from clients.errors import BadRequest, Malformed, NotFound, OutcomeUnknown, Refused, Throttled
from clients.graph import AssignmentSnapshot, CredentialSnapshot, GrantSnapshot
from clients.terms import AppId, Kind, ServicePrincipal
from simtenant.faults import FaultKind
from simtenant.graph_base import GraphBase
from simtenant.tenant import HeldCredential, Principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

USER = "0d1fd2a5-1111-4222-8333-444455556666"
GITHUB = {
    "name": "github",
    "issuer": "https://token.actions.githubusercontent.com",
    "subject": "repo:contoso/invoices:ref:refs/heads/main",
    "audiences": ["api://AzureADTokenExchange"],
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        now = world.tenant.clock.now()
        year = timedelta(days=365)
        world.agent.credentials += [
            HeldCredential(world.tenant.new_id(), now, now + year, "of app", is_certificate=True),
            HeldCredential(world.tenant.new_id(), now, now + year, "own", on_application=False),
            HeldCredential(
                world.tenant.new_id(), now, now + year, "own", is_certificate=True, on_application=False
            ),
        ]
        world.agent.federated.append({"id": world.tenant.new_id(), **GITHUB})
        world.agent.own_federated.append({"id": world.tenant.new_id(), **GITHUB, "description": "ours"})
        yield world


def graph_id(world: World) -> str:
    found = world.tenant.principal_by_app_id("00000003-0000-0000-c000-000000000000")
    assert found is not None
    return found.object_id


def grant(world: World, **more: Any) -> dict[str, Any]:
    row = {
        "id": world.tenant.new_id(),
        "clientId": world.agent.object_id,
        "resourceId": graph_id(world),
        "consentType": "AllPrincipals",
        "principalId": None,
        "scope": "User.Read Mail.Read",
    } | more
    world.agent.grants.append(row)
    return row


def certificates(principal: Principal) -> set[str]:
    return {one.key_id for one in principal.credentials if one.is_certificate}


# -- credentials ---------------------------------------------------------------


async def test_all_credentials_of_both_places_are_read_and_nothing_of_a_secret(world: World) -> None:
    snapshot = await world.graph().credentials(as_ours(world.agent))

    assert [(one.place, one.kind) for one in snapshot.held] == [
        (place, kind)
        for place in ("servicePrincipals", "applications")
        for kind in ("secret", "certificate", "federated")
    ]
    text = json.dumps(snapshot.to_body())
    assert world.agent.secret is not None
    assert world.agent.secret not in text
    assert "hint" not in text
    assert "secretText" not in text
    assert CredentialSnapshot.from_body(json.loads(text)) == snapshot
    assert not snapshot.is_empty


@pytest.mark.parametrize(("kind", "usage"), [("Symmetric", "Verify"), ("X509CertAndPassword", "Sign")])
async def test_no_key_but_a_public_one_is_kept(
    world: World, kind: str, usage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = GraphBase._with_keys

    def shows_all(self: GraphBase, row: Any, call: Any) -> Any:
        shown = plain(self, row, call)
        for one in shown["keyCredentials"]:
            one |= {"type": kind, "usage": usage}
        return shown

    monkeypatch.setattr(GraphBase, "_with_keys", shows_all)
    snapshot = await world.graph().credentials(as_ours(world.agent))

    assert [one.body.get("key") for one in snapshot.held] == [None] * 6


async def test_removing_ends_the_next_token_request_and_leaves_nothing(world: World) -> None:
    graph = world.graph()
    assert await world.token_status(world.agent) == 200
    snapshot = await graph.credentials(as_ours(world.agent))

    await graph.remove_credentials(snapshot)

    assert await world.token_status(world.agent) == 401
    assert (await graph.credentials(as_ours(world.agent))).is_empty
    assert (world.agent.credentials, world.agent.federated, world.agent.own_federated) == ([], [], [])


async def test_what_came_after_the_snapshot_stays(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    now = world.tenant.clock.now()
    later = HeldCredential(world.tenant.new_id(), now, now + timedelta(days=9), "later", is_certificate=True)
    secret = HeldCredential(world.tenant.new_id(), now, now + timedelta(days=9), "later")
    world.agent.credentials += [later, secret]

    await graph.remove_credentials(snapshot)

    assert {one.key_id for one in world.agent.credentials} == {later.key_id, secret.key_id}


async def test_removing_twice_is_no_error_and_writes_nothing_more(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    await graph.remove_credentials(snapshot)
    world.tenant.requests.clear()

    await graph.remove_credentials(snapshot)

    assert world.asked("POST") == world.asked("PATCH") == []


async def test_a_secret_that_somebody_removes_at_the_same_time_is_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    plain = graph._send

    async def overtaken(what: str, *args: Any, **options: Any) -> None:
        if what == "remove secret":
            world.agent.credentials = [one for one in world.agent.credentials if one.is_certificate]
        await plain(what, *args, **options)

    monkeypatch.setattr(graph, "_send", overtaken)
    await graph.remove_credentials(snapshot)

    assert (await graph.credentials(as_ours(world.agent))).is_empty


async def test_a_secret_that_graph_will_not_remove_is_an_error(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    world.tenant.faults.add(r"POST .*/removePassword", FaultKind.STATUS, times=1, status=400)

    with pytest.raises(BadRequest):
        await graph.remove_credentials(snapshot)


@pytest.mark.parametrize("write", ["POST {}.*/removePassword", "PATCH {}", "DELETE {}"])
@pytest.mark.parametrize("place", ["applications", "servicePrincipals"])
async def test_a_lost_answer_is_an_unknown_outcome_and_doing_it_again_finishes_it(
    world: World, write: str, place: str
) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    world.tenant.faults.add(write.format(f"/v1.0/+{place}/"), FaultKind.DROP_AFTER, times=1)

    with pytest.raises(OutcomeUnknown):
        await graph.remove_credentials(snapshot)
    await graph.remove_credentials(snapshot)

    assert (await graph.credentials(as_ours(world.agent))).is_empty


@pytest.mark.parametrize(("status", "error"), [(403, Refused), (429, Throttled), (500, OutcomeUnknown)])
async def test_a_partial_failure_is_an_error(world: World, status: int, error: type[Exception]) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    world.tenant.faults.add(r"PATCH /v1.0/+applications", FaultKind.STATUS, times=1, status=status)

    with pytest.raises(error):
        await graph.remove_credentials(snapshot)
    assert certificates(world.agent)


async def test_restoring_gives_back_what_can_and_says_what_cannot(world: World) -> None:
    graph = world.graph()
    before = certificates(world.agent)
    snapshot = CredentialSnapshot.from_body(
        json.loads(json.dumps((await graph.credentials(as_ours(world.agent))).to_body()))
    )
    await graph.remove_credentials(snapshot)

    lost = await graph.restore_credentials(snapshot)

    assert certificates(world.agent) == before
    assert [{k: v for k, v in one.items() if k != "id"} for one in world.agent.federated] == [GITHUB]
    assert world.agent.own_federated[0]["description"] == "ours"
    assert len(lost) == 2
    assert all("whoever used it needs a new one" in one for one in lost)
    assert await world.token_status(world.agent) == 401, "the secret it signs in with is gone for good"


async def test_who_signs_in_with_a_certificate_signs_in_again(world: World) -> None:
    agent = world.tenant.add_application("certified", certificate=True)
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(agent))
    await graph.remove_credentials(snapshot)
    assert await world.token_status(agent) == 401

    assert await graph.restore_credentials(snapshot) == ()

    assert await world.token_status(agent) == 200


async def test_restoring_twice_makes_nothing_twice(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    await graph.remove_credentials(snapshot)
    first = await graph.restore_credentials(snapshot)
    credentials = list(world.agent.credentials)
    world.tenant.requests.clear()

    assert await graph.restore_credentials(snapshot) == first

    assert world.agent.credentials == credentials
    assert world.asked("POST") == world.asked("PATCH") == []


async def test_restoring_leaves_a_certificate_that_came_since(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    await graph.remove_credentials(snapshot)
    now = world.tenant.clock.now()
    since = HeldCredential(world.tenant.new_id(), now, now + timedelta(days=9), "since", is_certificate=True)
    world.agent.credentials.append(since)

    await graph.restore_credentials(snapshot)

    assert since.key_id in certificates(world.agent)
    assert len(certificates(world.agent)) == 3


async def test_a_certificate_without_its_key_is_said_to_be_lost(world: World) -> None:
    graph = world.graph()
    snapshot = await graph.credentials(as_ours(world.agent))
    body = json.loads(json.dumps(snapshot.to_body()))
    for one in body["held"]:
        one["body"].pop("key", None)
    await graph.remove_credentials(snapshot)

    lost = await graph.restore_credentials(CredentialSnapshot.from_body(body))

    assert sum("Graph gave no public key" in one for one in lost) == 2
    assert certificates(world.agent) == set()


async def test_a_lost_answer_to_a_restoration_is_unknown_and_done_again_is_complete(world: World) -> None:
    graph = world.graph()
    before = certificates(world.agent)
    snapshot = await graph.credentials(as_ours(world.agent))
    await graph.remove_credentials(snapshot)
    world.tenant.faults.add(r"POST .*/federatedIdentityCredentials", FaultKind.DROP_AFTER, times=1)

    with pytest.raises(OutcomeUnknown):
        await graph.restore_credentials(snapshot)
    await graph.restore_credentials(snapshot)

    assert certificates(world.agent) == before
    assert (len(world.agent.federated), len(world.agent.own_federated)) == (1, 1)


async def test_of_an_application_registered_elsewhere_only_what_hangs_here_is_read(world: World) -> None:
    foreign = world.tenant.add_application(
        "theirs", app_owner_organization_id=USER, sign_in_audience="AzureADMultipleOrgs"
    )
    now = world.tenant.clock.now()
    foreign.credentials.append(HeldCredential(world.tenant.new_id(), now, now, on_application=False))

    snapshot = await world.graph().credentials(as_ours(foreign, Kind.FOREIGN_APPLICATION))

    assert [one.place for one in snapshot.held] == ["servicePrincipals"]


async def test_a_principal_that_is_not_there_is_not_without_credentials(world: World) -> None:
    nobody = ServicePrincipal(
        as_ours(world.agent).object_id, AppId(""), "nobody", Kind.APPLICATION, None, None
    )
    with pytest.raises(Malformed):
        await world.graph().credentials(nobody)

    principal = as_ours(world.agent)
    del world.tenant.principals[world.agent.object_id]
    with pytest.raises(NotFound):
        await world.graph().credentials(principal)


async def test_reading_that_fails_half_way_is_no_snapshot(world: World) -> None:
    world.tenant.faults.add(
        r"GET .*/applications/.*/federatedIdentity", FaultKind.STATUS, times=1, status=404
    )

    with pytest.raises(NotFound):
        await world.graph().credentials(as_ours(world.agent))


# -- app role assignments --------------------------------------------------------


async def test_app_roles_are_taken_away_and_given_again(world: World) -> None:
    graph, ours = world.graph(), as_ours(world.agent)
    snapshot = AssignmentSnapshot.from_body(
        json.loads(json.dumps((await graph.app_role_assignments(ours)).to_body()))
    )
    assert (len(snapshot.held), snapshot.is_empty) == (2, False)

    await graph.remove_app_role_assignments(snapshot)
    assert world.agent.app_roles == set()
    assert (await graph.app_role_assignments(ours)).is_empty
    await graph.remove_app_role_assignments(snapshot)
    # What nobody else holds either is a role that Graph here no longer offers.
    world.us.app_roles |= {"Mail.Read", "User.Read.All"}

    assert await graph.restore_app_role_assignments(snapshot) == ()
    assert world.agent.app_roles == {"Mail.Read", "User.Read.All"}
    world.tenant.requests.clear()
    assert await graph.restore_app_role_assignments(snapshot) == ()
    assert world.asked("POST") == []


async def test_a_role_that_is_no_longer_offered_is_said_not_to_have_come_back(world: World) -> None:
    graph = world.graph()
    world.agent.app_roles = {"Sites.FullControl.All", "User.Read.All"}
    snapshot = await graph.app_role_assignments(as_ours(world.agent))
    await graph.remove_app_role_assignments(snapshot)
    world.tenant.roles_once_held.clear()  # the resource has stopped offering it meanwhile

    [lost] = await graph.restore_app_role_assignments(snapshot)

    assert "was not given again" in lost
    assert world.agent.app_roles == {"User.Read.All"}


@pytest.mark.parametrize("times", [1, 2])
async def test_lost_answers_to_app_roles_are_unknown_and_repeated_safely(world: World, times: int) -> None:
    graph = world.graph()
    world.us.app_roles |= world.agent.app_roles
    snapshot = await graph.app_role_assignments(as_ours(world.agent))
    for method in ("DELETE", "POST"):
        world.tenant.faults.add(f"{method} .*/appRoleAssignments", FaultKind.DROP_AFTER, times=times)

    for _ in range(times):
        with pytest.raises(OutcomeUnknown):
            await graph.remove_app_role_assignments(snapshot)
    await graph.remove_app_role_assignments(snapshot)
    assert world.agent.app_roles == set()
    for _ in range(times):
        with pytest.raises(OutcomeUnknown):
            await graph.restore_app_role_assignments(snapshot)
    assert await graph.restore_app_role_assignments(snapshot) == ()

    assert world.agent.app_roles == {"Mail.Read", "User.Read.All"}


async def test_without_the_permission_no_app_role_is_touched(world: World) -> None:
    snapshot = await world.graph().app_role_assignments(as_ours(world.agent))
    world.us.app_roles = set(READS)

    with pytest.raises(Refused):
        await world.graph().remove_app_role_assignments(snapshot)
    assert len(world.agent.app_roles) == 2


# -- delegated grants --------------------------------------------------------------


async def test_grants_are_taken_away_and_given_again(world: World) -> None:
    grant(world)
    grant(world, consentType="Principal", principalId=USER, scope="Calendars.Read")
    graph, ours = world.graph(), as_ours(world.agent)
    before = [{k: v for k, v in one.items() if k != "id"} for one in world.agent.grants]
    snapshot = GrantSnapshot.from_body(json.loads(json.dumps((await graph.delegated_grants(ours)).to_body())))
    assert (len(snapshot.held), snapshot.is_empty) == (2, False)

    await graph.remove_delegated_grants(snapshot)
    assert world.agent.grants == []
    assert (await graph.delegated_grants(ours)).is_empty
    await graph.remove_delegated_grants(snapshot)

    assert await graph.restore_delegated_grants(snapshot) == ()
    assert [{k: v for k, v in one.items() if k != "id"} for one in world.agent.grants] == before
    world.tenant.requests.clear()
    assert await graph.restore_delegated_grants(snapshot) == ()
    assert world.asked("POST") == []


async def test_a_grant_made_since_is_left_and_what_it_lacks_is_said(world: World) -> None:
    grant(world)
    graph = world.graph()
    snapshot = await graph.delegated_grants(as_ours(world.agent))
    await graph.remove_delegated_grants(snapshot)
    grant(world, scope="User.Read")

    [lost] = await graph.restore_delegated_grants(snapshot)

    assert "scopes Mail.Read" in lost
    assert [one["scope"] for one in world.agent.grants] == ["User.Read"]


async def test_lost_answers_to_grants_are_unknown_and_repeated_safely(world: World) -> None:
    grant(world)
    graph = world.graph()
    snapshot = await graph.delegated_grants(as_ours(world.agent))
    for method in ("DELETE", "POST"):
        world.tenant.faults.add(f"{method} .*/oauth2PermissionGrants", FaultKind.DROP_AFTER, times=1)

    with pytest.raises(OutcomeUnknown):
        await graph.remove_delegated_grants(snapshot)
    await graph.remove_delegated_grants(snapshot)
    with pytest.raises(OutcomeUnknown):
        await graph.restore_delegated_grants(snapshot)
    assert await graph.restore_delegated_grants(snapshot) == ()

    assert len(world.agent.grants) == 1


async def test_reading_applications_does_not_show_what_people_granted(world: World) -> None:
    world.us.app_roles = set(READS)

    with pytest.raises(Refused):
        await world.graph().delegated_grants(as_ours(world.agent))


async def test_all_pages_are_in_a_snapshot(world: World) -> None:
    world.tenant.settings.page_size = 1
    for user in range(3):
        grant(world, consentType="Principal", principalId=f"0d1fd2a5-1111-4222-8333-44445555666{user}")

    assert len((await world.graph().delegated_grants(as_ours(world.agent))).held) == 3
    assert len((await world.graph().app_role_assignments(as_ours(world.agent))).held) == 2
