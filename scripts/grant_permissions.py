"""
Give Agentbreaker's identities what they need in Entra and Azure: shown first, given with --apply, taken back with --remove.

Exit codes: 0 all is there (or, for --plan, could be read); 1 something was not given or taken back, and the output
says what and why; 2 the arguments do not fit the tenant, and nothing was changed. docs/permissions.md explains each.

People sign in with ``az login``. AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID in the environment are used by
DefaultAzureCredential; they are for the simulated tenant and for CI.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "scripts"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import httpx  # noqa: E402  # the path above makes the project's own importable

from clients.errors import ClientError, Refused  # noqa: E402
from clients.fields import printable  # noqa: E402
from clients.terms import is_guid  # noqa: E402
from grants import catalogue, steps  # noqa: E402
from grants.azure_roles import SENTINEL_APP_ID, AzureRoles  # noqa: E402
from grants.directory import GRAPH_APP_ID, Directory  # noqa: E402
from handlers.auth import Role  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.core.credentials_async import AsyncTokenCredential

_GROUP: Final = re.compile(r"/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[\w.()-]+/?", re.IGNORECASE)


class Mismatch(Exception):
    """The arguments do not fit this tenant; nothing was changed."""


def say(line: str) -> None:
    """Print one line, escaped."""
    print(printable(line), flush=True)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. Ends the program with 2 for what cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plan", dest="mode", action="store_const", const="plan", help="only show (default)")
    mode.add_argument(
        "--apply", dest="mode", action="store_const", const="apply", help="give what is missing"
    )
    mode.add_argument(
        "--remove",
        dest="mode",
        action="store_const",
        const="remove",
        help="take back all of it; with --lever, --with, --assign or --caller-client only what these name",
    )
    parser.set_defaults(mode="plan")
    parser.add_argument("--tenant", required=True, type=_guid, help="tenant id")
    parser.add_argument(
        "--identity", required=True, type=_guid, help="object id of the app's managed identity"
    )
    parser.add_argument(
        "--identity-client-id", required=True, type=_guid, help="its client id (appId), to compare"
    )
    parser.add_argument("--playbook", type=_guid, help="object id of the playbook's identity")
    parser.add_argument("--playbook-group", type=_group, help="ARM id of its resource group")
    parser.add_argument(
        "--api-name", default="Agentbreaker API", help="display name of the API's registration"
    )
    parser.add_argument(
        "--lever", action="append", default=[], help="also give what this lever needs; repeatable"
    )
    parser.add_argument(
        "--with", dest="extras", action="append", default=[], help="also give an optional right"
    )
    parser.add_argument(
        "--caller-client",
        action="append",
        default=[],
        type=_guid,
        metavar="CLIENT-ID",
        help="a program people may call with (Azure CLI: 04b07795-8ddb-461a-bbee-02f9e1bf7b46); repeatable",
    )
    parser.add_argument("--assign", action="append", default=[], type=_assignment, metavar="ROLE=OBJECT-ID")
    parser.add_argument(
        "--graph-url", type=_url, default="https://graph.microsoft.com", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--arm-url", type=_url, default="https://management.azure.com", help=argparse.SUPPRESS
    )
    read = parser.parse_args(words)
    if (read.playbook is None) != (read.playbook_group is None):
        parser.error(
            "--playbook and --playbook-group belong together: give both, or neither before it is deployed"
        )
    read.named_only = read.mode == "remove" and bool(
        read.lever or read.extras or read.assign or read.caller_client
    )
    try:
        if read.named_only:
            read.rights = catalogue.named_only(read.lever, read.extras)
        elif read.mode == "remove":
            read.rights = catalogue.everything()
        else:
            read.rights = catalogue.chosen(read.lever, read.extras)
    except ValueError as error:
        parser.error(str(error))
    return read


async def run(
    args: argparse.Namespace, credential: AsyncTokenCredential, patience: steps.Patience | None = None
) -> int:
    """Do what the command line says. Gives the exit code."""

    async def no_turn() -> None:
        """Nothing here shares ID Protection's second."""

    async with httpx.AsyncClient(follow_redirects=False, timeout=httpx.Timeout(40, connect=5)) as http:
        directory = Directory(args.graph_url, credential, http, args.tenant, no_turn)
        azure = AzureRoles(args.arm_url, credential, http, args.playbook_group or "")
        try:
            planned = await plan(args, directory, azure)
        except Refused as error:
            say(f"Nothing was changed: {error}. Sign in to this tenant (az login) as somebody who may read"
                " applications (Graph Application.Read.All, or Directory Readers).")  # fmt: skip
            return 1
        except ClientError as error:
            say(f"Nothing was changed: {error}. Repeat the command.")
            return 1
        except (Mismatch, ValueError) as error:
            say(f"Nothing was changed: {error}")
            return 2
        code = await _carry_out(args, planned, patience or steps.Patience())
        if args.mode == "apply" and code == 0:
            await _say_values(steps.ApiSteps(directory, args.api_name))
        return code


