"""Facts checked about a finding: each is known, Unknown (asked, not answered) or NotAsked (left out on purpose)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from clients.terms import NotAsked, Unknown

if TYPE_CHECKING:
    from clients.terms import ObjectId, RiskLevel, ServicePrincipal
    from response.finding import Finding


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
class Evidence:
    """
    What could be checked about one principal at one moment.

    ``microsoft_risk`` is the level of Microsoft's own detections, None when there are none.
    ``earlier`` are findings about the principal in the corroboration window, the new one not among them, and signs
    that lift it. ``ongoing`` are findings that are too old for that and were said again in it (``quietFor``).
    """

    principal: ServicePrincipal | NoSuchPrincipal | Unknown
    armed: Armed | NotArmed | Unknown
    own_identities: frozenset[ObjectId] | Unknown
    microsoft_risk: RiskLevel | Unknown | NotAsked | None
    earlier: tuple[Finding, ...] | Unknown
    automatic_last_hour: int | Unknown
    kill_switch_stopped: bool | Unknown
    ongoing: tuple[Finding, ...] | Unknown = ()

    def unchecked(self) -> tuple[str, ...]:
        """Every question without an answer, in words."""
        values = ((f.name.replace("_", " "), getattr(self, f.name)) for f in fields(self))
        return tuple(
            f"{name}: {value.why}" for name, value in values if isinstance(value, Unknown | NotAsked)
        )
