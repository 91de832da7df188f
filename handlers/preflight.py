"""What a first deployment gets wrong: workspace, right to query it, clock, licence. Each with what to do about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from clients.errors import BadRequest, ClientError, NotFound, Refused
from clients.workspace import ANALYTICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handlers.process import Process
    from response.world import World

log = logging.getLogger("agentbreaker.preflight")

GRANT: Final = (
    "Run python scripts/grant_permissions.py --plan, then --apply. A right counts with the next token of the managed "
    "identity, which Azure keeps for up to 24 hours; no restart shortens that"
)
ARM: Final = (
    "Run python -m workbench policies plan, then apply, and enable a policy once its reports are understood; "
    "that needs Workload ID Premium"
)
NO_TABLE: Final = (
    "The table is not in this workspace, or its plan is Basic or Auxiliary, which rules cannot query: "
    "connect its source, or set its plan to Analytics"
)
LICENCE_RIGHT: Final = "LicenseAssignment.Read.All"
# Service plan AAD_WRKLDID_P2, by name or id: several public licence detectors agree (facts/entra.md §8).
_PREMIUM: Final = frozenset({"aad_wrkldid_p2", "7dc0e92d-bf15-401d-907e-0884efe7c760"})
# Tokens are refused from five minutes of difference on, and windows of rules are cut by our clock.
_MOST_APART: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Found:
    """One precondition: true, false or not known, with what was found and what to do."""

    name: str
    ok: bool | None
    detail: str


async def workspace(world: World) -> list[Found]:
    """Ask the workspace for its time: says that it is there, that we may ask, and how far apart the clocks are."""
    before = world.now()
    try:
        answer = await world.logs.query("print Now = now()", before - timedelta(hours=1), before)
    except (Refused, NotFound, BadRequest) as error:
        return [Found("workspace", False, _remedy(error)), _clocks_unknown()]
    except ClientError as error:
        return [Found("workspace", None, str(error)), _clocks_unknown()]
    there = answer.rows[0][0] if answer.rows else None
    return [Found("workspace", True, "answers this identity"), _clocks(before, there, world.now())]


async def licence(world: World) -> Found:
    """Say whether the tenant has Workload ID Premium. Not known where the app may not ask, which is optional."""
    try:
        # Asking without the right would count as a refusal, which people are alerted of.
        if LICENCE_RIGHT not in (await world.graph.own_claims())[1]:
            return Found("licence", None, f"{LICENCE_RIGHT}, which is optional, is not granted")
        plans = await world.graph.service_plans()
    except ClientError as error:
        return Found("licence", None, str(error))
    if plans & _PREMIUM:
        return Found("licence", True, "Workload ID Premium is provisioned")
    return Found(
        "licence",
        False,
        "no Workload ID Premium: no Conditional Access policy can block a workload identity by its risk, so confirming "
        "blocks nobody. Buy or try it in the Entra admin center, under Billing",
    )


def _remedy(error: ClientError) -> str:
    if isinstance(error, Refused):
        return (
            f"{error}: the app's identity may not query the workspace. Give it Log Analytics Data Reader there "
            "(infra/roles/logs-reader.bicep); a new role takes some minutes. If it has the role, "
            "AGENTBREAKER_WORKSPACE_ID names another workspace"
        )
    return (
        f"{error}: AGENTBREAKER_WORKSPACE_ID names no workspace. It is the workspace's own id (customerId, a GUID on "
        "its overview page), not its ARM id; deploying again writes it"
    )


def _clocks_unknown() -> Found:
    return Found("clocks", None, "the workspace did not say what time it is there")


def _clocks(before: datetime, there: object, after: datetime) -> Found:
    """Compare with the nearer end of the call, so that a slow answer is no difference."""
    if not isinstance(there, datetime):
        return _clocks_unknown()
    apart = max(before - there, there - after, timedelta(0))
    if apart <= _MOST_APART:
        return Found("clocks", True, "this app and the workspace agree on the time")
    ahead = "ahead of" if before > there else "behind"
    return Found(
        "clocks",
        False,
        f"this app's clock is {int(apart.total_seconds()) // 60} minutes {ahead} the workspace's: windows of rules and "
        "ages of evidence are wrong. In Azure restart the app; on a machine of your own set its clock by NTP",
    )


async def settings_agree(process: Process) -> Found:
    """Say whether both workspace settings name one workspace. Not known where Resource Manager does not show it to us."""
    settings, name = process.settings, "workspace settings"
    try:
        found = await process.workspace.workspace_id(settings.workspace_resource_id)
    except NotFound as error:
        return Found(
            name,
            False,
            f"{error}: AGENTBREAKER_WORKSPACE_RESOURCE_ID names no workspace that exists; deploying again writes it",
        )
    except ClientError as error:
        return Found(name, None, f"{error}: the two workspace settings could not be compared")
    if found == settings.workspace_id:
        return Found(name, True, "both name the same workspace")
    return Found(
        name,
        False,
        f"AGENTBREAKER_WORKSPACE_ID is {settings.workspace_id}, and the workspace of AGENTBREAKER_WORKSPACE_RESOURCE_ID is "
        f"{found}: rules would query one and incidents come from the other. Correct one; deploying again writes both",
    )


async def plans(process: Process) -> Mapping[str, str]:
    """Give the tables known to be on another plan than Analytics; none where Resource Manager does not show them to us."""
    try:
        found = await process.workspace.plans(process.settings.workspace_resource_id)
    except ClientError as error:
        log.info("the plans of tables could not be read: %s", type(error).__name__)
        return {}
    return {table: plan for table, plan in found.items() if plan and plan != ANALYTICS}


def may_stay_unknown(found: Mapping[str, Any]) -> bool:
    """Whether the app is ready without this being known: what needs a right that a deployment need not give."""
    return found["ok"] is None and found["name"] in ("licence", "workspace settings")
