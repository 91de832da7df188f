"""The script that gives permissions, run against the simulated tenant over sockets."""

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from azure.core.credentials import AccessToken

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import grant_permissions as script  # noqa: E402

from clients.graph import GraphClient  # noqa: E402
from grants import catalogue  # noqa: E402
from grants.azure_roles import SENTINEL_APP_ID  # noqa: E402
from grants.steps import Patience  # noqa: E402
from handlers import health  # noqa: E402
from response.levers import LEVERS, OPTIONAL_READ_PERMISSIONS, READ_PERMISSIONS  # noqa: E402
from simtenant.arm_roles import ArmRoles  # noqa: E402
from simtenant.faults import Fault, FaultKind  # noqa: E402
from simtenant.server import TenantServer  # noqa: E402
from simtenant.tenant import Tenant  # noqa: E402

GROUP = "/subscriptions/1f0b6c2e-9d3a-4a57-b5a4-0e8d7c6b5a49/resourceGroups/rg-playbook"
ANALYSTS = "0d1fd2a5-1111-4222-8333-444455556666"
REQUIRED = {"Application.Read.All", "Policy.Read.All", "IdentityRiskyServicePrincipal.ReadWrite.All"}


class As:
    """A credential of somebody in the tenant."""

    def __init__(self, tenant, principal):
        self._tenant, self._principal = tenant, principal

    async def get_token(self, *scopes, **_options):
        audience = scopes[0].removesuffix("/.default")
        return AccessToken(self._tenant.tokens.issue(self._principal, audience), 2**31)


class World:
    def __init__(self, tenant, roles):
        self.tenant, self.roles, self.url = tenant, roles, ""
        self.person = tenant.add_application(
            "person", app_roles={"Application.ReadWrite.All", "AppRoleAssignment.ReadWrite.All"}
        )
        self.app = tenant.add_managed_identity("id-agentbreaker")
        self.playbook = tenant.add_managed_identity("playbook")
        self.sentinel = tenant.add_application("Azure Security Insights", app_id=SENTINEL_APP_ID)

    async def run(self, *words, **changed):
        given = {
            "tenant": self.tenant.settings.tenant_id,
            "identity": self.app.object_id,
            "identity-client-id": self.app.app_id,
            "playbook": self.playbook.object_id,
            "playbook-group": GROUP,
            "graph-url": self.url,
            "arm-url": self.url,
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        line = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        return await script.run(
            script.arguments([*line, *words]), As(self.tenant, self.person), Patience(0.4, 0.02)
        )

    def writes(self):
        return [
            seen.path for seen in self.tenant.requests if seen.method != "GET" and 200 <= seen.status < 300
        ]

    def fault(self, pattern, kind=FaultKind.STATUS, **options):
        self.tenant.faults.arm(Fault(re.compile(pattern), kind, **options))


@asynccontextmanager
async def serving(directory, tenant):
    world = World(tenant, ArmRoles(tenant))
    async with TenantServer(tenant, directory=directory, extra_routes=world.roles.routes()) as server:
        world.url = server.base_url
        yield world


@pytest.fixture
async def world(tmp_path):
    async with serving(tmp_path, Tenant()) as world:
        yield world


def api_of(world):
    [made] = [one for one in world.tenant.applications.values() if one.display_name == "Agentbreaker API"]
    return made


async def test_a_plan_changes_nothing(world, capsys):
    assert await world.run() == 0

    out = capsys.readouterr().out
    assert world.writes() == []
    assert all(f"would give  {name}" in out for name in REQUIRED)


async def test_from_nothing_everything_is_given_and_a_repeat_writes_nothing(world, capsys):
    assert await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}") == 0

    made = api_of(world)
    resource = world.tenant.principal_by_app_id(made.app_id)
    assert world.app.app_roles == REQUIRED
    assert made.identifier_uris == (f"api://{made.app_id}",)
    assert made.sign_in_audience == "AzureADMyOrg"
    assert resource.app_role_assignment_required
    assert {one["principalId"] for one in world.tenant.api_assignments} == {
        world.playbook.object_id,
        ANALYSTS,
    }
    assert len(world.roles.assignments) == 1
    assert f"azd env set AGENTBREAKER_API_CLIENT_ID {made.app_id}" in capsys.readouterr().out
    world.tenant.requests.clear()

    assert await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}") == 0
    assert world.writes() == []


