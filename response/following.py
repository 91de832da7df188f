"""What follows a containment that did not stop its principal: the next lever, proposed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients.terms import Kind
from response.containment import Containment, State
from response.ledger import ACTOR
from response.levers import next_lever

if TYPE_CHECKING:
    from datetime import datetime

    from response.policy import ResponsePolicy


def with_next_lever(c: Containment, policy: ResponsePolicy, now: datetime) -> Containment:
    """
    Give a containment that did not stop its principal with the lever that is next, for people to decide about.

    Pure; the same object where there is nothing to propose. Whether policy pulls it without people is asked
    afterwards, with evidence of then (``approving.next_by_policy``).
    """
    if c.state not in (State.FAILED, State.NOT_COVERED) or c.next_lever or c.undoing or not c.touched:
        return c
    lever = next_lever(Kind(c.kind or Kind.OTHER), (*c.standing, c.lever), policy.levers)
    if lever is None:
        return c
    return c.put_before_people(
        now,
        ACTOR,
        policy.decide_within,
        next_lever=lever.id,
        next_requested_by=ACTOR,
        people_needed=max(1, lever.people),
    )
