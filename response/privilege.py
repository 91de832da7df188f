"""
How much a principal could take over, by tier. Data and one pure function.

Tier 0: with one of these an identity can give itself all others, or sign in as anybody. Tier 1: it reads or changes
everybody's data, or weakens what protects the tenant. Tier 2: everything else. The same names as rule AG-17 counts.
Sources: Graph permission reference (descriptions of the roles), Entra built-in roles (template ids).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIER_0_ROLES: Final = re.compile(
    r"(RoleManagement|RoleAssignmentSchedule|RoleEligibilitySchedule)\.ReadWrite\.Directory"
    r"|Policy\.ReadWrite\.(ConditionalAccess|PermissionGrant)"
    r"|(AppRoleAssignment|Application|Directory|DelegatedPermissionGrant|UserAuthenticationMethod|Domain|Group)\.ReadWrite\.All"
    r"|PrivilegedAccess\.ReadWrite\.AzureADGroup|AgentIdentityBlueprint\.AddRemoveCreds\.All",
    re.IGNORECASE,
)
_TIER_1_ROLES: Final = re.compile(
    r"(Mail|Files|Sites|Calendars|Contacts|Chat|ChannelMessage|User|AuditLog|SecurityIncident|Device\w*)\."
    r"(Read|ReadWrite|FullControl|ManageAll)\.All|(Mail|Files|Sites|Calendars)\.(Read|ReadWrite|Send|Selected)"
    r"|\w+\.ReadWrite\.All|full_access_as_app",
    re.IGNORECASE,
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
    }
)


@dataclass(frozen=True, slots=True)
class Privilege:
    """What a principal may do: its tier (0 is the most), and what puts it there."""

    tier: int
    because: tuple[str, ...]


def privilege_of(app_roles: Iterable[str], directory_roles: Iterable[str]) -> Privilege:
    """
    Sort what a principal holds. ``app_roles`` are ``Resource/Role.Value``, ``directory_roles`` template ids.

    Any directory role that is not of tier 0 counts as tier 1: it is a role in the directory all the same.
    """
    roles, held = sorted(app_roles), sorted(directory_roles)
    zero = [role for role in roles if _TIER_0_ROLES.fullmatch(role.rpartition("/")[2])]
    zero += [f"directory role {role}" for role in held if role in TIER_0_DIRECTORY_ROLES]
    if zero:
        return Privilege(0, tuple(zero[:10]))
    one = [role for role in roles if _TIER_1_ROLES.fullmatch(role.rpartition("/")[2])]
    one += [f"directory role {role}" for role in held]
    return Privilege(1, tuple(one[:10])) if one else Privilege(2, ())