async def test_before_the_playbook_is_deployed_the_rest_is_given(world, capsys):
    assert await world.run("--apply", playbook=None, playbook_group=None) == 0

    assert f"AGENTBREAKER_API_CLIENT_ID {api_of(world).app_id}" in capsys.readouterr().out
    assert (world.tenant.api_assignments, world.roles.assignments) == ([], {})
    with pytest.raises(SystemExit):
        await world.run("--apply", playbook=None)


async def test_removal_takes_back_what_was_given_and_leaves_foreign_grants(world):
    await world.run("--apply")
    world.app.app_roles.add("Mail.Read")

    assert await world.run("--remove") == 0

    assert world.app.app_roles == {"Mail.Read"}
    assert world.tenant.api_assignments == []
    assert world.roles.assignments == {}
    assert not [a for a in world.tenant.applications.values() if a.display_name == "Agentbreaker API"]


async def test_removal_leaves_the_api_while_others_hold_its_roles(world, capsys):
    await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}")

    assert await world.run("--remove") == 0

    assert [one["principalId"] for one in world.tenant.api_assignments] == [ANALYSTS]
    assert api_of(world)
    assert "left: app registration" in capsys.readouterr().out


async def test_removal_takes_back_every_right_that_was_ever_given(world):
    await world.run("--apply", "--lever", "remove-app-roles", "--with", "marks")
    assert "AppRoleAssignment.ReadWrite.All" in world.app.app_roles

    assert await world.run("--remove") == 0

    assert world.app.app_roles == set()


async def test_removal_of_what_is_named_leaves_the_breaker_armed(world):
    bob = "0d1fd2a5-1111-4222-8333-444455557777"
    client = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
    named = ("--assign", f"Containment.Read={bob}", "--caller-client", client, "--lever", "remove-app-roles")
    await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}", *named)
    assert client in str(api_of(world).api)

    assert await world.run("--remove", *named) == 0

    assert world.app.app_roles == REQUIRED
    assert client not in str(api_of(world).api)
    assert {one["principalId"] for one in world.tenant.api_assignments} == {
        world.playbook.object_id,
        ANALYSTS,
    }
    assert len(world.roles.assignments) == 1


async def test_an_identity_that_is_gone_does_not_keep_the_rest_from_being_taken_back(world, capsys):
    await world.run("--apply")
    app, playbook = world.app.object_id, world.playbook.object_id
    for principal in (app, playbook):
        del world.tenant.principals[principal]
    world.tenant.api_assignments.clear()
    world.roles.assignments.clear()

    assert await world.run("--remove") == 0

    assert f"--identity {app} is gone from this tenant" in capsys.readouterr().out
    assert not [a for a in world.tenant.applications.values() if a.display_name == "Agentbreaker API"]
    assert await world.run("--apply") == 2  # to give, it has to be there


async def test_a_lock_that_forbids_taking_back_is_named_with_what_to_do(world, capsys):
    await world.run("--apply")
    world.fault("DELETE .*/roleAssignments/", status=409, code="ScopeLocked", times=None)

    assert await world.run("--remove") == 1

    assert "az lock delete --name agentbreaker-no-deletion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "ends"), [(None, "SecurityGroup"), ("None", "SecurityGroup"), ("All", "All")]
)
async def test_tokens_of_the_api_carry_groups_for_easy_auth_to_compare(world, held, ends):
    await world.run("--apply")
    made = api_of(world)
    assert made.group_membership_claims == "SecurityGroup"
    world.tenant.applications[made.object_id] = replace(made, group_membership_claims=held)

    assert await world.run("--apply") == 0

    assert api_of(world).group_membership_claims == ends


async def test_mixed_up_ids_are_named_and_nothing_is_written(world, capsys):
    cases = {
        world.app.app_id: "is the client id (appId)",
        world.person.application_object_id: "is the object id of the app registration",
        world.person.object_id: "no managed identity",
        ANALYSTS: "is no service principal",
    }
    for wrong, words in cases.items():
        assert await world.run("--apply", identity=wrong) == 2
        assert words in capsys.readouterr().out
    assert await world.run("--apply", identity_client_id=world.playbook.app_id) == 2
    assert "mixed up" in capsys.readouterr().out
    assert await world.run("--apply", tenant=ANALYSTS) == 2
    assert world.writes() == []


async def test_a_name_that_is_taken_or_given_twice_is_refused(world, capsys):
    world.tenant.add_application("Agentbreaker API")
    assert await world.run("--apply") == 2
    assert "did not make it" in capsys.readouterr().out

    world.tenant.add_application("Agentbreaker API")
    assert await world.run("--apply") == 2
    assert "2 app registrations" in capsys.readouterr().out
    assert world.writes() == []


