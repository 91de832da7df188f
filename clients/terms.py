"""
The words of Entra, Graph and Sentinel as types. No I/O and no imports of ours.

Identifiers are distinct types because mixing them up contains the wrong identity: the object id of
a service principal, the appId, and the object id of the app registration all look alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    from datetime import datetime

ObjectId = NewType("ObjectId", str)
"""Object id of a service principal (in the portal: Enterprise applications). What ID Protection wants."""
AppId = NewType("AppId", str)
"""Client id, shared by an app registration and its service principals in every tenant."""
TenantId = NewType("TenantId", str)

_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

# Owner tenants of Microsoft's own applications (merill/microsoft-info MicrosoftApps.csv: the two
# that 737 of the 740 entries with an owner carry).
MICROSOFT_TENANTS: Final = frozenset(
    {TenantId("f8cdef31-a31e-4b4a-93e4-5f571e91255a"), TenantId("72f988bf-86f1-41af-91ab-2d7cd011db47")}
)


def is_guid(text: object) -> bool:
    """Whether ``text`` is a GUID with hyphens and nothing else."""
    return isinstance(text, str) and _GUID.fullmatch(text) is not None


def object_id(text: object) -> ObjectId:
    """Parse an object id, lower-cased. Raises ValueError for anything that is no GUID."""
    if not isinstance(text, str) or not is_guid(text):
        raise ValueError("not a GUID")
    return ObjectId(text.lower())


@dataclass(frozen=True, slots=True)
class Unknown:
    """A question asked and not answered. Never the same as "no"."""

    why: str


@dataclass(frozen=True, slots=True)
class NotAsked:
    """A question that was left out on purpose, with the reason. Never the same as "no" either."""

    why: str


class Kind(StrEnum):
    """What sort of identity a service principal is; it decides which lever bites."""

    APPLICATION = "application"
    MULTITENANT_APPLICATION = "multitenant_application"  # registered in this tenant, open to others
    FOREIGN_APPLICATION = "foreign_application"  # registered in somebody else's tenant
    MANAGED_IDENTITY = "managed_identity"
    AGENT_IDENTITY = "agent_identity"
    AGENT_BLUEPRINT = "agent_blueprint"
    AGENT_USER = "agent_user"  # a user that stands for an agent identity: no service principal at all
    MICROSOFT = "microsoft"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ServicePrincipal:
    """A service principal as Graph shows it. ``display_name`` is written by whoever owns the app: untrusted."""

    object_id: ObjectId
    app_id: AppId
    display_name: str
    kind: Kind
    owner_tenant: TenantId | None
    account_enabled: bool | None
    parent: str = ""
    """The blueprint's *appId* for an agent identity, the agent identity's object id for an agent user."""


@dataclass(frozen=True, slots=True)
class Person:
    """An owner or sponsor as Graph shows it. ``name`` is tenant text: untrusted."""

    object_id: str
    name: str


class Mark(StrEnum):
    """Custom security attribute ``Agentbreaker/Containment`` of a principal, read as text."""

    PROTECTED = "protected"
    APPROVAL = "approval"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Dossier:
    """
    Who answers for a principal and what it may do. Each part is known or Unknown by itself.

    ``app_roles`` are application permissions as ``Resource/Role.Value``, ``Microsoft Graph/Mail.Read`` say, or the
    role's id where its name could not be read. ``directory_roles`` are role template ids, lower-cased. ``mark`` is
    None when the principal carries no mark; a value that is none of ``Mark`` is Unknown.
    """

    owners: tuple[Person, ...] | Unknown
    sponsors: tuple[Person, ...] | Unknown
    app_roles: frozenset[str] | Unknown
    directory_roles: frozenset[str] | Unknown
    mark: Mark | Unknown | None


@dataclass(frozen=True, slots=True)
class RiskDetection:
    """One detection of ID Protection about a principal (``servicePrincipalRiskDetection``)."""

    id: str
    event_type: str
    level: RiskLevel | None
    detected_at: datetime | None

    @property
    def is_ours(self) -> bool:
        """Whether it is the echo of an administrator's confirmation, not Microsoft's own finding."""
        return self.event_type.startswith("adminConfirmed")


@dataclass(frozen=True, slots=True)
class Application:
    """An app registration, read only to recognise an id given by mistake."""

    application_object_id: str
    app_id: AppId
    display_name: str


class RiskLevel(StrEnum):
    """``riskLevel``, of the v1.0 metadata."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class Risk:
    """
    A ``riskyServicePrincipal``. None in a field means that Graph sent nothing we know: unknown, not "none".

    Source: Graph v1.0 "riskyServicePrincipal"; after a confirmation riskState is ``confirmedCompromised``.
    """

    object_id: ObjectId
    level: RiskLevel | None
    state: str | None
    is_processing: bool | None

    @property
    def confirmed(self) -> bool:
        """Risk reads high, was confirmed, and Entra has finished working on it."""
        return (
            self.level is RiskLevel.HIGH
            and self.state == "confirmedCompromised"
            and self.is_processing is False
        )

    @property
    def dismissed(self) -> bool:
        """Somebody has taken the risk back, and Entra has finished working on it."""
        return self.state in ("dismissed", "remediated", "confirmedSafe") and self.is_processing is False

    @property
    def microsoft_says(self) -> RiskLevel | None:
        """Level that Microsoft's own detections gave; None when it is an administrator's confirmation (our echo)."""
        return self.level if self.state == "atRisk" else None


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """
    ``conditionalAccessFilter``: a rule on custom security attributes that includes or excludes who it matches.

    Source: Graph "conditionalAccessFilter" (``mode`` include or exclude, ``rule``). ``rule`` is tenant text.
    """

    mode: str
    rule: str


