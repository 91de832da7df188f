"""Facts checked about a finding: each is known, Unknown (asked, not answered) or NotAsked (left out on purpose)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from clients.terms import NotAsked, Unknown

if TYPE_CHECKING:
    from datetime import datetime

    from clients.terms import Mark, ObjectId, Person, RiskLevel, ServicePrincipal
    from response.brake import Counts
    from response.finding import Finding
    from response.privilege import Privilege


@dataclass(frozen=True, slots=True)
class Armed:
    """An enabled policy would block this principal once its risk is high. ``policies`` are their ids."""

    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotArmed:
    """
    No enabled policy would block it. ``why`` says so for a person, ``would_bite`` what would.

    ``report_only``: a policy that only reports would, if it were enabled. ``lever`` is the id of the lever that stops
    it without a policy, empty where there is none.
    """

    why: str
    would_bite: str
    report_only: bool = False
    lever: str = ""


@dataclass(frozen=True, slots=True)
class NoSuchPrincipal:
    """Graph answered: there is no service principal with this object id. ``hint`` helps who gave the id."""

    hint: str = ""


@dataclass(frozen=True, slots=True)
class ChangeWindow:
    """An announced change of the principal that is under way, until ``ends``."""

    ends: datetime


_LEFT_OUT: Final = Unknown("it was not asked")


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What could be checked about one principal at one moment, ``at``.

    ``microsoft_risk`` is the level of Microsoft's own detections, None when there are none.
    ``earlier`` are findings about the principal in the corroboration window, the new one not among them, and signs
    that lift it; none of them older than ``undone_at``, when a person last took a containment back. ``ongoing`` are
    findings that are too old for that and were said again in it (``quietFor``). ``on_probation``: it was undone and is
    watched. ``mark`` is the custom security attribute ``Agentbreaker/Containment``. ``brake`` counts automatic
    containments; ``brake_tripped`` says why a person has to release it, ``ledger_broken`` where the chain is broken;
    both are empty when nothing is wrong. What a constructor leaves out is Unknown, which never lets action through.
    """

    principal: ServicePrincipal | NoSuchPrincipal | Unknown
    armed: Armed | NotArmed | Unknown
    own_identities: frozenset[ObjectId] | Unknown
    microsoft_risk: RiskLevel | Unknown | NotAsked | None
    earlier: tuple[Finding, ...] | Unknown
    kill_switch_stopped: bool | Unknown
    ongoing: tuple[Finding, ...] | Unknown = ()
    at: datetime | Unknown = _LEFT_OUT
    mark: Mark | Unknown | NotAsked | None = _LEFT_OUT
    privilege: Privilege | Unknown | NotAsked = _LEFT_OUT
    owners: tuple[Person, ...] | Unknown | NotAsked = _LEFT_OUT
    change_window: ChangeWindow | Unknown | NotAsked | None = _LEFT_OUT
    undone_at: datetime | Unknown | None = _LEFT_OUT
    on_probation: bool | Unknown = _LEFT_OUT
    brake: Counts | Unknown = _LEFT_OUT
    active_principals: int | Unknown | NotAsked = _LEFT_OUT
    brake_tripped: str | Unknown = _LEFT_OUT
    ledger_broken: str | Unknown = _LEFT_OUT

    def unchecked(self) -> tuple[str, ...]:
        """Every question without an answer, in words."""
        values = ((f.name.replace("_", " "), getattr(self, f.name)) for f in fields(self))
        return tuple(
            f"{name}: {value.why}" for name, value in values if isinstance(value, Unknown | NotAsked)
        )
