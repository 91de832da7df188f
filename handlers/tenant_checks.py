"""What readiness asks of the tenant besides Graph and logs: the licence, whose workspace it is, the plans of its tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError, NotFound, Refused
from clients.terms import Unknown
from clients.workspace import ANALYTICS
from response import gathering

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clients.workspace import Workspace
    from handlers.process import Process

# "Workload ID Premium" (facts/entra.md §8; several detectors of others agree, Microsoft publishes no list by name).
_PLAN: Final = "AAD_WRKLDID_P2"
_LICENCE: Final = "licence"
_LICENCE_RIGHT: Final = "LicenseAssignment.Read.All"
CLOCKS_DIFFER: Final = timedelta(minutes=5)


def check(name: str, ok: bool | None, detail: str) -> dict[str, Any]:
    """Give one line of readiness: true, false, or null where it is not known."""
    return {"name": name, "ok": ok, "detail": detail}


async def licence(process: Process) -> dict[str, Any]:
    """Whether the tenant has Workload ID Premium; not known without the optional right to read licences."""
    try:
        plans = await process.world.graph.service_plans()
    except Refused:
        return check(
            _LICENCE,
            None,
            f"not looked at: grant {_LICENCE_RIGHT} (optional), or look in the Entra admin center",
        )
    except ClientError as error:
        return check(_LICENCE, None, str(error))
    if _PLAN in plans:
        return check(_LICENCE, True, "Workload ID Premium is there")
    return check(
        _LICENCE,
        False,
        f"the tenant has no Workload ID Premium ({_PLAN}): Graph refuses to confirm service principals, and Conditional "
        "Access takes no policy about them. Get the licence, or stay in observe",
    )


def is_in_the_way(found: Mapping[str, Any]) -> bool:
    """Whether a check keeps the app from being ready. A licence that nobody may look at does not."""
    return found["ok"] is not True and not (found["name"] == _LICENCE and found["ok"] is None)


async def workspace(process: Process, now: datetime) -> list[dict[str, Any]]:
    """Whether the settings name one workspace, and whether our clock is that of the cloud."""
    settings = process.settings
    try:
        found = await process.workspace.workspace(settings.workspace_resource_id)
    except (Refused, NotFound) as error:
        return [check("workspace", False if isinstance(error, NotFound) else None, _unseen(error))]
    except ClientError as error:
        return [check("workspace", None, str(error))]
    return [_same_workspace(found, settings.workspace_id), _clock(found, now)]


def _unseen(error: ClientError) -> str:
    role = "role Log Analytics Reader on it (infra/roles)"
    if isinstance(error, Refused):
        return f"Resource Manager does not let this app read the workspace: give its identity the {role}"
    return (
        "AGENTBREAKER_WORKSPACE_RESOURCE_ID names a workspace that does not exist, or that this app may not see: correct "
        f"it, or give the app's identity the {role}"
    )


def _same_workspace(found: Workspace, workspace_id: str) -> dict[str, Any]:
    if found.workspace_id == workspace_id:
        return check("workspace", True, "both settings name the same workspace")
    return check(
        "workspace",
        False,
        f"AGENTBREAKER_WORKSPACE_ID is {workspace_id}, and the workspace of AGENTBREAKER_WORKSPACE_RESOURCE_ID is "
        f"{found.workspace_id}: rules would query one workspace and incidents come from another. Correct one of the two",
    )


def _clock(found: Workspace, now: datetime) -> dict[str, Any]:
    if found.there is None:
        return check("clock", None, "Resource Manager's answer carried no time")
    apart = abs(now - found.there)
    seconds = int(apart.total_seconds())
    if apart > CLOCKS_DIFFER:
        return check(
            "clock",
            False,
            f"this machine's clock is {seconds} seconds away from Azure's: windows are cut at the wrong time and tokens may be "
            "refused. Set the clock",
        )
    return check("clock", True, f"{seconds} seconds away from Azure's")


async def plans(process: Process) -> Mapping[str, str]:
    """Give which tables are known to be on another plan than Analytics; none where that could not be read."""
    found = await gathering.answered(process.workspace.plans(process.settings.workspace_resource_id))
    if isinstance(found, Unknown):
        return {}
    return {table: plan for table, plan in found.items() if plan and plan != ANALYTICS}
