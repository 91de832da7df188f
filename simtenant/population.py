"""
Who lives in the simulated tenant: benign agents of many kinds, and the one that will go rogue.

A profile says what a principal is and what it does over and over. The same profile drives its fourteen days of
history (``simtenant/history.py``) and its live traffic (``simtenant/agents.py``), so that a baseline learned from
the one fits the other. Several benign profiles are near misses of a rule on purpose, and say so.

Names end in example.com, addresses are from the documentation ranges (RFC 5737), ids are uuid5 of the names.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

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
    """Which service an activity calls. ARM, Storage and Log Analytics exist in the logs only, nothing serves them live."""

    GRAPH = "graph"
    SHAREPOINT = "sharepoint"
    VAULT = "vault"
    ARM = "arm"
    STORAGE = "storage"
    LOGS = "logs"


class Credential(StrEnum):
    """What a principal proves itself with; the values are those of ``ClientCredentialType`` in the sign-in logs."""

    SECRET = "clientSecret"  # noqa: S105  # the name of a kind
    CERTIFICATE = "certificate"
    FEDERATED = "federatedIdentityCredential"
    ASSERTION = "clientAssertion"  # an agent identity presents its blueprint's token
    MANAGED = "managedIdentity"


EVERY_DAY: Final = (1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class Activity:
    """
    Calls that a principal makes again and again.

    ``path`` may hold ``{id}``, which stands for one of ``pool`` made-up GUIDs. ``paths`` are used in turn. SharePoint
    paths are ``site/file``, Key Vault paths ``vault/secrets/name``, Storage paths ``account/container/blob``, ARM paths
    what follows ``/subscriptions/<id>/resourcegroups/``. ``method`` is the HTTP method for Graph and Key Vault and the
    operation as logged for the others; a GET of SharePoint is logged as ``FileAccessed``.

    ``hours`` is the working window in UTC, ``weekend`` the share of it that remains on Saturday and Sunday, ``weekdays``
    the days (ISO, Monday is 1) and ``cycle`` every how many days, counted back from the end, it happens at all. ``ebb``
    is the share of its calls that the quietest hour loses; with a ``tail`` above 1 most hours are quiet, and few very busy.
    ``last_days`` makes it new: only the last days have it; ``first_days`` makes it over: only the first have it.
    ``failures`` maps an HTTP status to its share of the calls. With ``refusal`` (an AADSTS number) no call is made,
    because no token is given; the sign-in fails. ``size`` is about how many bytes a blob has.
    """

    api: Api
    paths: tuple[str, ...]
    every: timedelta
    method: str = "GET"
    hours: tuple[int, int] = (0, 24)
    weekend: float = 1.0
    pool: int = 40
    failures: Mapping[int, float] = field(default_factory=dict)
    weekdays: tuple[int, ...] = EVERY_DAY
    cycle: int = 1
    ebb: float = 0.0
    tail: int = 1
    last_days: int | None = None
    first_days: int | None = None
    refusal: str = ""
    size: int = 0


@dataclass(frozen=True)
class Profile:
    """
    What a principal is, does and is declared to be.

    ``library`` is what the sign-in log says of the client's library (nothing where empty), ``upgrades`` maps days before
    the end of the history to the library from then on. ``rotates_every`` days the rotation pipeline gives it a new key.
    ``places`` are pairs of country and address; ``roams`` says how they are used: every call from any of them
    (``call``: many workers behind one token) or every token from one (``token``). Without places it has one address of
    its own in ``country``. ``moved`` is days before the end, country and address: since that midnight it runs there.
    ``dormant_days`` is how long before the end it last signed in, for one without activities.
    ``inventory_role`` is empty for a principal that nobody declared; ``change_window`` are days before the tenant's now
    between which a deployment pipeline may change things.
    """

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
    library: str = "MSAL.Python"
    upgrades: Mapping[int, str] = field(default_factory=dict)
    credential: Credential = Credential.SECRET
    rotates_every: int = 0
    places: tuple[tuple[str, str], ...] = ()
    roams: Literal["call", "token"] = "call"
    moved: tuple[int, str, str] | None = None
    blueprint: str = ""
    dormant_days: int | None = None
    change_window: tuple[int, int] | None = None
    enabled: bool = True
    expired: bool = False


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
        rotates_every=7,
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
                every=timedelta(seconds=10),
                hours=(0, 4),
                pool=9_000,
            ),
        ),
    ),
    Profile(
        name="release-pipeline",
        rotates_every=1,
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
        inventory_role="rotation-pipeline",
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
    """A profile and the principal that lives it; ``blueprint`` is an agent identity's."""

    profile: Profile
    principal: Principal
    blueprint: Principal | None = None

    @property
    def name(self) -> str:
        """The display name."""
        return self.principal.display_name


