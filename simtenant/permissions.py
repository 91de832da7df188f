"""
Which application permissions each Graph operation accepts; any one of them is enough.

From microsoft-graph-devx-content permissions.json (contracts/graph-permissions.subset.json),
application scheme; a test compares the two. Notable: what reads riskyAgents is
only ``Read.All``, and reading detections is a permission of its own.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Roles = frozenset[str]

RISKY_PRINCIPAL_READ: Final[Roles] = frozenset(
    {"IdentityRiskyServicePrincipal.Read.All", "IdentityRiskyServicePrincipal.ReadWrite.All"}
)
RISKY_PRINCIPAL_WRITE: Final[Roles] = frozenset({"IdentityRiskyServicePrincipal.ReadWrite.All"})
RISKY_AGENT_READ: Final[Roles] = frozenset({"IdentityRiskyAgent.Read.All"})
RISKY_AGENT_WRITE: Final[Roles] = frozenset({"IdentityRiskyAgent.ReadWrite.All"})
RISK_EVENT_READ: Final[Roles] = frozenset({"IdentityRiskEvent.Read.All"})
APPLICATION_LIST: Final[Roles] = frozenset(
    {
        "Application.Read.All",
        "Application.ReadWrite.All",
        "Application.ReadWrite.OwnedBy",
        "Directory.Read.All",
    }
)
APPLICATION_READ: Final[Roles] = APPLICATION_LIST | {"Directory.ReadWrite.All"}
PRINCIPAL_WRITE: Final[Roles] = frozenset(
    {"Application.ReadWrite.All", "Application.ReadWrite.OwnedBy", "Directory.ReadWrite.All"}
)
APPLICATION_WRITE: Final[Roles] = frozenset({"Application.ReadWrite.All", "Application.ReadWrite.OwnedBy"})
ROLE_GRANT: Final[Roles] = frozenset({"AppRoleAssignment.ReadWrite.All", "Application.ReadWrite.All"})
AGENT_READ: Final[Roles] = frozenset({"AgentIdentity.Read.All", "AgentIdentity.ReadWrite.All"})
AGENT_WRITE: Final[Roles] = frozenset({"AgentIdentity.EnableDisable.All", "AgentIdentity.ReadWrite.All"})
GRANT_WRITE: Final[Roles] = frozenset({"DelegatedPermissionGrant.ReadWrite.All", "Directory.ReadWrite.All"})
# Not Application.Read.All: who may read the directory's applications does not see what people granted them.
GRANT_READ: Final[Roles] = GRANT_WRITE | {"Directory.Read.All"}
FEDERATION_READ: Final[Roles] = frozenset(
    {"Application.Read.All", "Application.ReadWrite.All", "Application.ReadWrite.OwnedBy"}
)
BLUEPRINT_WRITE: Final[Roles] = frozenset(
    {"AgentIdentityBlueprintPrincipal.EnableDisable.All", "AgentIdentityBlueprintPrincipal.ReadWrite.All"}
)
# By the permission file; the page "List agentIdentity sponsors" names AgentIdentity.ReadWrite.All instead.
SPONSOR_READ: Final[Roles] = FEDERATION_READ
MEMBERSHIP_READ: Final[Roles] = frozenset(
    {"Application.Read.All", "Application.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"}
)
MARK_READ: Final[Roles] = frozenset(
    {"CustomSecAttributeAssignment.Read.All", "CustomSecAttributeAssignment.ReadWrite.All"}
)
POLICY_READ: Final[Roles] = frozenset({"Policy.Read.All"})
# The file lists Policy.Read.All and Application.Read.All beside it: needed together (simtenant/graph_policies.py).
POLICY_WRITE: Final[Roles] = frozenset({"Policy.ReadWrite.ConditionalAccess"})
POLICY_EVALUATE: Final[Roles] = frozenset(
    {"Policy.Read.All", "Policy.Read.ConditionalAccess", "Policy.ReadWrite.ConditionalAccess"}
)
LICENCE_READ: Final[Roles] = frozenset(
    {
        "LicenseAssignment.Read.All",
        "Organization.Read.All",
        "Organization.ReadWrite.All",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    }
)
ROLE_ASSIGNMENT_READ: Final[Roles] = frozenset(
    {
        "RoleManagement.Read.Directory",
        "RoleManagement.ReadWrite.Directory",
        "Directory.Read.All",
        "Directory.ReadWrite.All",
    }
)
ROLE_DEFINITION_READ: Final[Roles] = ROLE_ASSIGNMENT_READ | {"RoleManagement.Read.All"}
# These are outside the contracts; least privileged permissions from memory.
SIGN_IN_REPORT_READ: Final[Roles] = frozenset({"AuditLog.Read.All"})  # facts/entra.md §7, from a third party
ORGANIZATION_READ: Final[Roles] = LICENCE_READ - {"LicenseAssignment.Read.All"}
USER_READ: Final[Roles] = frozenset(
    {"User.Read.All", "User.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"}
)
# agentuser-get.md; of User.ReadBasic.All only the basic properties are shown.
USER_GET: Final[Roles] = USER_READ | {"User.ReadBasic.All", "AgentIdUser.ReadWrite.All"}
GROUP_READ: Final[Roles] = frozenset(
    {"Group.Read.All", "Group.ReadWrite.All", "Directory.Read.All", "Directory.ReadWrite.All"}
)
DEVICE_READ: Final[Roles] = frozenset({"Device.Read.All", "Directory.Read.All", "Directory.ReadWrite.All"})
DIRECTORY_ROLE_READ: Final[Roles] = frozenset({"RoleManagement.Read.Directory", "Directory.Read.All"})

# merill/microsoft-info _info/GraphAppRoles.csv @43b8a5d, as far as facts/entra.md quotes it.
_KNOWN_ROLE_IDS: Final[Mapping[str, str]] = {
    "AgentIdentity.EnableDisable.All": "69ee0943-4fa4-4ec8-8e52-d12e4ea661a3",
    "AgentIdentity.Read.All": "b2b8f011-2898-4234-9092-5059f6c1ebfa",
    "AppRoleAssignment.ReadWrite.All": "06b708a9-e830-4db3-a914-8e69da51d44f",
    "IdentityRiskEvent.Read.All": "6e472fd1-ad78-48da-a0f0-97ab2c6b769e",
    "IdentityRiskyAgent.Read.All": "4aadfb66-d49a-414a-a883-d8c240b6fa33",
    "IdentityRiskyAgent.ReadWrite.All": "dca4e4fd-a7cf-4e6f-86d1-d1ec094d766e",
    "IdentityRiskyServicePrincipal.Read.All": "607c7344-0eed-41e5-823a-9695ebe1b7b0",
    "IdentityRiskyServicePrincipal.ReadWrite.All": "cb8d6980-6bcb-4507-afec-ed6de3a2d798",
    "LicenseAssignment.Read.All": "e2f98668-2877-4f38-a2f4-8202e0717aa1",
    "Policy.Read.All": "246dd0d5-5bd0-4def-940b-0421030a5b68",
    "Policy.Read.ConditionalAccess": "37730810-e9ba-4e46-b07e-8ca78d182097",
    "Policy.ReadWrite.ConditionalAccess": "01c0a623-fc9b-48e9-b794-0756f8e8f067",
}
_MADE_UP: Final = uuid.UUID("6f3c1f0e-0d55-4a7a-9a55-3b1c9f5d2e77")


def app_role_id(value: str) -> str:
    """Return the id of an app role of Microsoft Graph: the real one where known, else a made-up constant."""
    return _KNOWN_ROLE_IDS.get(value) or str(uuid.uuid5(_MADE_UP, value))
