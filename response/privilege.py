"""
How much a principal could take over, by tier. Data and one pure function.

Tier 0: with one of these an identity can give itself all others, sign in as somebody who has them, or take away what
stops it. Tier 1: it reads or changes everybody's data, or holds any other role in the directory. Tier 2: the rest.
Lists age: what is in neither list is tier 2, and tier 2 says nothing in favour of a principal.

Sources: descriptions in the Graph permissions reference; Entra built-in roles (template ids, the roles marked
PRIVILEGED). Where public classifications draw the line further (EntraOps counts ``Device.ReadWrite.All`` to its
control plane, say), a role is here only when the way from it to the whole tenant is short and needs no other right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

TIER_0_APP_ROLES: Final = frozenset(
    {
        # gives itself a role in the directory, or membership of a group that has one
        "RoleManagement.ReadWrite.Directory",
        "RoleAssignmentSchedule.ReadWrite.Directory",
        "RoleEligibilitySchedule.ReadWrite.Directory",
        "RoleManagementPolicy.ReadWrite.Directory",
        "PrivilegedAccess.ReadWrite.AzureAD",
        "PrivilegedAccess.ReadWrite.AzureADGroup",
        "PrivilegedAssignmentSchedule.ReadWrite.AzureADGroup",
        "PrivilegedEligibilitySchedule.ReadWrite.AzureADGroup",
        "EntitlementManagement.ReadWrite.All",
        "Group.ReadWrite.All",
        "GroupMember.ReadWrite.All",
        # gives itself any application permission, or a credential of an application that has it
        "AppRoleAssignment.ReadWrite.All",
        "DelegatedPermissionGrant.ReadWrite.All",
        "Application.ReadWrite.All",
        "Directory.ReadWrite.All",
        "AgentIdentityBlueprint.ReadWrite.All",
        "AgentIdentityBlueprint.AddRemoveCreds.All",
        "Policy.ReadWrite.PermissionGrant",
        # signs in as a person with such roles
        "UserAuthenticationMethod.ReadWrite.All",
        "User.ReadWrite.All",
        "Domain.ReadWrite.All",
        "Organization.ReadWrite.All",
        # takes away what would stop it
        "Policy.ReadWrite.ConditionalAccess",
        "Policy.ReadWrite.AuthenticationMethod",
    }
)
TIER_0_DIRECTORY_ROLES: Final = frozenset(
    {
        "62e90394-69f5-4237-9190-012177145e10",  # Global Administrator
        "e8611ab8-c189-46e8-94e1-60213ab1f814",  # Privileged Role Administrator
        "7be44c8a-adaf-4e2a-84d6-ab2649e08a13",  # Privileged Authentication Administrator
        "9b895d92-2cd3-44c7-9d02-a6ac2d5ea5c3",  # Application Administrator
        "158c047a-c907-4556-b7ef-446551a6b5f7",  # Cloud Application Administrator
        "b1be1c3e-b65d-4f19-8427-f6fa0d97feb9",  # Conditional Access Administrator
        "194ae4cb-b126-40b2-bd5b-6091b380977d",  # Security Administrator
        "8ac3fc64-6eca-42ea-9e69-59f4c7b60eb2",  # Hybrid Identity Administrator
        "8329153b-31d0-4727-b945-745eb3bc5f31",  # Domain Name Administrator
        "d29b2b05-8046-44ba-8758-1e26182fcf32",  # Directory Synchronization Accounts
        "e00e864a-17c5-4a4b-9c06-f5b95a8d5bd8",  # Partner Tier2 Support
    }
)
_ZERO: Final = frozenset(role.lower() for role in TIER_0_APP_ROLES)
_TIER_1_APP_ROLES: Final = re.compile(
    r"(Mail|Files|Sites|Calendars|Contacts|Chat|ChannelMessage|User|AuditLog|SecurityIncident|Device\w*)\."
    r"(Read|FullControl|ManageAll)\.All|(Mail|Files|Sites|Calendars|Contacts)\.(Read|ReadWrite|Send|Selected)"
    r"|[\w-]+\.ReadWrite\.(All|OwnedBy|Directory)|full_access_as_app",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Privilege:
    """What a principal may do: its tier (0 is the most), and what puts it there."""

    tier: int
    because: tuple[str, ...]


def privilege_of(app_roles: Iterable[str], directory_roles: Iterable[str]) -> Privilege:
    """
    Sort what a principal holds. ``app_roles`` are ``Resource/Role.Value``, ``directory_roles`` template ids.

    A role counts whatever resource it is of: the name of the resource is written by people, and in any language.
    """
    roles, held = sorted(app_roles), sorted(directory_roles)
    zero = [role for role in roles if value_of(role).lower() in _ZERO]
    zero += [f"directory role {role}" for role in held if role in TIER_0_DIRECTORY_ROLES]
    if zero:
        return Privilege(0, tuple(zero[:10]))
    one = [role for role in roles if _TIER_1_APP_ROLES.fullmatch(value_of(role))]
    one += [f"directory role {role}" for role in held]
    return Privilege(1, tuple(one[:10])) if one else Privilege(2, ())


def value_of(app_role: str) -> str:
    """Give ``Role.Value`` of ``Resource/Role.Value``."""
    return app_role.rpartition("/")[2]