async def plan(args: argparse.Namespace, directory: Directory, azure: AzureRoles) -> list[steps.Step]:
    """Check the ids and make the list of steps. Raises: Mismatch; ValueError (the API's name is taken); ClientError."""
    if await directory.signed_in_tenant() != args.tenant:
        raise Mismatch("You are signed in to another tenant than --tenant. Use: az login --tenant <id>.")
    gone = [
        object_id
        for object_id, argument, client_id in (
            (args.identity, "--identity", args.identity_client_id),
            (args.playbook, "--playbook", None),
        )
        if object_id is not None
        and not await _is_there(directory, object_id, argument, client_id, may_be_gone=args.mode == "remove")
    ]
    graph = await directory.principal_of(GRAPH_APP_ID)
    if graph is None:
        raise Mismatch("This tenant has no service principal of Microsoft Graph.")
    found = [
        steps.graph_role(directory, args.identity, str(graph["id"]), role, right)
        for right, role in offered(args.rights, graph)
        if args.identity not in gone
    ]
    api = steps.ApiSteps(directory, args.api_name)
    await api.found()
    registration = api.registration()
    principal = api.principal(registration)
    callers = [api.caller(client_id, registration) for client_id in args.caller_client]
    assigned = [api.assignment(role, holder, principal) for role, holder in args.assign]
    if args.named_only:
        return [*found, *callers, *assigned]
    found += [registration, principal, *callers]
    if args.playbook is not None and args.playbook not in gone:
        found.append(api.assignment(Role.INCIDENT_SUBMIT, args.playbook, principal))
    found += assigned
    if args.playbook_group is None:
        say(
            "The playbook is not named: its part comes with --playbook and --playbook-group, once it is deployed."
        )
        return found
    sentinel = await directory.principal_of(SENTINEL_APP_ID)
    if sentinel is None:
        raise Mismatch(
            "This tenant has no service principal of Azure Security Insights"
            f" ({SENTINEL_APP_ID}): Microsoft Sentinel makes it when it is set up. Set Sentinel up first."
        )
    return [*found, steps.azure_role(azure, str(sentinel["id"]))]


def offered(
    rights: Sequence[catalogue.Permission], graph: dict[str, Any]
) -> list[tuple[catalogue.Permission, str]]:
    """
    Find the role ids of permissions by value in what this tenant's Microsoft Graph offers.

    One that is not offered is said and skipped where it is optional. Raises: Mismatch where it is required.
    """
    ids = {
        str(role.get("value")): str(role["id"])
        for role in graph.get("appRoles") or ()
        if role.get("isEnabled") is True and "Application" in (role.get("allowedMemberTypes") or ())
    }
    for right in rights:
        if right.value not in ids:
            if right.required:
                raise Mismatch(
                    f"Microsoft Graph in this tenant does not offer {right.value}, which is required."
                )
            say(f"skipped: {right.value} ({right.why}): Microsoft Graph in this tenant does not offer it")
    return [(right, ids[right.value]) for right in rights if right.value in ids]


