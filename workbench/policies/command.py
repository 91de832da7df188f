"""``python -m workbench policies plan | apply | promote | rollback``: options, sign-in, exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from clients.errors import ClientError
from clients.terms import is_guid
from workbench.policies import catalog, planning, promoting, who
from workbench.policies.book import Book, alone
from workbench.policies.catalog import FOLDER, Filling, object_ids
from workbench.policies.graph import PACE, PolicyGraph
from workbench.policies.promoting import Accepted
from workbench.policies.refusal import RefusedError
from workbench.policies.writing import Desk
from workbench.usage import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from azure.core.credentials_async import AsyncTokenCredential

GOOD, REFUSED, MISUSED = 0, 1, 2
GRAPH_SCOPE: Final = "https://graph.microsoft.com/.default"
NO_BREAK_GLASS: Final = "no-break-glass"
_HOME: Final = Path(".state") / "policies"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "policies",
        help="plan, apply, promote and roll back the Conditional Access policies that arm the breaker",
        description="Conditional Access policies of infra/conditional-access in your tenant. What is created only reports; "
        "promote turns one on after the sign-in log has shown whom that hits. Exit code: 0 good, 1 refused or failed, "
        "2 misuse. docs/conditional-access.md",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    plan = actions.add_parser("plan", help="show what apply would do; changes nothing in the tenant")
    apply = actions.add_parser(
        "apply", help="create and change policies of ours, always report-only when created"
    )
    promote = actions.add_parser("promote", help="enable one, once it is known whom that hits")
    rollback = actions.add_parser(
        "rollback", help="restore the body from before our last write, or stop a block"
    )
    for action in (plan, apply, promote, rollback):
        _common(action)
    for action in (plan, apply):
        action.add_argument(
            "names", nargs="*", metavar="NAME", help="policies; all of the folder without any"
        )
        _filling(action)
    apply.add_argument(
        "--overwrite-edits", action="store_true", help="write ours over an edit that plan has shown"
    )
    apply.add_argument("--recreate", action="store_true", help="create again what someone deleted")
    for action in (promote, rollback):
        action.add_argument("names", nargs=1, metavar="NAME", help="the policy")
    apply.add_argument(
        "--policy-id",
        metavar="ID",
        help="make this existing policy ours as it is, and write nothing; without it none is touched that we did not create",
    )
    promote.add_argument(
        "--accept", action="append", default=[], metavar="ID",
        help=f"this principal may be refused from now on; or: {NO_BREAK_GLASS}",
    )  # fmt: skip
    promote.add_argument(
        "--accept-all", type=int, metavar="COUNT", help="all of them; COUNT is how many are listed"
    )
    promote.add_argument(
        "--accept-short-history",
        type=int,
        metavar="DAYS",
        help="that many days of the log are enough (0 to 13)",
    )
    promote.add_argument(
        "--workspace", default=os.environ.get("AGENTBREAKER_WORKSPACE_ID", ""), metavar="GUID",
        help="the workspace's id; default: AGENTBREAKER_WORKSPACE_ID",
    )  # fmt: skip
    promote.add_argument(
        "--logs-url", default=os.environ.get("AGENTBREAKER_LOGS_URL", "https://api.loganalytics.io")
    )
    rollback.add_argument(
        "--report-only", action="store_true", help="stop the block at once; change nothing else"
    )
    rollback.add_argument("--overwrite-edits", action="store_true", help="restore over another's edit")
    for name, action in (("plan", plan), ("apply", apply), ("promote", promote), ("rollback", rollback)):
        action.set_defaults(command=_command, action=name)


def _common(parser: argparse.ArgumentParser) -> None:
    env = os.environ.get
    parser.add_argument(
        "--tenant",
        default=env("AGENTBREAKER_TENANT_ID", ""),
        metavar="GUID",
        help="default: AGENTBREAKER_TENANT_ID",
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help=f"what we wrote; default: {_HOME}/<tenant>.json"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR", help="default: infra/conditional-access"
    )
    parser.add_argument(
        "--sign-in", choices=("default", "cli", "browser"), default="default", help="how you sign in"
    )
    parser.add_argument(
        "--client-id", default="", metavar="ID", help="with --sign-in browser: the public client"
    )
    parser.add_argument(
        "--app-object-id", default=env("AGENTBREAKER_APP_OBJECT_ID", ""), metavar="ID",
        help="object id of the app's identity, which must never run this; default: AGENTBREAKER_APP_OBJECT_ID",
    )  # fmt: skip
    parser.add_argument("--graph-url", default=env("AGENTBREAKER_GRAPH_URL", "https://graph.microsoft.com"))
    parser.add_argument(
        "--authority-url", default=env("AGENTBREAKER_AUTHORITY_URL", "https://login.microsoftonline.com")
    )
    parser.add_argument("--ca-bundle", default=env("AGENTBREAKER_CA_BUNDLE", ""), metavar="FILE")
    parser.add_argument(
        "--pace", type=float, default=PACE.total_seconds(), metavar="SECONDS",
        help="between two requests; the tenant allows about one a second",
    )  # fmt: skip


def _filling(parser: argparse.ArgumentParser) -> None:
    def ids(option: str, text: str) -> None:
        parser.add_argument(option, action="append", default=[], metavar="ID", help=text)

    ids("--exclude", "leave out this service principal (object id of the enterprise application)")
    ids("--exclude-agent", "leave out this agent identity (object id)")
    ids("--exclude-user", "leave out this user: emergency access accounts")
    ids("--exclude-group", "leave out this group")
    ids("--location", "a named location that agents may sign in from, or AllTrusted")
    ids("--remove", "do not leave out this id any longer; exclusions of earlier runs are remembered")
    parser.add_argument(
        "--accept", action="append", default=[], choices=[NO_BREAK_GLASS], metavar=NO_BREAK_GLASS,
        help="a policy for users may exclude nobody",
    )  # fmt: skip


def _command(parsed: argparse.Namespace) -> int:
    try:
        return asyncio.run(run(parsed))
    except UsageError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return MISUSED


async def run(parsed: argparse.Namespace, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> int:
    """Run one action. Returns the exit code; raises UsageError for misuse."""
    _check_usage(parsed)
    tenant = parsed.tenant.lower()
    state: Path = parsed.state or _HOME / f"{tenant}.json"
    try:
        with alone(state):
            return await _signed_in(parsed, tenant, state, now)
    except RefusedError as error:
        print(f"✗ {error}", file=sys.stderr)
    except ClientError as error:
        print(f"✗ {error}{_hint(error)}", file=sys.stderr)
    return REFUSED


async def _signed_in(
    parsed: argparse.Namespace, tenant: str, state: Path, now: Callable[[], datetime]
) -> int:
    import httpx  # noqa: PLC0415  # not for who asks for help

    credential, application_meant = who.credential(
        os.environ,
        tenant_id=tenant,
        sign_in=parsed.sign_in,
        client_id=parsed.client_id,
        authority=parsed.authority_url,
        ca_bundle=parsed.ca_bundle,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(credential.close)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=httpx.Timeout(40, connect=10)))
        who.check(
            who.Caller.from_token(await _token(credential)),
            tenant,
            who.READ if parsed.action == "plan" else who.WRITE,
            app_object_id=parsed.app_object_id,
            app_client_id=os.environ.get("AGENTBREAKER_CLIENT_ID", ""),
            application_meant=application_meant,
        )
        graph = PolicyGraph(
            parsed.graph_url.rstrip("/"), credential, http, tenant, timedelta(seconds=parsed.pace)
        )
        desk = Desk(graph, Book(state, tenant), parsed.folder, now, print)
        return await _act(parsed, desk, state, credential, stack)


async def _token(credential: AsyncTokenCredential) -> str:
    from azure.core.exceptions import AzureError, ClientAuthenticationError  # noqa: PLC0415

    try:
        return (await credential.get_token(GRAPH_SCOPE)).token
    except ClientAuthenticationError as error:
        raise RefusedError(
            "Entra gives you no token. Sign in: az login --tenant TENANT, or another --sign-in. If a policy blocks you"
            " yourself, an emergency access account has to roll it back"
        ) from error
    except AzureError as error:
        raise RefusedError(
            f"Entra was not reached for a token ({type(error).__name__}); check the connection"
        ) from error


async def _act(
    parsed: argparse.Namespace,
    desk: Desk,
    state: Path,
    credential: AsyncTokenCredential,
    stack: AsyncExitStack,
) -> int:
    name = parsed.names[0] if parsed.names else ""
    if getattr(parsed, "policy_id", None):
        await planning.adopt(desk, name, parsed.policy_id.lower())
        return GOOD
    match parsed.action:
        case "plan":
            return GOOD if await planning.plan(desk, _asked(parsed)) else REFUSED
        case "apply":
            await planning.apply(desk, _asked(parsed))
        case "promote":
            from clients.logs import LogsClient  # noqa: PLC0415

            url = parsed.logs_url.rstrip("/")
            logs = LogsClient(url, credential, parsed.workspace, ca_bundle=parsed.ca_bundle)
            stack.push_async_callback(logs.close)
            await promoting.promote(desk, logs, name, _accepted(parsed))
        case _:
            folder = state.with_name(state.name + ".bodies")
            await promoting.rollback(
                desk, name, folder, report_only=parsed.report_only, overwrite_edits=parsed.overwrite_edits
            )
    return GOOD


def _asked(parsed: argparse.Namespace) -> planning.Asked:
    locations = [one for one in parsed.location if one != "AllTrusted"]
    trusted = ("AllTrusted",) if len(locations) < len(parsed.location) else ()
    return planning.Asked(
        names=tuple(dict.fromkeys(parsed.names)) or tuple(catalog.names(parsed.folder)),
        named=bool(parsed.names),
        filling=Filling(
            principals=object_ids(parsed.exclude, "--exclude"),
            agents=object_ids(parsed.exclude_agent, "--exclude-agent"),
            users=object_ids(parsed.exclude_user, "--exclude-user"),
            groups=object_ids(parsed.exclude_group, "--exclude-group"),
            locations=(*object_ids(locations, "--location"), *trusted),
        ),
        without=object_ids(parsed.remove, "--remove"),
        no_break_glass=NO_BREAK_GLASS in parsed.accept,
        overwrite_edits=getattr(parsed, "overwrite_edits", False),
        recreate=getattr(parsed, "recreate", False),
    )


def _accepted(parsed: argparse.Namespace) -> Accepted:
    ids = [one for one in parsed.accept if one != NO_BREAK_GLASS]
    return Accepted(
        ids=frozenset(object_ids(ids, "--accept")),
        count=parsed.accept_all,
        short_history=parsed.accept_short_history,
        no_break_glass=len(ids) < len(parsed.accept),
    )


def _check_usage(parsed: argparse.Namespace) -> None:
    """Refuse options that cannot be meant, before anybody signs in. Raises: UsageError."""
    if not is_guid(parsed.tenant):
        raise UsageError("name the tenant: --tenant GUID, or AGENTBREAKER_TENANT_ID in the environment")
    for option in ("graph_url", "logs_url", "authority_url"):
        url = urlsplit(getattr(parsed, option, "https://x"))
        if url.scheme != "https" and url.hostname not in ("127.0.0.1", "localhost"):
            raise UsageError(
                f"--{option.replace('_', '-')}: a token is only sent over https, except to localhost"
            )
    if parsed.app_object_id:
        object_ids([parsed.app_object_id], "--app-object-id")
    if getattr(parsed, "policy_id", None):
        object_ids([parsed.policy_id], "--policy-id")
        if len(parsed.names) != 1:
            raise UsageError("--policy-id is of one policy: name which of ours it shall be")
        if _asked(parsed) != planning.Asked(names=tuple(parsed.names), named=True, filling=Filling()):
            raise UsageError(
                "--policy-id makes a policy ours as it is: give the other options to the next apply"
            )
    if not 0 <= parsed.pace <= 60:
        raise UsageError("--pace: from 0 to 60 seconds")
    for name in parsed.names:
        catalog.load(name, parsed.folder)
    if parsed.action in ("plan", "apply"):
        _asked(parsed)
    if parsed.action == "promote":
        _accepted(parsed)
        if not is_guid(parsed.workspace):
            raise UsageError(
                "name the workspace with the sign-in logs: --workspace GUID, or AGENTBREAKER_WORKSPACE_ID"
            )
        if parsed.accept_short_history is not None and not 0 <= parsed.accept_short_history < 14:
            raise UsageError("--accept-short-history: from 0 to 13 days")
        if parsed.accept_all is not None and parsed.accept_all < 0:
            raise UsageError("--accept-all: how many principals, from 0 on")


def _hint(error: ClientError) -> str:
    if error.status == 403:
        return (
            ". Needed: Policy.ReadWrite.ConditionalAccess, Policy.Read.All and Application.Read.All with a role such as"
            " Conditional Access Administrator, and the licence (Workload ID Premium for policies on service principals)"
        )
    if error.status == 429:
        return ". The tenant's one request a second is used up by others; nothing was written by this request, try again"
    return ". Run plan to see how things stand, then the command again"
