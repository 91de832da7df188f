"""
Who lives in the simulated tenant: benign agents of many kinds, and the one that will go rogue.

A profile says what a principal is and what it does over and over. The same profile drives its fourteen days of
history (``simtenant/history.py``) and its live traffic (``simtenant/agents.py``), so that a baseline learned from
the one fits the other. Several benign profiles are near misses of a rule on purpose, and say so.

Names end in example.com, addresses are from the documentation ranges (RFC 5737), ids are uuid5 of the names.
"""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from simtenant.tenant import Principal, PrincipalKind, Tenant

NAMESPACE: Final = uuid.UUID("5f2d7c1e-8a34-5b9c-9d10-7e6f5a4b3c2d")

SITES: Final = ("finance", "projects", "knowledge")
VAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "kv-payments": ("psp-api-key", "settlement-sftp", "ledger-db", "webhook-signing"),
    "kv-platform": ("deploy-token", "registry-pull", "telemetry-key", "backup-passphrase", "smtp-relay"),
}

_GRAPH_MAIL = ("Mail.Read",)
_PYTHON = "python-msal/1.28.0 aiohttp/3.9"
_DOTNET = "azsdk-net-Security.KeyVault.Secrets/4.6.0 (.NET 8.0.4)"


def made_up_id(name: str) -> str:
    """Return the same GUID for the same name, always."""
    return str(uuid.uuid5(NAMESPACE, name))


def pooled_id(name: str, number: int) -> str:
    """
    Return the ``number``-th id that a principal's ``{id}`` may stand for.

    A plain MD5, because the history computes the same in SQL for a million calls.
    """
    return str(uuid.UUID(hashlib.md5(f"{name}/{number}".encode(), usedforsecurity=False).hexdigest()))


class Api(StrEnum):
    """Which service an activity calls."""

    GRAPH = "graph"
    SHAREPOINT = "sharepoint"
    VAULT = "vault"


@dataclass(frozen=True)
class Activity:
    """
    Calls that a principal makes again and again.

    ``path`` may hold ``{id}``, which stands for one of ``pool`` made-up GUIDs. ``paths`` are used in turn. SharePoint
    paths are ``site/file``, Key Vault paths ``vault/secrets/name``. ``hours`` is the working window in UTC, ``weekend``
    the share of it that remains on Saturday and Sunday, ``failures`` maps an HTTP status to its share of the calls.
    """

    api: Api
    paths: tuple[str, ...]
    every: timedelta
    method: str = "GET"
    hours: tuple[int, int] = (0, 24)
    weekend: float = 1.0
    pool: int = 40
    failures: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """What a principal is, does and is declared to be."""

    name: str
    why: str
    activities: tuple[Activity, ...]
    kind: PrincipalKind = PrincipalKind.APPLICATION
    roles: tuple[str, ...] = ()
    cp1: bool = False
    active_days: int = 14
    inventory_role: str = "agent"
    user_agent: str = _PYTHON
    country: str = "DE"


INVOICE_READER: Final = Profile(
    name="invoice-reader",
    why="Reads invoices from SharePoint; the seed story lets it go rogue.",
    cp1=True,
    roles=("Sites.Read.All",),
    activities=(
        Activity(
            Api.SHAREPOINT,
            tuple(f"finance/invoice-{number:03d}.pdf" for number in range(40)),
            every=timedelta(minutes=2),
            hours=(5, 21),
            weekend=0.2,
        ),
        Activity(
            Api.GRAPH,
            ("/v1.0/sites/finance/drive/root/children", "/v1.0/sites/finance/lists"),
            every=timedelta(minutes=10),
            hours=(5, 21),
            weekend=0.2,
        ),
    ),
)

