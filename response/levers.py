"""What this thing can do to a principal, with which right, what proves it and how it is undone. A table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from clients.terms import Kind


@dataclass(frozen=True, slots=True)
class Lever:
    """
    One thing that can be done to a principal. ``pulled_by`` and ``undone_by`` name the Graph action.

    ``permissions`` are the least privileged Graph application permissions, by kind where they differ. ``people`` is
    how many different persons, none of them the requester, must approve before it is pulled: 0 leaves it to the
    decision. ``batched`` levers carry many principals in one call and share the tenant's ID Protection second.
    ``setting`` is what has to be switched on first; empty for the lever that is always there.
    """

    id: str
    permissions: tuple[str, ...]
    bites_on: frozenset[Kind]
    pulled_by: str
    proof: str
    settles_within: timedelta
    undone_by: str
    undo_warning: str
    blast_radius: str
    people: int
    batched: bool
    setting: str = ""


_DIRECTORY: Final = frozenset(
    {
        Kind.APPLICATION,
        Kind.MULTITENANT_APPLICATION,
        Kind.FOREIGN_APPLICATION,
        Kind.MANAGED_IDENTITY,
        Kind.AGENT_IDENTITY,
        Kind.AGENT_BLUEPRINT,
    }
)
_HOLDS_CREDENTIALS: Final = frozenset({Kind.APPLICATION, Kind.MULTITENANT_APPLICATION})

CONFIRM_COMPROMISED: Final = Lever(
    id="confirm-compromised",
    permissions=("IdentityRiskyServicePrincipal.ReadWrite.All",),  # least privileged (permission file)
    bites_on=frozenset({Kind.APPLICATION}),  # Conditional Access covers no other kind
    pulled_by="POST /identityProtection/riskyServicePrincipals/confirmCompromised",
    proof="riskLevel high and riskState confirmedCompromised read back, then a 53003 row in the sign-in log",
    settles_within=timedelta(minutes=15),  # no figure is published; the number is ours
    undone_by="POST /identityProtection/riskyServicePrincipals/dismiss",
    undo_warning="dismiss removes ALL risk of the principal, also what Microsoft itself had detected",
    blast_radius="every token request of this principal that an enabled policy on high risk covers",
    people=0,
    batched=True,
)
CONFIRM_AGENT_COMPROMISED: Final = Lever(
    id="confirm-agent-compromised",
    permissions=("IdentityRiskyAgent.ReadWrite.All",),
    bites_on=frozenset({Kind.AGENT_IDENTITY, Kind.AGENT_BLUEPRINT}),
    pulled_by="POST /beta/identityProtection/riskyAgents/confirmCompromised",
    proof="riskLevel high and riskState confirmedCompromised read back, then a 53003 row in the sign-in log",
    settles_within=timedelta(minutes=15),
    undone_by="POST /beta/identityProtection/riskyAgents/dismiss",
    undo_warning="dismiss removes ALL risk of the agent, also what Microsoft itself had detected",
    blast_radius="every token request of this agent identity that an enabled policy on agent risk covers",
    people=0,
    batched=True,
    setting="AGENTBREAKER_AGENT_RISK",
)
DISABLE_PRINCIPAL: Final = Lever(
    id="disable-principal",
    permissions=(
        "Application.ReadWrite.All",
        "AgentIdentity.EnableDisable.All",
        "AgentIdentityBlueprintPrincipal.EnableDisable.All",
    ),
    bites_on=_DIRECTORY,
    pulled_by="PATCH /servicePrincipals/{id} accountEnabled false",
    proof="accountEnabled false read back, then a 7000112 row in the sign-in log",
    settles_within=timedelta(minutes=15),
    undone_by="PATCH /servicePrincipals/{id} accountEnabled true",
    undo_warning="a principal that is enabled again has every grant and credential it had",
    blast_radius="all new tokens of this principal, for every resource; of a blueprint principal, all its agents",
    people=1,
    batched=False,
    setting="AGENTBREAKER_DISABLE_PRINCIPAL",
)
REMOVE_CREDENTIALS: Final = Lever(
    id="remove-credentials",
    permissions=("Application.ReadWrite.All",),
    bites_on=_HOLDS_CREDENTIALS,
    pulled_by="POST removePassword, PATCH keyCredentials, DELETE federatedIdentityCredentials",
    proof="no secret, certificate or federated credential is read back from application and service principal",
    settles_within=timedelta(minutes=15),
    undone_by="certificates and federated credentials are written again from the snapshot",
    undo_warning="a secret's value cannot be restored: whoever used it needs a new one",
    blast_radius="every way this application proves who it is, in every tenant that uses it",
    people=2,
    batched=False,
    setting="AGENTBREAKER_REMOVAL_LEVERS",
)
REMOVE_APP_ROLES: Final = Lever(
    id="remove-app-roles",
    permissions=("AppRoleAssignment.ReadWrite.All",),
    bites_on=_DIRECTORY,
    pulled_by="DELETE /servicePrincipals/{id}/appRoleAssignments/{id}",
    proof="no app role assignment is read back; tokens issued before keep their roles until they end",
    settles_within=timedelta(minutes=15),
    undone_by="POST /servicePrincipals/{id}/appRoleAssignments for each of the snapshot",
    undo_warning="the assignments are made anew: same resource and role, new assignment ids",
    blast_radius="every application permission this principal holds",
    people=2,
    batched=False,
    setting="AGENTBREAKER_REMOVAL_LEVERS",
)
REMOVE_GRANTS: Final = Lever(
    id="remove-grants",
    permissions=("DelegatedPermissionGrant.ReadWrite.All",),
    bites_on=_DIRECTORY,
    pulled_by="DELETE /oauth2PermissionGrants/{id}",
    proof="no delegated grant is read back; tokens issued before keep their scopes until they end",
    settles_within=timedelta(minutes=15),
    undone_by="POST /oauth2PermissionGrants for each of the snapshot",
    undo_warning="the grants are made anew: same resource, scope and user, new grant ids",
    blast_radius="every delegated permission people gave this principal",
    people=2,
    batched=False,
    setting="AGENTBREAKER_REMOVAL_LEVERS",
)

LEVERS: Final = {
    lever.id: lever
    for lever in (
        CONFIRM_COMPROMISED,
        CONFIRM_AGENT_COMPROMISED,
        DISABLE_PRINCIPAL,
        REMOVE_CREDENTIALS,
        REMOVE_APP_ROLES,
        REMOVE_GRANTS,
    )
}

RISK_LEVERS: Final = (CONFIRM_COMPROMISED.id, CONFIRM_AGENT_COMPROMISED.id)
"""Levers of ID Protection: read back as risk, and taken back by dismissing all of it."""

# Reading needs rights as well; readiness compares these with what our own token carries.
READ_PERMISSIONS: Final = ("Application.Read.All", "Policy.Read.All")
# Better evidence with, an Unknown in the record without. Each names what it answers.
OPTIONAL_READ_PERMISSIONS: Final = {
    "CustomSecAttributeAssignment.Read.All": "the mark Agentbreaker/Containment",
    "RoleManagement.Read.Directory": "directory roles",
    "IdentityRiskEvent.Read.All": "what Microsoft itself had detected, shown before an undo",
    "AgentIdentity.Read.All": "agent identities and their sponsors",
    "User.Read.All": "users that stand for agent identities",
    "LicenseAssignment.Read.All": "whether the tenant has Workload ID Premium, in readiness",
}


def first_lever(kind: Kind, switched_on: frozenset[str]) -> Lever | None:
    """Give the lever for this kind of identity that an automatic decision may propose; None where none reaches it."""
    return next((lever for lever in _FIRST if kind in lever.bites_on and lever.id in switched_on), None)


def next_lever(kind: Kind, pulled: tuple[str, ...], switched_on: frozenset[str]) -> Lever | None:
    """Give the lever to propose when those in ``pulled`` did not stop the principal; None when there is none left."""
    return next(
        (
            lever
            for lever in _FIRST
            if kind in lever.bites_on and lever.id in switched_on and lever.id not in pulled
        ),
        None,
    )


# From the one that takes least away on. The removal levers are never proposed: a person orders them by name.
_FIRST: Final = (CONFIRM_COMPROMISED, CONFIRM_AGENT_COMPROMISED, DISABLE_PRINCIPAL)