async def test_a_missing_right_is_named_and_a_repeat_with_it_completes(world, capsys):
    world.person.app_roles = {"Application.Read.All"}
    world.roles.writers = set()
    assert await world.run("--apply") == 1
    out = capsys.readouterr().out
    assert "Privileged Role Administrator" in out
    assert "Application Administrator" in out
    assert "User Access Administrator" in out
    assert "not tried: it needs" in out

    world.person.app_roles = {"Application.ReadWrite.All", "AppRoleAssignment.ReadWrite.All"}
    world.roles.writers = None
    assert await world.run("--apply") == 0
    assert world.app.app_roles == REQUIRED


async def test_a_half_made_registration_is_completed_and_not_made_twice(world):
    world.fault("PATCH .*/applications/", status=500)
    assert await world.run("--apply") == 1

    assert await world.run("--apply") == 0
    assert api_of(world).identifier_uris


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "retry_after": 0},
        {"status": 404},
        {"kind": FaultKind.DROP_AFTER},
    ],
)
async def test_throttling_lag_and_lost_answers_end_in_one_grant_each(world, fault):
    world.fault("POST .*/appRoleAssignedTo", **fault)
    world.fault("POST .*/appRoleAssignments", **fault)

    assert await world.run("--apply") == 0

    assert world.app.app_roles == REQUIRED
    assert len(world.tenant.api_assignments) == 1


async def test_the_azure_role_that_somebody_else_gave_is_enough_and_stays(world):
    await world.run("--apply")
    [(path, row)] = world.roles.assignments.items()
    world.roles.assignments = {
        path.rpartition("/")[0] + "/" + ANALYSTS: {**row, "id": f"{row['id'][:-36]}{ANALYSTS}"}
    }

    assert await world.run("--apply") == 0
    assert await world.run("--remove") == 0
    assert len(world.roles.assignments) == 1


async def test_a_dangerous_permission_is_given_only_by_name_and_with_a_warning(world, capsys):
    await world.run("--apply", "--lever", "remove-app-roles")

    assert world.app.app_roles == {*REQUIRED, "AppRoleAssignment.ReadWrite.All"}
    assert "WARNING: AppRoleAssignment.ReadWrite.All" in capsys.readouterr().out


async def test_names_from_the_tenant_do_not_reach_the_terminal_as_they_are(world, capsys):
    world.person.display_name = "evil\x1b[2J"
    await world.run(identity=world.person.object_id)
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_not_offered_is_skipped_when_optional_and_refused_when_required(capsys):
    rights = catalogue.chosen((), ("marks",))
    offer = [
        {"id": name, "value": name, "isEnabled": True, "allowedMemberTypes": ["Application"]}
        for name in REQUIRED
    ]
    assert {right.value for right, _ in script.offered(rights, {"appRoles": offer})} == REQUIRED
    assert "skipped: CustomSec" in capsys.readouterr().out
    with pytest.raises(script.Mismatch):
        script.offered(rights, {"appRoles": offer[1:]})


def test_every_permission_of_the_app_can_be_given_and_none_that_never_may_and_all_are_documented():
    extras = (*catalogue.OPTIONAL_READS, catalogue.SIGN_IN_REPORT)
    given = {right.value: right for right in catalogue.chosen(LEVERS, extras)}
    needed = {right for lever in LEVERS.values() for right in lever.permissions}
    needed |= {*READ_PERMISSIONS, *OPTIONAL_READ_PERMISSIONS, "AuditLog.Read.All"}
    page = (ROOT / "docs" / "permissions.md").read_text()

    assert set(given) >= needed
    assert not set(given) & catalogue.NEVER
    assert "Policy.ReadWrite.ConditionalAccess" in catalogue.NEVER
    assert {value for value, right in given.items() if right.required} == REQUIRED
    table = set(re.findall(r"^\| `([\w.]+\.[\w.]+)` \|", page, re.MULTILINE))
    assert table == set(given)
    assert all(f"`{word}`" in page for word in (*LEVERS, *extras))