BENIGN: Final[tuple[Profile, ...]] = (
    Profile(
        name="mail-summariser",
        why="Graph mail reader; many users paths, one path family.",
        cp1=True,
        roles=_GRAPH_MAIL,
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/users/{id}/messages", "/v1.0/users/{id}/mailFolders/inbox/messages"),
                every=timedelta(seconds=25),
                hours=(6, 19),
                weekend=0.1,
                pool=180,
            ),
        ),
    ),
    Profile(
        name="directory-inventory",
        why="Enumerates the directory every night by design; near miss of AG-08, declared a directory-tool.",
        roles=("Directory.Read.All",),
        inventory_role="directory-tool",
        activities=(
            Activity(
                Api.GRAPH,
                (
                    "/v1.0/users/{id}/memberOf",
                    "/v1.0/groups/{id}/members",
                    "/v1.0/applications/{id}/owners",
                    "/v1.0/servicePrincipals/{id}/memberOf",
                    "/v1.0/devices/{id}/registeredOwners",
                ),
                every=timedelta(seconds=5),
                hours=(2, 4),
                pool=5_000,
            ),
        ),
    ),
    Profile(
        name="payments-worker",
        why="Key Vault consumer that reads its three usual secrets day and night; near miss of AG-04.",
        user_agent=_DOTNET,
        activities=(
            Activity(
                Api.VAULT,
                tuple(f"kv-payments/secrets/{secret}" for secret in VAULTS["kv-payments"][:3]),
                every=timedelta(minutes=12),
            ),
        ),
    ),
    Profile(
        name="checkout-web",
        why="Web app that restarts early in the morning and reads all its settings at once; near miss of AG-04.",
        user_agent=_DOTNET,
        activities=(
            Activity(
                Api.VAULT,
                (
                    "kv-payments/secrets",
                    *(f"kv-payments/secrets/{secret}" for secret in VAULTS["kv-payments"]),
                ),
                every=timedelta(minutes=3),
                hours=(4, 5),
            ),
            Activity(
                Api.VAULT, ("kv-payments/secrets/psp-api-key",), every=timedelta(minutes=45), hours=(5, 24)
            ),
        ),
    ),
    Profile(
        name="backup-agent",
        why="Copies drives every night; thousands of distinct GETs, one path family, so a near miss of AG-08.",
        roles=("Files.Read.All",),
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/drives/{id}/root/delta", "/v1.0/drives/{id}/items/root/content"),
                every=timedelta(seconds=4),
                hours=(0, 4),
                pool=9_000,
            ),
        ),
    ),
    Profile(
        name="release-pipeline",
        why="CI/CD; deploys in working hours with tokens from its vault. Its own credential is rotated for it by "
        "credential-broker, so that AG-18 (self-grant) stays silent.",
        roles=("Application.Read.All",),
        activities=(
            Activity(
                Api.VAULT,
                ("kv-platform/secrets/deploy-token", "kv-platform/secrets/registry-pull"),
                every=timedelta(minutes=20),
                hours=(6, 18),
                weekend=0.15,
            ),
            Activity(
                Api.GRAPH,
                ("/v1.0/applications/{id}/owners",),
                every=timedelta(minutes=15),
                hours=(6, 18),
                weekend=0.15,
                pool=6,
            ),
        ),
    ),
    Profile(
        name="credential-broker",
        why="The approved rotation pipeline: replaces credentials of others every night, never its own.",
        roles=("Application.ReadWrite.OwnedBy",),
        inventory_role="credential-rotation",
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/applications/{id}/owners",),
                every=timedelta(minutes=10),
                hours=(1, 3),
                pool=8,
            ),
            Activity(
                Api.VAULT,
                ("kv-platform/secrets/deploy-token", "kv-platform/secrets/smtp-relay"),
                every=timedelta(minutes=20),
                hours=(1, 3),
            ),
        ),
    ),
    Profile(
        name="status-poller",
        why="Monitoring; a handful of directory paths round the clock, never 500 distinct ones.",
        cp1=True,
        roles=("Organization.Read.All", "Directory.Read.All"),
        inventory_role="monitoring",
        activities=(
            Activity(
                Api.GRAPH,
                (
                    "/v1.0/organization",
                    "/v1.0/servicePrincipals?$top=1",
                    "/v1.0/groups?$top=1",
                    "/v1.0/users?$top=1",
                ),
                every=timedelta(seconds=45),
            ),
        ),
    ),
    Profile(
        name="vendor-crm-sync",
        why="A vendor's multi-tenant app: Conditional Access for workloads does not cover it.",
        kind=PrincipalKind.MULTITENANT_APPLICATION,
        roles=("Contacts.Read",),
        country="IE",
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/users/{id}/contacts", "/v1.0/users/{id}/contactFolders"),
                every=timedelta(minutes=1),
                hours=(6, 20),
                weekend=0.3,
                pool=60,
            ),
        ),
    ),
    Profile(
        name="func-group-sync",
        why="A managed identity: its sign-ins carry no address, ID Protection and Conditional Access ignore it.",
        kind=PrincipalKind.MANAGED_IDENTITY,
        roles=("Group.Read.All",),
        activities=(
            Activity(Api.GRAPH, ("/v1.0/groups/{id}/members",), every=timedelta(minutes=4), pool=25),
            Activity(Api.VAULT, ("kv-platform/secrets/telemetry-key",), every=timedelta(hours=2)),
        ),
    ),
    Profile(
        name="helpdesk-agent",
        why="An agent identity under the blueprint helpdesk-blueprint; answers people from the knowledge site.",
        kind=PrincipalKind.AGENT_IDENTITY,
        roles=("Sites.Read.All", "User.Read.All"),
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/users/{id}/manager", "/v1.0/users/{id}/memberOf"),
                every=timedelta(seconds=90),
                hours=(6, 18),
                weekend=0.1,
                pool=120,
            ),
            Activity(
                Api.SHAREPOINT,
                tuple(f"knowledge/article-{number:02d}.aspx" for number in range(30)),
                every=timedelta(minutes=3),
                hours=(6, 18),
                weekend=0.1,
            ),
        ),
    ),
    Profile(
        name="project-scraper",
        why="A flaky agent: every tenth call is a 404 and a few are 403, over two paths; near miss of AG-07.",
        roles=("Sites.Read.All",),
        activities=(
            Activity(
                Api.GRAPH,
                ("/v1.0/sites/{id}/lists", "/v1.0/sites/{id}/drive/root/children"),
                every=timedelta(seconds=70),
                hours=(4, 22),
                weekend=0.4,
                pool=70,
                failures={404: 0.10, 403: 0.03},
            ),
        ),
    ),
    Profile(
        name="expense-bot",
        why="Two days old, still learning: what is new for it says nothing yet.",
        active_days=2,
        cp1=True,
        roles=("Sites.Read.All",),
        activities=(
            Activity(
                Api.SHAREPOINT,
                tuple(f"projects/expense-{number:02d}.xlsx" for number in range(20)),
                every=timedelta(minutes=4),
                hours=(6, 20),
            ),
            Activity(Api.GRAPH, ("/v1.0/sites/projects/lists",), every=timedelta(minutes=6), hours=(6, 20)),
        ),
    ),
)