@dataclass(frozen=True)
class Population:
    """
    All principals of the tenant that act.

    ``watchlist`` holds the rows of the watchlist ``AgentInventory``, with the columns of ``INVENTORY_COLUMNS``.
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


INVENTORY_COLUMNS: Final = (
    "SearchKey",
    "DisplayName",
    "Role",
    "DeclaredResources",
    "Owner",
    "AgentId",
    "ChangeWindowStart",
    "ChangeWindowEnd",
    "ExpiresOn",
)


def build_population(tenant: Tenant, *, scale: int = 1) -> Population:
    """
    Add the rogue and ``scale`` principals of every benign profile to the tenant.

    Raises: ValueError for a scale below 1. Copies are called ``name-2``, ``name-3`` and so on.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, must be at least 1")
    profiles = [
        profile if copy == 1 else replace(profile, name=f"{profile.name}-{copy}")
        for copy in range(1, scale + 1)
        for profile in BENIGN
    ]
    return settle(tenant, INVOICE_READER, profiles)


def settle(tenant: Tenant, rogue: Profile, benign: Iterable[Profile]) -> Population:
    """Add a principal for every profile to the tenant. Raises: ValueError when two have one name."""
    members = [
        Member(profile, *_add(tenant, profile, index)) for index, profile in enumerate((rogue, *benign))
    ]
    now = tenant.clock.now()
    declared = tuple(_inventory_row(member, now) for member in members if member.profile.inventory_role)
    return Population(members[0], tuple(members[1:]), declared)


def _add(tenant: Tenant, profile: Profile, index: int) -> tuple[Principal, Principal | None]:
    name = profile.name
    object_id, app_id = made_up_id(f"{name}/object"), made_up_id(f"{name}/app")
    now = tenant.clock.now()
    created = now - timedelta(days=profile.active_days if profile.active_days < 14 else 200)
    if profile.dormant_days is not None:
        created = now - timedelta(days=profile.dormant_days + 300)
    # One address a principal, from the three documentation ranges in turn.
    address = f"{('192.0.2', '198.51.100', '203.0.113')[index % 3]}.{10 + index // 3 % 240}"
    country = profile.country
    if profile.places:
        country, address = profile.places[0]
    if profile.kind is PrincipalKind.MANAGED_IDENTITY:
        managed = tenant.add_managed_identity(
            name,
            object_id=object_id,
            app_id=app_id,
            app_roles=profile.roles,
            created_at=created,
            ip_address=address,
        )
        managed.user_agent = profile.user_agent
        managed.account_enabled = profile.enabled
        return managed, None
    if profile.kind is PrincipalKind.AGENT_IDENTITY:
        blueprint_name = profile.blueprint or f"{name}-blueprint"
        blueprint = tenant.principal_by_app_id(made_up_id(f"{blueprint_name}/app"))
        if blueprint is None:
            blueprint = tenant.add_agent_blueprint(
                blueprint_name,
                object_id=made_up_id(f"{blueprint_name}/object"),
                app_id=made_up_id(f"{blueprint_name}/app"),
            )
            # One process asks for both tokens, so both sign-ins come from one place.
            blueprint.ip_address, blueprint.country = address, country
            blueprint.user_agent = profile.user_agent
        agent = tenant.add_agent_identity(
            name,
            blueprint=blueprint,
            object_id=object_id,
            app_id=app_id,
            app_roles=profile.roles,
            created_at=created,
            client_capabilities_cp1=profile.cp1,
            ip_address=address,
            country=country,
            user_agent=profile.user_agent,
        )
        return agent, blueprint
    vendor = profile.kind is PrincipalKind.MULTITENANT_APPLICATION
    application = tenant.add_application(
        name,
        object_id=object_id,
        app_id=app_id,
        sign_in_audience="AzureADMultipleOrgs" if vendor else "AzureADMyOrg",
        app_owner_organization_id=made_up_id(f"{name}/owner-tenant") if vendor else None,
        app_roles=profile.roles,
        created_at=created,
        account_enabled=profile.enabled,
        client_capabilities_cp1=profile.cp1,
        ip_address=address,
        country=country,
        user_agent=profile.user_agent,
        certificate=profile.credential is Credential.CERTIFICATE,
        credential_ends=created + timedelta(days=90) if profile.expired else None,
    )
    return application, None


def _inventory_row(member: Member, now: datetime) -> Mapping[str, str]:
    profile = member.profile
    opens, closes = ("", "")
    if profile.change_window is not None:
        opens, closes = (
            (now - timedelta(days=days)).astimezone(UTC).isoformat(timespec="seconds")
            for days in profile.change_window
        )
    values = (
        member.principal.object_id,
        member.name,
        profile.inventory_role,
        " ".join(sorted({activity.api for activity in profile.activities})),
        "owner@example.com",
        "",
        opens,
        closes,
        (now.astimezone(UTC) + timedelta(days=365)).date().isoformat(),
    )
    return dict(zip(INVENTORY_COLUMNS, values, strict=True))
