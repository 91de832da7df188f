"""Analysts decide: approve or reject what waits (``POST .../approval``), take back what was done (``POST .../undo``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.analyst import said_of
from handlers.auth import Role, caller, require
from handlers.http import Problem, Request, Response, json_body
from handlers.models import ApprovalBody, ContainmentView, UndoBody, parsed
from response import flow, undoing
from response.approving import CannotDecide
from response.containment import NoSuchContainment, State
from response.levers import LEVERS, RISK_LEVERS
from response.opening import load

if TYPE_CHECKING:
    from handlers.process import Process
    from response.containment import Containment


async def approval(request: Request, process: Process) -> Response:
    """
    ``POST /api/containments/{id}/approval``: approve or reject what waits for people.

    200 once it is decided and done, 202 while more people are needed or Graph has not accepted yet, 409 when the
    decision does not count, 502 when the lever failed.
    """
    who = caller(request, process.settings)
    require(who, Role.APPROVE)
    wanted = request.route.get("id", "")[:100]
    said = parsed(ApprovalBody, json_body(request))
    if said.decision == "approve" and not said.lever:
        raise Problem(
            400,
            "lever_needed",
            "Say which lever you approve, as the containment shows it: lever is its nextLever, or its lever where there is no"
            " next one. What is proposed may have changed since you looked.",
        )
    try:
        c = await flow.approve_or_reject(
            wanted, who.object_id, said.decision, said.reason, process.world, lever=said.lever
        )
    except CannotDecide as error:
        current = await _found(wanted, process)
        raise Problem(409, error.code, str(error), containment=ContainmentView.of(current).shown()) from error
    except NoSuchContainment as error:
        raise _no_such_containment() from error
    view = ContainmentView.of(c).shown()
    if c.state is State.FAILED and said.decision == "approve":
        raise Problem(502, "containment_failed", said_of(c), containment=view)
    waits = c.state is State.CLAIMED or c.waits_for_people
    return Response(202 if waits else 200, view | {"message": said_of(c)})


async def undo(request: Request, process: Process) -> Response:
    """
    ``POST /api/containments/{id}/undo``: take back every lever that was pulled.

    Without ``dismissAllRisk: true`` the answer is 409 and says what Microsoft itself had detected, because dismissing
    removes that too. 200 once Graph has accepted, 202 while it has not.
    """
    who = caller(request, process.settings)
    require(who, Role.EXECUTE)
    wanted = request.route.get("id", "")[:100]
    order = parsed(UndoBody, json_body(request))
    c = await _found(wanted, process)
    before = () if c.undoing or c.state is State.HALF_OPEN else await undoing.seen_before(c, process.world)
    if _dismisses(c) and not order.dismiss_all_risk:
        raise Problem(
            409,
            "dismiss_all_risk_needed",
            "Undoing dismisses ALL risk of the principal, also what Microsoft itself had detected (see wouldDismiss). "
            "Send it again with dismissAllRisk: true if that is meant.",
            wouldDismiss=list(before),
        )
    try:
        c = await flow.undo(wanted, who.object_id, order.reason, before, process.world)
    except undoing.CannotUndo as error:
        raise Problem(
            409, "nothing_to_undo", f"{error}.", containment=ContainmentView.of(c).shown()
        ) from error
    view = ContainmentView.of(c).shown()
    if c.undo is not None and c.undo.failure:
        raise Problem(502, "undo_failed", f"It could not be taken back: {c.undo.failure}", containment=view)
    return Response(202 if c.undoing else 200, view | {"message": said_of(c), "warnings": _warnings(c)})


def _dismisses(c: Containment) -> bool:
    return any(lever in RISK_LEVERS for lever in c.standing or (c.lever,))


def _warnings(c: Containment) -> list[str]:
    return [LEVERS[pulled.lever].undo_warning for pulled in c.pulled_levers if pulled.lever in LEVERS]


async def _found(containment_id: str, process: Process) -> Containment:
    try:
        return (await load(process.world.store, containment_id))[0]
    except NoSuchContainment as error:
        raise _no_such_containment() from error


def _no_such_containment() -> Problem:
    return Problem(404, "containment_not_found", "There is no containment with this id.")