async def test_after_apply_the_app_itself_says_that_nothing_is_missing(app):
    tenant = app.estate.tenant
    world = World(tenant, ArmRoles(tenant))
    async with (
        TenantServer(
            tenant, directory=app.estate.directory / "second", extra_routes=world.roles.routes()
        ) as server,
        httpx.AsyncClient() as http,
    ):
        world.url = server.base_url

        async def turn():
            pass

        graph = GraphClient(server.base_url, As(tenant, world.app), http, tenant.settings.tenant_id, turn)
        process = replace(app.process, world=replace(app.process.world, graph=graph))

        before = await health._permissions(process)
        levers = [word for name in process.world.policy.levers for word in ("--lever", name)]
        assert await world.run("--apply", *levers) == 0
        after = await health._permissions(process)

    assert (before["ok"], after["ok"]) == (False, True), (before, after)


@pytest.mark.parametrize(
    "wrong",
    [
        {"graph_url": "http://example.com"},
        {"arm_url": "http://127.0.0.1.example.com"},
        {"playbook_group": "rg-playbook"},
        {"identity": "id-agentbreaker"},
    ],
)
async def test_arguments_that_cannot_be_right_end_with_2_before_anything_is_asked(world, wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        await world.run("--apply", **wrong)

    assert ended.value.code == 2
    assert list(world.tenant.requests) == []
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--lever", "nuke"), ("--with", "everything"), ("--assign", "Admin=x")])
async def test_unknown_words_are_answered_with_those_there_are(world, words, capsys):
    with pytest.raises(SystemExit):
        await world.run(*words)

    assert "there are:" in capsys.readouterr().err


async def program(world, server, **changed):
    """Run the script as a process, with a client secret in the environment, as CI does."""
    given = {
        "tenant": world.tenant.settings.tenant_id,
        "identity": world.app.object_id,
        "identity-client-id": world.app.app_id,
        "playbook": world.playbook.object_id,
        "playbook-group": GROUP,
        "graph-url": server.base_url,
        "arm-url": server.base_url,
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "AZURE_TENANT_ID": world.tenant.settings.tenant_id,
        "AZURE_CLIENT_ID": world.person.app_id,
        "AZURE_CLIENT_SECRET": world.person.secret,
        "AZURE_AUTHORITY_HOST": server.tls_url,
        "SSL_CERT_FILE": str(server.ca_file),
        **changed,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "scripts" / "grant_permissions.py"),
        "--apply",
        *(part for name, value in given.items() for part in (f"--{name}", value)),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_program_signs_in_and_gives_and_says_so_when_it_cannot_sign_in(tmp_path):
    tenant = Tenant()
    world = World(tenant, ArmRoles(tenant))
    async with TenantServer(tenant, directory=tmp_path, extra_routes=world.roles.routes()) as server:
        code, out, err = await program(world, server, AZURE_CLIENT_SECRET="wrong")
        assert (code, "az login" in out, "Traceback" in err) == (1, True, False), (out, err)
        assert world.app.app_roles == set()

        code, out, err = await program(world, server)
        assert code == 0, (out, err)
    assert world.app.app_roles == REQUIRED


AZURE_CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"


async def test_tokens_are_of_the_version_whose_issuer_easy_auth_expects(world):
    assert await world.run("--apply") == 0

    made = api_of(world)
    assert made.api["requestedAccessTokenVersion"] == 2
    assert [scope["value"] for scope in made.api["oauth2PermissionScopes"]] == ["access"]
    assert made.api["preAuthorizedApplications"] == []  # nobody calls for people without consent unless named


async def test_a_registration_with_tokens_of_version_1_is_mended_and_what_others_added_stays(world):
    assert await world.run("--apply") == 0
    made = api_of(world)
    theirs = {"id": ANALYSTS, "value": "other", "type": "User"}
    made.api.update(requestedAccessTokenVersion=1, oauth2PermissionScopes=[theirs])

    assert await world.run("--apply") == 0

    api = api_of(world).api
    assert api["requestedAccessTokenVersion"] == 2
    assert {scope["value"] for scope in api["oauth2PermissionScopes"]} == {"access", "other"}


async def test_a_named_client_may_call_for_people_and_is_taken_back(world):
    words = "--caller-client", AZURE_CLI
    assert await world.run("--apply", *words) == 0
    [client] = api_of(world).api["preAuthorizedApplications"]
    world.tenant.requests.clear()

    assert await world.run("--apply", *words) == 0
    assert world.writes() == []
    assert client["appId"] == AZURE_CLI
    assert await world.run("--apply", "--assign", f"Containment.Read={ANALYSTS}") == 0
    assert await world.run("--remove", *words) == 0  # the registration stays: somebody else is assigned
    assert api_of(world).api["preAuthorizedApplications"] == []
