"""
A tenant of ordinary size: more than two hundred benign principals of more than thirty kinds, as one meets them.

What rules are measured against: nobody here has gone astray, so every finding is noise. A kind is a profile for each of
its members, varied by number (size, hours, place, library, credential), so that no two are alike. Kinds that come near
a rule on purpose name it in ``why``. Together their fourteen days are about half a million rows. The demo and the live
agents use the small population of ``simtenant/population.py``; these live in the logs only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from simtenant.population import (
    INVOICE_READER,
    VAULTS,
    Activity,
    Api,
    Credential,
    Population,
    Profile,
    settle,
)
from simtenant.tenant import PrincipalKind, Tenant

WEEKDAYS: Final = (1, 2, 3, 4, 5)

_MINUTE: Final = timedelta(minutes=1)
_PACE: Final = 0.7
_LIBRARIES: Final = ("MSAL.Python 1.28.0", "MSAL.NetCore 4.61.3", "MSAL.Node 2.9.2", "MSAL4J 1.15.0")
_AGENTS: Final = (
    "azsdk-python-identity/1.16.0 Python/3.11.9 (Linux)",
    "azsdk-net-Identity/1.11.3 (.NET 8.0.4)",
    "azsdk-js-identity/4.2.0 core-rest-pipeline/1.15.2 Node/20.12.2",
    "azsdk-java-identity/1.12.0 (17.0.11; Linux)",
)
_COUNTRIES: Final = ("DE", "NL", "IE", "US")
# Whole documentation ranges stand for the outgoing addresses of one cloud region.
_REGIONS: Final = ("192.0.2", "198.51.100", "203.0.113")
_VAULTS: Final = tuple((vault, secret) for vault, secrets in VAULTS.items() for secret in secrets)


@dataclass(frozen=True)
class Kind:
    """Principals of one sort: how many, and the profile of each by its number, from 0."""

    name: str
    count: int
    why: str
    profile: Callable[[int], Profile]

    def profiles(self) -> list[Profile]:
        """Give the profile of every member, named after the kind."""
        return [
            replace(self.profile(number), name=f"{self.name}-{number + 1:02}", why=self.why)
            for number in range(self.count)
        ]


def wide_population(tenant: Tenant) -> Population:
    """Add every member of every kind to the tenant, and an invoice reader for stories to let go astray."""
    return settle(
        tenant, INVOICE_READER, [_quickened(profile) for kind in KINDS for profile in kind.profiles()]
    )


def _quickened(profile: Profile) -> Profile:
    """Let a profile call Graph a little more often than it says: by so much that all have half a million rows."""
    activities = tuple(
        replace(one, every=one.every * _PACE) if one.api is Api.GRAPH and one.method == "GET" else one
        for one in profile.activities
    )
    return replace(profile, activities=activities)


def _one(
    number: int,
    *activities: Activity,
    kind: PrincipalKind = PrincipalKind.APPLICATION,
    roles: tuple[str, ...] = (),
    declared: str = "",
    cp1: bool = False,
) -> Profile:
    """Make a profile whose country, library and credential follow from its number."""
    certificate = number % 3 == 1
    return Profile(
        name="",
        why="",
        activities=activities,
        kind=kind,
        roles=roles,
        cp1=cp1 and kind is PrincipalKind.APPLICATION,
        inventory_role=declared,
        user_agent=_AGENTS[number % 4],
        library=_LIBRARIES[number % 4],
        country=_COUNTRIES[number % 4],
        credential=Credential.CERTIFICATE if certificate else Credential.SECRET,
    )


def _graph(
    *paths: str,
    every: timedelta,
    pool: int = 40,
    hours: tuple[int, int] = (0, 24),
    weekend: float = 1.0,
    method: str = "GET",
    ebb: float = 0.4,
    failures: Mapping[int, float] = MappingProxyType({}),
    weekdays: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7),
    cycle: int = 1,
) -> Activity:
    """Make calls of Graph v1.0; paths begin behind the version."""
    return Activity(
        Api.GRAPH,
        tuple(f"/v1.0{path}" for path in paths),
        every=every,
        method=method,
        pool=pool,
        hours=hours,
        weekend=weekend,
        ebb=ebb,
        failures=failures,
        weekdays=weekdays,
        cycle=cycle,
    )


def _secrets(number: int, count: int) -> tuple[str, ...]:
    """Choose some of the secrets that exist, from one vault or two, always the same for a number."""
    chosen = [_VAULTS[(number * 2 + step) % len(_VAULTS)] for step in range(count)]
    return tuple(f"{vault}/secrets/{secret}" for vault, secret in chosen)


def _region(number: int, size: int) -> tuple[tuple[str, str], ...]:
    """List the outgoing addresses of a cloud region, all in one country."""
    return tuple(
        (_COUNTRIES[number % 4], f"{_REGIONS[number % 3]}.{host}")
        for host in range(1 + number, 1 + number + size)
    )


def _mail_summariser(number: int) -> Profile:
    office = _graph(
        "/users/{id}/messages",
        "/users/{id}/mailFolders/inbox/messages",
        every=timedelta(seconds=120 + 25 * number),
        hours=(6 + number % 3, 18 + number % 3),
        weekend=0.1,
        pool=15 + 14 * number,
    )
    return _one(number, office, roles=("Mail.Read",), declared="agent", cp1=number % 2 == 0)


def _directory_inventory(number: int) -> Profile:
    types = ("users/{id}/memberOf", "groups/{id}/members", "applications/{id}/owners")
    more = ("servicePrincipals/{id}/memberOf", "devices/{id}/registeredOwners")
    nightly = _graph(
        *(f"/{path}" for path in (*types, *more)),
        every=timedelta(seconds=6),
        hours=(2 + number, 3 + number),
        pool=4_000,
        ebb=0.05,
    )
    return _one(number, nightly, roles=("Directory.Read.All",), declared="directory-tool")


def _vault_web_app(number: int) -> Profile:
    """Read all settings at a restart in the morning, some of them all day."""
    start = 3 + number % 4
    settings = _secrets(number, 3 + number % 4)
    vault = settings[0].partition("/")[0]
    return _one(
        number,
        Activity(
            Api.VAULT, (f"{vault}/secrets", *settings), every=2 * _MINUTE, hours=(start, start + 1), ebb=0.3
        ),
        Activity(Api.VAULT, settings[:1], every=(50 + 7 * number) * _MINUTE, hours=(start + 1, 24), ebb=0.3),
    )


def _vault_worker(number: int) -> Profile:
    return _one(number, Activity(Api.VAULT, _secrets(number, 2), every=(25 + 4 * number) * _MINUTE, ebb=0.3))


def _drive_backup(number: int) -> Profile:
    copied = _graph(
        "/drives/{id}/root/delta",
        "/drives/{id}/items/root/content",
        every=timedelta(seconds=9 + 3 * number),
        hours=(number % 3, 3 + number % 3),
        pool=900 * (number + 1),
        ebb=0.2,
    )
    return _one(number, copied, roles=("Files.Read.All",), declared="agent" if number % 2 else "")


def _deployer(number: int) -> Profile:
    group = f"rg-app-{number:02}"
    provider = f"{group}/providers"
    deployments = (
        ("MICROSOFT.RESOURCES/DEPLOYMENTS/WRITE", f"{provider}/microsoft.resources/deployments/{{id}}", 60),
        ("MICROSOFT.WEB/SITES/WRITE", f"{provider}/microsoft.web/sites/app-{number:02}", 90),
        (
            "MICROSOFT.INSIGHTS/COMPONENTS/WRITE",
            f"{provider}/microsoft.insights/components/app-{number:02}",
            150,
        ),
    )
    changes = tuple(
        Activity(
            Api.ARM, (path,), method=operation, every=minutes * _MINUTE, hours=(7, 17), weekend=0.0, ebb=0.5
        )
        for operation, path, minutes in deployments
    )
    secrets = Activity(
        Api.VAULT,
        ("kv-platform/secrets/deploy-token", "kv-platform/secrets/registry-pull"),
        every=45 * _MINUTE,
        hours=(7, 17),
        weekend=0.0,
        ebb=0.3,
    )
    made = _one(number, *changes, secrets, declared="deployment-pipeline")
    return replace(made, change_window=(20, -20))


def _rotation_broker(number: int) -> Profile:
    return _one(
        number,
        _graph("/applications/{id}/owners", every=10 * _MINUTE, hours=(1, 3), pool=8, ebb=0.1),
        # Of what it rotates: the audit rows come with the keys (simtenant/history.py).
        Activity(
            Api.VAULT,
            ("kv-platform/secrets/deploy-token", "kv-platform/secrets/smtp-relay"),
            every=20 * _MINUTE,
            hours=(1, 3),
        ),
        roles=("Application.ReadWrite.OwnedBy",),
        declared="rotation-pipeline",
    )


def _status_poller(number: int) -> Profile:
    paths = ("/organization", "/servicePrincipals?$top=1", "/groups?$top=1", "/users?$top=1")
    return _one(
        number,
        _graph(*paths, every=timedelta(seconds=400 + 60 * number), ebb=0.05),
        roles=("Organization.Read.All", "Directory.Read.All"),
        cp1=True,
    )


def _vendor_sync(number: int) -> Profile:
    object_type = ("contacts", "events", "calendar/events")[number % 3]
    synced = _graph(
        f"/users/{{id}}/{object_type}",
        every=(6 + number) * _MINUTE,
        hours=(6, 20),
        weekend=0.3,
        pool=30 + 8 * number,
    )
    made = _one(number, synced, kind=PrincipalKind.MULTITENANT_APPLICATION, roles=("Contacts.Read",))
    return replace(made, country=("IE", "US")[number % 2])


def _function(number: int) -> Profile:
    """Do what a managed identity of a function app does: groups, a secret, or blobs."""
    groups = _graph("/groups/{id}/members", every=(14 + 2 * number) * _MINUTE, pool=8 + number)
    secret = Activity(Api.VAULT, _secrets(number, 1), every=150 * _MINUTE, ebb=0.2)
    blobs = Activity(
        Api.STORAGE,
        (f"stfunc{number:02}/queue/work-{{id}}.json",),
        method="GetBlob",
        every=(12 + number) * _MINUTE,
        pool=400,
        size=6_000,
        ebb=0.4,
    )
    work = ((groups, secret), (groups,), (blobs, secret), (secret,))[number % 4]
    made = _one(number, *work, kind=PrincipalKind.MANAGED_IDENTITY, roles=("Group.Read.All",))
    return replace(made, user_agent="azsdk-net-Identity/1.11.3 (.NET 8.0.4)", credential=Credential.MANAGED)


def _agent_identity(number: int) -> Profile:
    """Answer people, as one of several agents of a blueprint."""
    hours = (6 + number % 2, 17 + number % 3)
    knowledge = Activity(
        Api.SHAREPOINT,
        tuple(f"knowledge/article-{page:02}.aspx" for page in range(10 + number)),
        every=(9 + number) * _MINUTE,
        hours=hours,
        weekend=0.1,
        ebb=0.4,
    )
    people = _graph(
        "/users/{id}/manager",
        "/users/{id}/memberOf",
        every=(7 + number) * _MINUTE,
        hours=hours,
        weekend=0.1,
        pool=40 + 5 * number,
    )
    work = (knowledge, people) if number % 2 else (people,)
    made = _one(
        number,
        *work,
        kind=PrincipalKind.AGENT_IDENTITY,
        roles=("Sites.Read.All", "User.Read.All"),
        declared="agent",
    )
    return replace(made, blueprint=f"blueprint-{number % 4 + 1}", credential=Credential.ASSERTION)


def _scraper(number: int) -> Profile:
    scraped = _graph(
        "/sites/{id}/lists",
        "/sites/{id}/drive/root/children",
        every=timedelta(seconds=240 + 40 * number),
        hours=(4, 22),
        weekend=0.4,
        pool=70,
        failures={404: 0.10, 403: 0.03 + 0.01 * number},
    )
    return _one(number, scraped, roles=("Sites.Read.All",))


def _newcomer(number: int) -> Profile:
    lists = _graph("/sites/projects/lists", every=(8 + number) * _MINUTE, hours=(6, 20))
    files = Activity(
        Api.SHAREPOINT,
        tuple(f"projects/plan-{page:02}.xlsx" for page in range(12)),
        every=(6 + number) * _MINUTE,
        hours=(6, 20),
        ebb=0.3,
    )
    made = _one(number, lists, files, roles=("Sites.Read.All",))
    return replace(made, active_days=2)


def _autoscaler(number: int) -> Profile:
    calls = _graph(
        "/users/{id}/events", every=timedelta(seconds=200 + 30 * number), pool=90, hours=(5, 22), weekend=0.5
    )
    made = _one(number, calls, roles=("Calendars.Read",))
    return replace(made, places=_region(number, 30 + 10 * number))


def _weekly_report(number: int) -> Profile:
    """Work through everything on one morning a week."""
    day = 1 + number % 2  # Monday or Tuesday
    report = _graph(
        "/reports/getOffice365ActiveUserDetail(period='D7')",
        "/groups/{id}/members",
        every=timedelta(seconds=20 + 5 * number),
        hours=(5 + number % 3, 6 + number % 3),
        pool=120,
        weekdays=(day,),
        ebb=0.1,
    )
    return _one(number, report, roles=("Reports.Read.All", "Group.Read.All"))


def _rare_batch(number: int) -> Profile:
    """Archive in bulk every ninth day, and nothing in between."""
    archive = Activity(
        Api.STORAGE,
        (f"starchive{number:02}/closed/period-{{id}}.zip",),
        method="GetBlob",
        every=timedelta(seconds=40),
        hours=(1, 3),
        pool=3_000,
        size=4_000_000,
        cycle=9,
    )
    return _one(number, archive)


def _blob_pipeline(number: int) -> Profile:
    start = number % 5
    read = Activity(
        Api.STORAGE,
        (f"stlake{number % 3}/raw/part-{{id}}.parquet",),
        method="GetBlob",
        every=timedelta(seconds=25 + 4 * number),
        hours=(start, start + 2),
        pool=2_500,
        size=3_000_000 + 500_000 * number,
        ebb=0.3,
    )
    listed = Activity(
        Api.STORAGE,
        (f"stlake{number % 3}/raw",),
        method="ListBlobs",
        every=20 * _MINUTE,
        hours=(start, start + 2),
        size=20_000,
    )
    written = Activity(
        Api.STORAGE,
        (f"stlake{number % 3}/curated/part-{{id}}.parquet",),
        method="PutBlob",
        every=timedelta(seconds=120),
        hours=(start, start + 2),
        pool=2_500,
        size=1_000_000,
        ebb=0.3,
    )
    made = _one(number, read, listed, written)
    if number % 3 == 0:
        return replace(made, kind=PrincipalKind.MANAGED_IDENTITY, credential=Credential.MANAGED)
    return made


def _site_indexer(number: int) -> Profile:
    index = Activity(
        Api.SHAREPOINT,
        tuple(f"{site}/page-{page:03}.aspx" for site in ("knowledge", "projects") for page in range(60)),
        method="FileDownloaded",
        every=timedelta(seconds=50 + 10 * number),
        hours=(20, 23),
        ebb=0.2,
    )
    delta = _graph("/sites/{id}/drive/root/delta", every=12 * _MINUTE, hours=(19, 23), pool=20)
    return _one(number, index, delta, roles=("Sites.Read.All",), declared="agent")


def _key_rotator(number: int) -> Profile:
    mail = _graph(
        "/users/{id}/calendarView", every=(11 + number) * _MINUTE, hours=(5, 21), pool=50, weekend=0.4
    )
    made = _one(number, mail, roles=("Calendars.Read",))
    return replace(made, rotates_every=5)


def _patch_bumper(number: int) -> Profile:
    """Get a new patch of its library some day; the first two on the last day, two a minor version."""
    chat = _graph("/users/{id}/presence", every=(9 + number) * _MINUTE, hours=(6, 20), pool=60, weekend=0.2)
    made = _one(number, chat, roles=("Presence.Read.All",))
    upgrades = {1: "MSAL.Python 1.28.1"} if number < 2 else {2 + number: "MSAL.Python 1.28.1"}
    if number in {4, 5}:
        upgrades = {number - 3: "MSAL.Python 1.29.0"}
    return replace(made, library=_LIBRARIES[0], user_agent=_AGENTS[0], upgrades=upgrades)


def _governance_reader(number: int) -> Profile:
    """Look at roles and who has them, a few objects of four types all day long."""
    roles = _graph(
        "/roleManagement/directory/roleAssignments",
        "/roleManagement/directory/roleDefinitions",
        "/servicePrincipals/{id}/appRoleAssignments",
        "/groups/{id}/members",
        "/users/{id}/memberOf",
        every=(12 + 3 * number) * _MINUTE,
        hours=(5, 19),
        pool=25,
    )
    made = _one(number, roles, roles=("RoleManagement.Read.Directory", "Directory.Read.All"))
    return replace(made, inventory_role="directory-tool" if number == 0 else "")


def _chat_bot(number: int) -> Profile:
    posts = _graph(
        "/chats/{id}/messages",
        method="POST",
        every=(12 + number) * _MINUTE,
        hours=(6, 19),
        pool=25,
        weekend=0.2,
    )
    reads = _graph("/chats/{id}/messages", every=(8 + number) * _MINUTE, hours=(6, 19), pool=25, weekend=0.2)
    return _one(number, posts, reads, roles=("Chat.ReadWrite.All",), declared="agent")


def _device_ingestion(number: int) -> Profile:
    put = Activity(
        Api.STORAGE,
        (f"stiot{number:02}/telemetry/batch-{{id}}.avro",),
        method="PutBlob",
        every=timedelta(seconds=420 + 60 * number),
        pool=100_000,
        size=80_000,
        ebb=0.3,
    )
    made = _one(number, put)
    return replace(made, places=_region(number, 60))


def _translator(number: int) -> Profile:
    read = _graph(
        "/drives/{id}/items/root/content",
        every=(14 + 2 * number) * _MINUTE,
        hours=(7, 18),
        pool=30,
        weekend=0.1,
    )
    written = replace(read, method="PUT", every=(20 + 3 * number) * _MINUTE)
    return _one(number, read, written, roles=("Files.ReadWrite.All",), declared="agent", cp1=True)


def _stale_job(number: int) -> Profile:
    """Ask for a token with a secret that ended last month, and never get one."""
    knock = Activity(Api.GRAPH, ("/v1.0/users",), every=(30 + 15 * number) * _MINUTE, refusal="7000222")
    return replace(_one(number, knock), expired=True)


def _two_regions(number: int) -> Profile:
    calls = _graph("/users/{id}/messages", every=(6 + number) * _MINUTE, pool=12)
    places = (("IE", f"192.0.2.{200 + number}"), ("NL", f"203.0.113.{200 + number}"))
    return replace(_one(number, calls, roles=("Mail.Read",)), places=places, roams="token")


def _hosted_build(number: int) -> Profile:
    """Build on hosted runners: federated, another address every time."""
    calls = Activity(
        Api.ARM,
        (f"rg-build-{number:02}/providers/microsoft.containerregistry/registries/cr{number:02}",),
        method="MICROSOFT.CONTAINERREGISTRY/REGISTRIES/LISTCREDENTIALS/ACTION",
        every=75 * _MINUTE,
        hours=(6, 20),
        weekend=0.2,
        ebb=0.4,
    )
    made = _one(number, calls, declared="deployment-pipeline")
    return replace(
        made,
        places=_region(number, 120),
        roams="token",
        credential=Credential.FEDERATED,
        change_window=(20, -20),
    )


def _app_vending(number: int) -> Profile:
    made = _graph(
        "/applications",
        "/servicePrincipals",
        method="POST",
        every=timedelta(hours=4),
        hours=(8, 16),
        weekend=0.0,
        ebb=0,
    )
    read = _graph("/applications/{id}/owners", every=30 * _MINUTE, hours=(7, 17), weekend=0.0, pool=10)
    profile = _one(
        number, made, read, roles=("Application.ReadWrite.OwnedBy",), declared="deployment-pipeline"
    )
    return replace(profile, change_window=(20, -20))


def _people_sync(number: int) -> Profile:
    read = _graph("/users/delta", every=20 * _MINUTE, hours=(4, 20))
    written = _graph("/users/{id}", method="PATCH", every=40 * _MINUTE, hours=(4, 20), pool=150, weekend=0.1)
    return _one(number, read, written, roles=("User.ReadWrite.All",))


def _notifier(number: int) -> Profile:
    told = _graph(
        "/teams/{id}/channels/general/messages",
        method="POST",
        every=(18 + 3 * number) * _MINUTE,
        hours=(5, 21),
        pool=15,
        weekend=0.3,
    )
    return _one(number, told, roles=("Teamwork.Migrate.All",))


def _calendar_assistant(number: int) -> Profile:
    read = _graph(
        "/users/{id}/calendarView", every=(10 + number) * _MINUTE, hours=(6, 18), pool=35, weekend=0.1
    )
    free = _graph(
        "/users/{id}/calendar/getSchedule",
        method="POST",
        every=(25 + number) * _MINUTE,
        hours=(6, 18),
        pool=35,
        weekend=0.1,
    )
    return _one(number, read, free, roles=("Calendars.Read",), declared="agent", cp1=number % 2 == 0)


def _log_reader(number: int) -> Profile:
    return _one(number, Activity(Api.LOGS, ("workspace",), every=(20 + 5 * number) * _MINUTE, ebb=0.2))


def _patch_manager(number: int) -> Profile:
    """Run a script on every machine at night."""
    scripts = Activity(
        Api.ARM,
        tuple(f"rg-servers/providers/microsoft.compute/virtualmachines/vm-{host:02}" for host in range(12)),
        method="MICROSOFT.COMPUTE/VIRTUALMACHINES/RUNCOMMAND/ACTION",
        every=10 * _MINUTE,
        hours=(2, 4),
        ebb=0.0,
    )
    made = _one(number, scripts, declared="deployment-pipeline")
    return replace(
        made, change_window=(20, -20), kind=PrincipalKind.MANAGED_IDENTITY, credential=Credential.MANAGED
    )


def _unversioned(number: int) -> Profile:
    """Sign in with a library that the log does not know: the user agent is all there is."""
    calls = _graph("/users/{id}/photo/$value", every=(15 + 2 * number) * _MINUTE, hours=(5, 22), pool=80)
    library = "Unknown 1.0.0" if number % 2 else ""
    return replace(_one(number, calls, roles=("User.Read.All",)), library=library, user_agent="curl/8.5.0")


def _sleeper(number: int) -> Profile:
    """Do nothing, for the longer the higher the number; some can still act, some cannot."""
    made = _one(number, roles=(("Mail.Read",), ("Sites.Read.All", "Directory.Read.All"), ())[number % 3])
    return replace(made, dormant_days=45 + 40 * number, enabled=number % 4 != 3, expired=number % 5 == 4)


def _event_driven(number: int) -> Profile:
    """Idle in most hours, very busy in some; the first two as busy as AG-05 begins to care for."""
    calls = _graph(
        "/users/{id}/drive/root/children",
        every=timedelta(seconds=5 if number < 2 else 24),
        hours=(8, 12) if number < 2 else (5, 20),
        pool=60,
        ebb=1.0,
    )
    return _one(number, replace(calls, tail=6), roles=("Files.Read.All",))


def _new_feature(number: int) -> Profile:
    """Get a new version, which reads something it never read, the day before the end."""
    old = _graph("/users/{id}/messages", every=(9 + number) * _MINUTE, hours=(6, 19), pool=30, weekend=0.2)
    path = ("/users/{id}/todo/lists", "/users/{id}/drive/root/children")[number % 2]
    new = replace(_graph(path, every=25 * _MINUTE, hours=(6, 19), pool=30), last_days=2)
    return _one(number, old, new, roles=("Mail.Read", "Tasks.Read.All", "Files.Read.All"), declared="agent")


def _moved(number: int) -> Profile:
    calls = _graph("/users/{id}/calendarView", every=8 * _MINUTE, pool=30)
    made = replace(
        _one(number, calls, roles=("Calendars.Read",)), places=(("NL", f"198.51.100.{220 + number}"),)
    )
    return replace(made, moved=(1, "IE", f"203.0.113.{220 + number}"))


def _paused(number: int) -> Profile:
    """Work for the first days, then no more."""
    calls = _graph("/users/{id}/calendarView", every=(15 + number) * _MINUTE, pool=20)
    return _one(number, replace(calls, first_days=4), roles=("Calendars.Read", "Mail.Read"))


def _new_secret(number: int) -> Profile:
    """Read one secret more since yesterday."""
    usual = Activity(Api.VAULT, ("kv-payments/secrets/ledger-db",), every=30 * _MINUTE, ebb=0.2)
    more = Activity(Api.VAULT, ("kv-payments/secrets/webhook-signing",), every=60 * _MINUTE, last_days=2)
    return _one(number, usual, more)


KINDS: Final = (
    Kind("mail-summariser", 14, "Reads the mail of a department in office hours.", _mail_summariser),
    Kind(
        "directory-inventory",
        2,
        "Enumerates the directory every night; declared. Near AG-08.",
        _directory_inventory,
    ),
    Kind(
        "vault-web-app",
        20,
        "Lists and reads all its secrets at a restart. Near AG-04 and AG-20.",
        _vault_web_app,
    ),
    Kind("vault-worker", 10, "Reads its two secrets round the clock. Near AG-04.", _vault_worker),
    Kind(
        "drive-backup",
        6,
        "Copies drives every night, many objects of one type. Near AG-06 and AG-08.",
        _drive_backup,
    ),
    Kind(
        "deployer",
        10,
        "Deploys in working hours through ARM; declared, with a change window. Near AG-24.",
        _deployer,
    ),
    Kind(
        "credential-broker",
        1,
        "Replaces the keys of others every few nights; declared. Near AG-15.",
        _rotation_broker,
    ),
    Kind(
        "status-poller", 8, "Polls four directory types all day, one object each. Near AG-08.", _status_poller
    ),
    Kind(
        "vendor-sync", 10, "A vendor's multi-tenant app. Conditional Access does not cover it.", _vendor_sync
    ),
    Kind(
        "function",
        22,
        "A managed identity: sign-ins without address or library. Near AG-10 and AG-13.",
        _function,
    ),
    Kind("assistant", 16, "An agent identity, one of four a blueprint.", _agent_identity),
    Kind("scraper", 6, "Gets 404 and 403 all day over two paths. Near AG-07.", _scraper),
    Kind("newcomer", 4, "Two days old: everything is new. Near AG-01 and AG-02.", _newcomer),
    Kind(
        "autoscaler",
        8,
        "Workers behind many addresses of one region and one token. Near AG-10, AG-13.",
        _autoscaler,
    ),
    Kind(
        "weekly-report",
        6,
        "Works through all groups on one morning a week. Near AG-05 and AG-06.",
        _weekly_report,
    ),
    Kind("rare-batch", 4, "Reads an archive in bulk every ninth day. Near AG-21 and AG-31.", _rare_batch),
    Kind("blob-pipeline", 12, "Reads a data lake in bulk every night. Near AG-21.", _blob_pipeline),
    Kind("site-indexer", 6, "Downloads every page of two sites every evening. Near AG-21.", _site_indexer),
    Kind(
        "key-rotator",
        6,
        "Gets a new key every five days from the broker. Near AG-12 and AG-15.",
        _key_rotator,
    ),
    Kind("patch-bumper", 8, "Upgrades its library by a patch or a minor version. Near AG-11.", _patch_bumper),
    Kind(
        "governance-reader",
        3,
        "Reads roles and assignments of five directory types. Near AG-08.",
        _governance_reader,
    ),
    Kind("chat-bot", 8, "Reads and answers chats.", _chat_bot),
    Kind(
        "device-ingestion",
        6,
        "Writes telemetry from sixty addresses. Near AG-10 and AG-21.",
        _device_ingestion,
    ),
    Kind("translator", 8, "Reads documents and writes translations beside them.", _translator),
    Kind("stale-job", 2, "Fails to sign in all day with an expired secret. Near AG-09.", _stale_job),
    Kind("two-regions", 3, "Runs in two countries in turn. Near AG-10.", _two_regions),
    Kind(
        "hosted-build",
        6,
        "Federated; another address each build, lists registry keys. Near AG-10, AG-22.",
        _hosted_build,
    ),
    Kind("app-vending", 1, "Makes two applications on a working day; declared. Near AG-16.", _app_vending),
    Kind("people-sync", 2, "Writes users from the personnel system.", _people_sync),
    Kind("notifier", 6, "Posts into channels.", _notifier),
    Kind("calendar-assistant", 8, "Reads calendars and looks for free time.", _calendar_assistant),
    Kind("log-reader", 6, "Queries Log Analytics; leaves sign-ins only.", _log_reader),
    Kind("patch-manager", 1, "Runs commands on machines at night; declared. Near AG-24.", _patch_manager),
    Kind(
        "unversioned",
        4,
        "Signs in with a client whose library the log does not know. Near AG-11.",
        _unversioned,
    ),
    Kind("event-driven", 5, "Idle most hours, very busy in a few. Near AG-05 and AG-06.", _event_driven),
    Kind("paused", 2, "Silent since the fourth day. Near AG-31, if it should wake.", _paused),
    # Nothing is wrong with these, but something is new: a rule about news may say so.
    Kind(
        "new-feature",
        2,
        "A new version reads something new since yesterday. May be found by AG-02.",
        _new_feature,
    ),
    Kind("moved", 1, "Runs in another country since yesterday. May be found by AG-10.", _moved),
    Kind("new-secret", 2, "Reads one more secret of its vault since yesterday. Near AG-20.", _new_secret),
    Kind("sleeper", 8, "Has not signed in for weeks or months; what the dormant report is about.", _sleeper),
)