async def _is_there(
    directory: Directory, object_id: str, argument: str, client_id: str | None, *, may_be_gone: bool
) -> bool:
    """Check that an id is a managed identity's. Gives False for one that may be gone and is. Raises: Mismatch."""
    held = await directory.principal(object_id)
    if held is None:
        if (by_app := await directory.principal_of(object_id)) is not None:
            raise Mismatch(
                f"{argument} {object_id} is the client id (appId) of {printable(by_app.get('displayName'))}. Give its"
                f" object id: {by_app.get('id')}."
            )
        if (made := await directory.application(object_id)) is not None:
            raise Mismatch(
                f"{argument} {object_id} is the object id of the app registration {printable(made.get('displayName'))}."
                " Give the object id of the managed identity's service principal (Enterprise applications)."
            )
        if may_be_gone:
            say(f"{argument} {object_id} is gone from this tenant, and what it held went with it.")
            return False
        raise Mismatch(f"{argument} {object_id} is no service principal of this tenant. If its identity was made"
                       " just now, wait a minute and repeat.")  # fmt: skip
    if held.get("servicePrincipalType") != "ManagedIdentity":
        raise Mismatch(
            f"{argument} {object_id} is {printable(held.get('displayName'))}, a service principal of type"
            f" {printable(held.get('servicePrincipalType'))} and no managed identity. Give the managed identity's."
        )
    if client_id is not None and str(held.get("appId")).lower() != client_id:
        raise Mismatch(f"{argument} {object_id} has the client id {held.get('appId')}, not {client_id}: two identities"
                       " are mixed up.")  # fmt: skip
    return True


async def _carry_out(
    args: argparse.Namespace, planned: Sequence[steps.Step], patience: steps.Patience
) -> int:
    for step in planned:
        if step.warning and args.mode != "remove":
            say(f"WARNING: {step.title}: {step.warning}")
    if args.mode == "plan":
        return await _show(planned)
    act = steps.apply if args.mode == "apply" else steps.remove
    result = await act(planned, patience, say)
    for title in result.already:
        say(f"{'there already' if args.mode == 'apply' else 'not there'}: {title}")
    for line in result.kept:
        say(f"left: {line}")
    for title, why in result.failed.items():
        say(f"NOT DONE: {title}: {why}")
    say(f"{len(result.done)} done, {len(result.already)} as they should be, {len(result.failed)} not done")
    return 1 if result.failed else 0


async def _show(planned: Sequence[steps.Step]) -> int:
    unread = 0
    for step in planned:
        try:
            state = "there     " if await step.there() else "would give"
        except ClientError as error:
            state, unread = f"NOT READ ({steps.reason(error, step)})", unread + 1
        say(f"{state}  {step.title}: {step.why}")
    say("Nothing was changed. Give what is missing with --apply.")
    return 1 if unread else 0


async def _say_values(api: steps.ApiSteps) -> None:
    made = await api.found()
    if made is not None:
        say("Put into the environment of azd:")
        say(f"azd env set AGENTBREAKER_API_CLIENT_ID {made['appId']}")


def _guid(text: str) -> str:
    if not is_guid(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no GUID")
    return text.lower()


def _url(text: str) -> str:
    """Take https, and http to this machine: a person's token goes there."""
    if not re.fullmatch(r"https://[\w.-]+|http://(localhost|127\.0\.0\.1)(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither https nor on this machine")
    return text


def _group(text: str) -> str:
    if not _GROUP.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not /subscriptions/<id>/resourceGroups/<name>")
    return text.rstrip("/")


def _assignment(text: str) -> tuple[Role, str]:
    name, _, holder = text.partition("=")
    if name not in set(Role):
        raise argparse.ArgumentTypeError(f"{name!r} is no role; there are: {', '.join(Role)}")
    return Role(name), _guid(holder)


async def main() -> int:
    """Run with the credentials of who is signed in."""
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 (not needed to import this module)

    args = arguments()
    async with DefaultAzureCredential(exclude_managed_identity_credential=True) as credential:
        return await run(args, credential)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