@dataclass(frozen=True, slots=True)
class Policy:
    """
    A Conditional Access policy, the parts that decide whether it blocks a risky workload identity.

    Ids and reserved words are lower-cased. An empty set means that the policy has no such condition, with one
    exception: nobody is included who is not named. ``other_conditions`` names what is present and not evaluated, and
    fields whose form was not the documented one: with any of them this policy's answer is unknown, never "blocks".
    ``complete`` is false for a reading by an earlier version, which knew fewer conditions.

    Source: Graph v1.0 and beta "conditionalAccessPolicy"; what only beta has are the agents' fields
    (``agentIdRiskLevels`` is a comma-separated text there, not a list) and ``sessionControls/continuousAccessEvaluation``.
    """

    id: str
    display_name: str
    state: str
    include_service_principals: frozenset[str]
    exclude_service_principals: frozenset[str]
    risk_levels: frozenset[str]
    include_applications: frozenset[str]
    exclude_applications: frozenset[str]
    blocks: bool
    other_conditions: tuple[str, ...]
    service_principal_filter: AttributeFilter | None = None
    include_agents: frozenset[str] = frozenset()
    exclude_agents: frozenset[str] = frozenset()
    agent_filter: AttributeFilter | None = None
    agent_risk_levels: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()
    """Which of users, groups, roles, guests and agent users it includes, in these words."""
    user_actions: frozenset[str] = frozenset()
    authentication_contexts: frozenset[str] = frozenset()
    application_filter: AttributeFilter | None = None
    include_locations: frozenset[str] = frozenset()
    exclude_locations: frozenset[str] = frozenset()
    client_app_types: frozenset[str] = frozenset()
    grant_operator: str = ""
    grant_controls: frozenset[str] = frozenset()
    """What it demands beside or instead of ``block``: built-in controls, terms of use, authentication strength."""
    cae_mode: str | None = ""
    """
    ``disabled`` turns continuous access evaluation off for whom it covers; empty where nothing is said, None where the
    reading has session controls and not this one: v1.0 does not show it.
    """
    complete: bool = True


@dataclass(frozen=True, slots=True)
class WhatIf:
    """
    What Microsoft's What If says of one policy and one sign-in.

    ``applies`` is also true of policies that only report: ``state`` and ``blocks`` tell whether it would refuse.
    Source: Graph v1.0 "conditionalAccessRoot: evaluate", ``whatIfAnalysisResult``.
    """

    policy_id: str
    state: str
    blocks: bool
    applies: bool
    reasons: tuple[str, ...]
