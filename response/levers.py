"""What this thing can do to a principal, with which right, what proves it and how it is undone. A table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from clients.terms import Kind


@dataclass(frozen=True, slots=True)
class Lever:
    """One thing that can be done to a principal. ``pulled_by`` and ``undone_by`` name the Graph action."""

    id: str
    permission: str
    bites_on: frozenset[Kind]
    pulled_by: str
    proof: str
    settles_within: timedelta
    undone_by: str
    undo_warning: str


CONFIRM_COMPROMISED: Final = Lever(
    id="confirm-compromised",
    permission="IdentityRiskyServicePrincipal.ReadWrite.All",  # least privileged (permission file)
    bites_on=frozenset({Kind.APPLICATION}),  # Conditional Access covers no other kind
    pulled_by="POST /identityProtection/riskyServicePrincipals/confirmCompromised",
    proof="riskLevel high and riskState confirmedCompromised read back, then a 53003 row in the sign-in log",
    settles_within=timedelta(minutes=15),  # no figure is published; the number is ours
    undone_by="POST /identityProtection/riskyServicePrincipals/dismiss",
    undo_warning="dismiss removes ALL risk of the principal, also what Microsoft itself had detected",
)

LEVERS: Final = {lever.id: lever for lever in (CONFIRM_COMPROMISED,)}

# Reading needs rights as well; readiness compares these with what our own token carries.
READ_PERMISSIONS: Final = ("Application.Read.All", "Policy.Read.All")