@dataclass(frozen=True)
class Member:
    """A profile and the principal that lives it."""

    profile: Profile
    principal: Principal

    @property
    def name(self) -> str:
        """The display name."""
        return self.principal.display_name


@dataclass(frozen=True)
class Population:
    """
    All principals of the tenant that act.

    ``watchlist`` holds the rows of the watchlist ``AgentInventory``: SearchKey (object id), DisplayName, Role,
    DeclaredResources (space-separated), ExpiresOn.
    """

    rogue: Member
    benign: tuple[Member, ...]
    watchlist: tuple[Mapping[str, str], ...]

    def __iter__(self) -> Iterator[Member]:
        yield self.rogue
        yield from self.benign

    def named(self, name: str) -> Member:
        """
        Find a member by display name.

        Raises: KeyError.
        """
        for member in self:
            if member.name == name:
                return member
        raise KeyError(name)


def build_population(tenant: Tenant, *, scale: int = 1) -> Population:
    """
    Add the rogue and ``scale`` principals of every benign profile to the tenant.

    Raises: ValueError for a scale below 1. Copies are called ``name-2``, ``name-3`` and so on.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, must be at least 1")
    rogue = Member(INVOICE_READER, _add(tenant, INVOICE_READER, INVOICE_READER.name, 0))
    benign: list[Member] = []
    for copy in range(1, scale + 1):
        for profile in BENIGN:
            name = profile.name if copy == 1 else f"{profile.name}-{copy}"
            benign.append(Member(profile, _add(tenant, profile, name, len(benign) + 1)))
    members = (rogue, *benign)
    return Population(
        rogue, tuple(benign), tuple(_inventory_row(member, tenant.clock.now()) for member in members)
    )


def _add(tenant: Tenant, profile: Profile, name: str, index: int) -> Principal:
    object_id, app_id = made_up_id(f"{name}/object"), made_up_id(f"{name}/app")
    created = tenant.clock.now() - (
        timedelta(days=200) if profile.active_days >= 14 else timedelta(days=profile.active_days)
    )
    # One address a principal, from the three documentation ranges in turn.
    address = f"{('192.0.2', '198.51.100', '203.0.113')[index % 3]}.{10 + index // 3 % 240}"
    if profile.kind is PrincipalKind.MANAGED_IDENTITY:
        return tenant.add_managed_identity(
            name,
            object_id=object_id,
            app_id=app_id,
            app_roles=profile.roles,
            created_at=created,
            ip_address=address,
        )
    if profile.kind is PrincipalKind.AGENT_IDENTITY:
        blueprint = tenant.add_agent_blueprint(
            f"{name}-blueprint",
            object_id=made_up_id(f"{name}-blueprint/object"),
            app_id=made_up_id(f"{name}-blueprint/app"),
        )
        return tenant.add_agent_identity(
            name,
            blueprint=blueprint,
            object_id=object_id,
            app_id=app_id,
            app_roles=profile.roles,
            created_at=created,
            client_capabilities_cp1=profile.cp1,
            ip_address=address,
            country=profile.country,
            user_agent=profile.user_agent,
        )
    vendor = profile.kind is PrincipalKind.MULTITENANT_APPLICATION
    return tenant.add_application(
        name,
        object_id=object_id,
        app_id=app_id,
        sign_in_audience="AzureADMultipleOrgs" if vendor else "AzureADMyOrg",
        app_owner_organization_id=made_up_id(f"{name}/owner-tenant") if vendor else None,
        app_roles=profile.roles,
        created_at=created,
        client_capabilities_cp1=profile.cp1,
        ip_address=address,
        country=profile.country,
        user_agent=profile.user_agent,
    )


def _inventory_row(member: Member, now: datetime) -> Mapping[str, str]:
    return {
        "SearchKey": member.principal.object_id,
        "DisplayName": member.name,
        "Role": member.profile.inventory_role,
        "DeclaredResources": " ".join(sorted({activity.api for activity in member.profile.activities})),
        "ExpiresOn": (now.astimezone(UTC) + timedelta(days=365)).date().isoformat(),
    }
