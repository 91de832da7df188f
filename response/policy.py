"""What the operators decided in advance, as a value that decisions take as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Mode(StrEnum):
    """How far the app goes by itself, from the most careful on."""

    OBSERVE = "observe"
    APPROVE = "approve"
    ENFORCE = "enforce"

    @property
    def boldness(self) -> int:
        """Rank: 0 touches nothing."""
        return list(Mode).index(self)


class Disabling(StrEnum):
    """Whether a principal may be disabled, the lever for what Conditional Access cannot reach."""

    OFF = "off"
    APPROVAL = "approval"
    AUTOMATIC = "automatic"


class OnExpiry(StrEnum):
    """What becomes of a containment that waits for people when nobody decides in time."""

    LEAVE = "leave"
    CONTAIN = "contain"


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """
    Modes, protected principals, storm brake and levers. ``protected`` None means that no list could be read.

    The storm brake counts automatic containments over all runs: in an hour, in a day, as a share of the principals
    that were active in the last day (per cent), and in a day for any one owner.
    """

    mode: Mode
    rule_modes: Mapping[str, Mode]
    protected: frozenset[str] | None
    automatic_per_hour: int
    automatic_per_day: int = 10
    automatic_share_percent: int = 5
    automatic_per_owner: int = 3
    agent_risk: bool = False
    disabling: Disabling = Disabling.OFF
    removal_levers: bool = False
    decide_within: timedelta = timedelta(hours=4)
    on_expiry: OnExpiry = OnExpiry.LEAVE
    probation: timedelta = timedelta(hours=24)
    evidence_max_age: timedelta = timedelta(hours=4)

    @property
    def levers(self) -> frozenset[str]:
        """Ids of the levers that are switched on (``response/levers.py``)."""
        removal = ("remove-credentials", "remove-app-roles", "remove-grants")
        return frozenset(
            {
                "confirm-compromised",
                *(["confirm-agent-compromised"] if self.agent_risk else ()),
                *(["disable-principal"] if self.disabling is not Disabling.OFF else ()),
                *(removal if self.removal_levers else ()),
            }
        )

    def mode_for(self, rule_id: str) -> Mode:
        """Give the more careful of the global and the rule's own mode."""
        return min((self.mode, self.rule_modes.get(rule_id, self.mode)), key=lambda mode: mode.boldness)

    def lets_count(self, rule_id: str) -> bool:
        """Tell whether what the rule finds may weigh: not where it alone may only be observed."""
        return self.mode is Mode.OBSERVE or self.mode_for(rule_id) is not Mode.OBSERVE
