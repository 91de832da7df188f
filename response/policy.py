"""What the operators decided in advance, as a value that decisions take as an argument."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class ResponsePolicy:
    """Modes, protected principals and the storm brake. ``protected`` None means that no list could be read."""

    mode: Mode
    rule_modes: Mapping[str, Mode]
    protected: frozenset[str] | None
    automatic_per_hour: int

    def mode_for(self, rule_id: str) -> Mode:
        """Give the more careful of the global and the rule's own mode."""
        return min((self.mode, self.rule_modes.get(rule_id, self.mode)), key=lambda mode: mode.boldness)
