"""
Principals that nobody uses and that could still act: who, since when, with what, and what to do about each.

Nobody misses what an unused principal does, so it is what an intruder looks for. ``look`` asks Graph and the logs,
``judge`` is pure, ``write`` keeps the report. Nothing is done to anybody here: each entry proposes, and a person acts.

What could not be read stays unknown: it is shown, and then no more is proposed than to watch.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from clients.stores import Delete, Insert, Write
from clients.terms import Kind, NotAsked, ServicePrincipal, Unknown
from response import gathering

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clients.graph import HeldCredential, Listed, ListedApplication
    from clients.logs import Rows
    from clients.stores import Store
    from clients.terms import AppId, ObjectId
    from response.world import World

log = logging.getLogger("agentbreaker.dormant")

MAX_ENTRIES: Final = 1000
_AT_ONCE: Final = 4  # reads of Graph under way; a daily run has time, others have not
_VERSIONS: Final = 7  # reports kept
_PAGE_ENTRIES, _PAGE_SIZE, _REPORT_SIZE = (
    100,
    150_000,
    2_000_000,
)  # below what the store takes, see encoding.py
_NEWER: Final = timedelta(days=3)  # what the daily summary may not have yet is read from the table itself
_SHOWN: Final = 20  # permissions named of one entry
_TEXT: Final = 120  # characters kept of a name that came from a tenant
_NO_ROLE: Final = (
    "00000000-0000-0000-0000-000000000000"  # Graph's "default access": may sign in, no permission
)
SIGN_IN_REPORT_PERMISSION: Final = "AuditLog.Read.All"
NOT_READ: Final = ("directory roles", "Azure roles", "delegated permissions", "group memberships")


class Proposal(StrEnum):
    """What a person may do about it, from the mildest on."""

    WATCH = "watch"
    ASK_OWNER = "ask owner"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True)
class Options:
    """How long is dormant, and whether the beta report on sign-ins is read as well."""

    after: timedelta
    sign_in_report: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """
    When it last signed in. ``at`` None: not since ``since``, before which nobody looked.

    ``of_people``: whether people who sign in with the application would have been seen. They are in other logs than
    what the application does by itself; the report on sign-in activity has both.
    """

    at: datetime | None
    since: datetime
    of_people: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What is known of one principal.

    ``live`` says in words with what it can still sign in; ``permissions`` are application permissions by name;
    ``spared`` is why it must not be touched, empty where nothing speaks against it.
    """

    principal: ServicePrincipal
    created: datetime | Unknown
    signed_in: SignedIn | Unknown
    live: tuple[str, ...] | NotAsked | Unknown
    permissions: tuple[str, ...] | NotAsked | Unknown
    spared: str | Unknown


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the report. ``silent_since`` None: not known. ``display_name`` is untrusted text."""

    principal: ServicePrincipal
    proposal: Proposal
    reasons: tuple[str, ...]
    unknown: tuple[str, ...]
    silent_since: datetime | None
    last_sign_in: datetime | None
    created: datetime | None
    live: tuple[str, ...]
    permissions: tuple[str, ...]
    strong: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int, int, float, str]:
        """Sort key, the most pressing first."""
        since = self.silent_since.timestamp() if self.silent_since else float("inf")
        boldness = list(Proposal).index(self.proposal)
        return -boldness, -len(self.strong), -len(self.permissions), since, self.principal.object_id

    def to_body(self) -> dict[str, Any]:
        """Give the entry as people read it; long lists are cut and counted."""
        return {
            "principalId": self.principal.object_id,
            "appId": self.principal.app_id,
            "displayName": self.principal.display_name[:_TEXT],
            "kind": self.principal.kind,
            "proposal": self.proposal,
            "reasons": list(self.reasons),
            "unknown": list(self.unknown),
            "silentSince": _text(self.silent_since),
            "lastSignIn": _text(self.last_sign_in),
            "created": _text(self.created),
            "canSignInWith": [each[:_TEXT] for each in self.live[:_SHOWN]],
            "permissions": [each[:_TEXT] for each in (*self.strong, *_rest(self))[:_SHOWN]],
            "permissionsInAll": len(self.permissions),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found. ``unread`` are sources that gave no answer, ``found`` counts what did not fit as well."""

    made_at: datetime
    after: timedelta
    looked_at: int
    found: int
    unread: tuple[str, ...]
    entries: tuple[Entry, ...]


# --- judgement: pure ------------------------------------------------------------------------------

# Application permissions that change who may do what: with one of them a principal can make itself anything.
_ABOVE_ALL: Final = frozenset(
    {
        "AppRoleAssignment.ReadWrite.All",
        "Application.ReadWrite.All",
        "Directory.ReadWrite.All",
        "Policy.ReadWrite.ConditionalAccess",
        "PrivilegedAccess.ReadWrite.AzureAD",
        "RoleManagement.ReadWrite.Directory",
        "UserAuthenticationMethod.ReadWrite.All",
    }
)
# Reading these is harm enough.
_TELLING: Final = frozenset(
    {"Mail.Read", "Files.Read.All", "Sites.Read.All", "Chat.Read.All", "ChannelMessage.Read.All"}
)
_CHANGES: Final = (
    "readwrite",
    ".write",
    ".manage",
    "fullcontrol",
    "full_access",
    ".send",
    ".create",
    ".delete",
)


def is_strong(permission: str) -> bool:
    """Tell whether an application permission changes something, or reads what people write to each other."""
    return (
        permission in _ABOVE_ALL
        or permission in _TELLING
        or any(word in permission.lower() for word in _CHANGES)
    )


def silent_since(facts: Facts, after: timedelta, now: datetime) -> datetime | Unknown:
    """
    Say since when a principal has not signed in, at the least.

    Unknown where nobody could look far enough back. A principal that is younger than what was looked at is silent
    since it exists.
    """
    signed_in = facts.signed_in
    if isinstance(signed_in, Unknown):
        return signed_in
    if signed_in.at is not None:
        return signed_in.at
    if isinstance(facts.created, Unknown):
        return Unknown(f"never seen, and when it was made is not known: {facts.created.why}")
    if facts.created < signed_in.since and now - signed_in.since < after:
        return Unknown(f"the sign-in logs reach back to {signed_in.since:%Y-%m-%d} only")
    return max(facts.created, signed_in.since)


def judge(facts: Facts, after: timedelta, now: datetime) -> Entry | None:
    """Say what to do about a principal; None where it is used, cannot act, or is Microsoft's. Pure."""
    principal = facts.principal
    since = silent_since(facts, after, now)
    if principal.kind is Kind.MICROSOFT or principal.account_enabled is False or facts.live == ():
        return None
    if isinstance(since, datetime) and now - since < after:
        return None
    permissions = facts.permissions if isinstance(facts.permissions, tuple) else ()
    strong = tuple(name for name in permissions if is_strong(name))
    unknown = _unknown(facts, since)
    proposal, why = _proposal(facts, strong, unknown)
    reasons = [_silence(facts, since, now), why]
    if isinstance(facts.live, tuple):
        reasons.insert(1, f"it can still sign in with {', '.join(facts.live[:3])}")
    if isinstance(facts.signed_in, SignedIn) and not facts.signed_in.of_people:
        reasons.append("whether people sign in with it was not read: ask before it is disabled")
    return Entry(
        principal=principal,
        proposal=proposal,
        reasons=tuple(reasons),
        unknown=unknown,
        silent_since=None if isinstance(since, Unknown) else since,
        last_sign_in=None if isinstance(facts.signed_in, Unknown) else facts.signed_in.at,
        created=None if isinstance(facts.created, Unknown) else facts.created,
        live=facts.live if isinstance(facts.live, tuple) else (),
        permissions=permissions,
        strong=strong,
    )


def _unknown(facts: Facts, since: datetime | Unknown) -> tuple[str, ...]:
    answers = {
        "last sign-in": since,
        "enabled": Unknown("Graph does not say") if facts.principal.account_enabled is None else True,
        "credentials": facts.live,
        "permissions": facts.permissions,
        "protection": facts.spared,
    }
    return tuple(
        f"{name}: {answer.why}" for name, answer in answers.items() if isinstance(answer, Unknown | NotAsked)
    )


def _proposal(facts: Facts, strong: tuple[str, ...], unknown: tuple[str, ...]) -> tuple[Proposal, str]:
    if unknown:
        return Proposal.WATCH, "not everything about it could be read, so nothing is proposed but to watch it"
    if facts.spared:
        return Proposal.ASK_OWNER, f"{facts.spared}: its owner decides whether it is still needed"
    if strong and facts.principal.kind is not Kind.OTHER:
        named = ", ".join(name[:_TEXT] for name in strong[:3])
        return Proposal.DISABLE, f"it holds {named}: disable it, once a person has approved"
    if facts.permissions:
        return (
            Proposal.ASK_OWNER,
            "it holds permissions that only read: its owner says whether they are needed",
        )
    return Proposal.WATCH, f"it holds no application permission ({', '.join(NOT_READ)} are not read)"


def _silence(facts: Facts, since: datetime | Unknown, now: datetime) -> str:
    if isinstance(since, Unknown):
        return "since when it has not signed in is not known"
    days = (now - since).days
    if isinstance(facts.signed_in, SignedIn) and facts.signed_in.at is not None:
        return f"last signed in {days} days ago"
    return f"has not signed in for at least {days} days"


def _rest(entry: Entry) -> tuple[str, ...]:
    return tuple(name for name in entry.permissions if name not in entry.strong)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


# --- gathering --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignIns:
    """Last successful sign-in per principal, by object id in lower case, and since when that is complete."""

    last: Mapping[str, datetime]
    since: datetime


_TABLES: Final = {
    # table, and which rows of the summary stand for it
    True: ("AADManagedIdentitySignInLogs", '== "managedidentity"'),
    False: ("AADServicePrincipalSignInLogs", '!= "managedidentity"'),
}
_SUMMARY_DAYS: Final = """AgentSignInDaily_CL
| where BinStart between (datetime({start}) .. datetime({last})) and CredentialType {of_table}
| distinct BinStart
| summarize Days = count(), First = min(BinStart), Newest = max(BinStart)"""
_SUMMARY_LAST: Final = """AgentSignInDaily_CL
| where BinStart >= datetime({start}) and CredentialType {of_table} and Successes > 0
| summarize Last = max(LastSeen) by PrincipalId"""
_RAW_FIRST: Final = "{table}\n| summarize First = min(TimeGenerated)"
_RAW_LAST: Final = """{table}
| where ResultType == "0" and ServicePrincipalId != ""
| summarize Last = max(TimeGenerated) by PrincipalId = tolower(ServicePrincipalId)"""


async def look(world: World, options: Options) -> Report:
    """
    Look for dormant principals that can still act.

    Costs a page of Graph for 999 principals or applications, two calls for each dormant candidate, and at most eight
    log queries. Nothing of it is on the ID Protection quota.
    Raises: ClientError when the principals themselves cannot be listed. What else cannot be read is Unknown.
    """
    now = world.now()
    listed = [
        each
        for each in await world.graph.service_principals()
        if each.principal.kind is not Kind.MICROSOFT and each.principal.account_enabled is not False
    ]
    applications = await gathering.answered(_applications(world))
    managed, others = await asyncio.gather(
        sign_ins(world, options.after, now, managed=True),
        sign_ins(world, options.after, now, managed=False),
    )
    activity: Mapping[AppId, datetime] | Unknown | NotAsked = NotAsked("the setting leaves it out")
    if options.sign_in_report:
        activity = await gathering.answered(world.graph.sign_in_activities())
    own = await gathering.own_identities(world)
    candidates = []
    for each in listed:
        of_kind = managed if each.principal.kind is Kind.MANAGED_IDENTITY else others
        facts = Facts(
            principal=each.principal,
            created=_created(each, applications),
            signed_in=_signed_in(each.principal, of_kind, activity, options.after, now),
            live=_live(each, applications, now),
            permissions=NotAsked("only read of who is known to be dormant and able to act"),
            spared=_spared(each.principal, own, world.policy.protected),
        )
        if judge(facts, options.after, now) is not None:
            candidates.append(facts)
    candidates.sort(key=lambda facts: _worth_asking(facts, options.after, now))
    complete = await _with_permissions(candidates[:MAX_ENTRIES], applications, world, options.after, now)
    entries = [entry for facts in complete if (entry := judge(facts, options.after, now)) is not None]
    answers = {
        "applications": applications,
        _TABLES[True][0]: managed,
        _TABLES[False][0]: others,
        "servicePrincipalSignInActivities": activity,
    }
    return Report(
        made_at=now,
        after=options.after,
        looked_at=len(listed),
        found=len(entries) + len(candidates[MAX_ENTRIES:]),
        unread=tuple(f"{name}: {why.why}" for name, why in answers.items() if isinstance(why, Unknown)),
        entries=tuple(sorted(entries, key=lambda entry: entry.rank)),
    )


def _worth_asking(facts: Facts, after: timedelta, now: datetime) -> tuple[bool, float]:
    """The longest silent first, who is not known to be silent last."""
    since = silent_since(facts, after, now)
    return isinstance(since, Unknown), 0.0 if isinstance(since, Unknown) else since.timestamp()


async def sign_ins(world: World, after: timedelta, now: datetime, *, managed: bool) -> SignIns | Unknown:
    """
    Read who last signed in when, from the daily summary and what is newer, else from the table itself.

    The summary is used where it has every day: then the large table is read for three days only.
    """
    table, of_table = _TABLES[managed]
    start = now - after - timedelta(days=1)
    summary = await gathering.answered(_summarised(world, of_table, start, now))
    newer = start if summary is None or isinstance(summary, Unknown) else now - _NEWER
    raw = await gathering.answered(_raw(table, world, newer, now))
    if isinstance(raw, Unknown):
        return raw
    if summary is None or isinstance(summary, Unknown):
        return raw
    last = dict(summary.last)
    for principal, moment in raw.last.items():
        last[principal] = max(moment, last.get(principal, moment))
    return SignIns(last, summary.since)


async def _summarised(world: World, of_table: str, start: datetime, now: datetime) -> SignIns | None:
    """
    Read the summary; None where it lacks a day of the time asked for.

    A day that is missing may be the one on which somebody was there. Days the table itself is read for may be missing.
    """
    start, last = _midnight(start), _midnight(now - _NEWER)
    where = {"start": _literal(start), "last": _literal(last), "of_table": of_table}
    days = await _ask(_SUMMARY_DAYS.format(**where), start, now, world)
    ((count, first, newest),) = days.rows
    if not count or first > start + timedelta(days=1) or newest < last or count <= (newest - first).days:
        return None
    found = await _ask(_SUMMARY_LAST.format(**where), start, now, world)
    return SignIns({str(principal).lower(): moment for principal, moment in found.rows}, first)


async def _raw(table: str, world: World, start: datetime, now: datetime) -> SignIns:
    ((first,),) = (await _ask(_RAW_FIRST.format(table=table), start, now, world)).rows
    found = await _ask(_RAW_LAST.format(table=table), start, now, world)
    return SignIns(dict(found.rows), now if first is None else max(first, start))


async def _ask(kql: str, start: datetime, end: datetime, world: World) -> Rows:
    """Ask the logs; a daily report can wait for whoever has no time."""
    async with world.background:
        return await world.logs.query(kql, start, end)


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _literal(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _signed_in(
    principal: ServicePrincipal,
    logs: SignIns | Unknown,
    activity: Mapping[AppId, datetime] | Unknown | NotAsked,
    after: timedelta,
    now: datetime,
) -> SignedIn | Unknown:
    """Put the sources together: that it signed in lately is known from either, that it did not only from all."""
    reported = None if isinstance(activity, Unknown | NotAsked) else activity.get(principal.app_id)
    logged = None if isinstance(logs, Unknown) else logs.last.get(principal.object_id)
    last = max((moment for moment in (reported, logged) if moment is not None), default=None)
    if last is not None and now - last < after:
        return SignedIn(last, last)
    for source in (logs, activity):
        if isinstance(source, Unknown):
            return source
    # Nobody signs in with a managed identity but Azure.
    of_people = principal.kind is Kind.MANAGED_IDENTITY or not isinstance(activity, NotAsked)
    return SignedIn(last, logs.since if isinstance(logs, SignIns) else now, of_people)


async def _applications(world: World) -> Mapping[AppId, ListedApplication]:
    return {one.app_id: one for one in await world.graph.applications()}


def _created(each: Listed, applications: Mapping[AppId, ListedApplication] | Unknown) -> datetime | Unknown:
    """When it was made: Graph's schema has no such date of a service principal, so its application's may stand for it."""
    if each.created is not None:
        return each.created
    if isinstance(applications, Unknown):
        return applications
    own = applications.get(each.principal.app_id)
    if own is None or own.created is None:
        return Unknown("Graph gives no date")
    return own.created


def _live(
    each: Listed, applications: Mapping[AppId, ListedApplication] | Unknown, now: datetime
) -> tuple[str, ...] | NotAsked | Unknown:
    """
    Say with what it can sign in. Its own credentials and those of its application count alike.

    Federated credentials are a question an application; it is asked later, and only where there is no other.
    """
    kind = each.principal.kind
    if kind is Kind.MANAGED_IDENTITY:
        return ("a credential that Azure holds and renews",)
    own = _unexpired(each.credentials, now)
    if own:
        return own
    if kind is Kind.AGENT_IDENTITY:
        return Unknown("it signs in with its blueprint's credentials, which are not read")
    if isinstance(applications, Unknown):
        return applications
    application = applications.get(each.principal.app_id)
    if application is None:
        return Unknown("its application is not registered in this tenant, so its credentials cannot be seen")
    if each.credentials is None or application.credentials is None:
        return _unexpired(application.credentials, now) or Unknown("Graph gave no list of its credentials")
    return _unexpired(application.credentials, now) or NotAsked("whether it has federated credentials")


def _unexpired(held: Sequence[HeldCredential] | None, now: datetime) -> tuple[str, ...]:
    """Name what has not ended. A credential without a readable end counts as live: it is not known to have ended."""
    return tuple(
        f"a {one.kind} {'without a readable end' if one.ends is None else f'until {one.ends:%Y-%m-%d}'}"
        for one in held or ()
        if one.ends is None or one.ends > now
    )


def _spared(
    principal: ServicePrincipal, own: frozenset[ObjectId] | Unknown, protected: frozenset[str] | None
) -> str | Unknown:
    if protected is None:
        return Unknown("AGENTBREAKER_PROTECTED_PRINCIPALS is empty: who is protected is not known")
    if isinstance(own, Unknown):
        return own
    if principal.object_id in protected:
        return "it is on the protected list"
    return "it belongs to Agentbreaker" if principal.object_id in own else ""


async def _with_permissions(
    candidates: Sequence[Facts],
    applications: Mapping[AppId, ListedApplication] | Unknown,
    world: World,
    after: timedelta,
    now: datetime,
) -> list[Facts]:
    """Read what is missing of who is dormant, a few at a time; each resource's names are read once."""
    gate = asyncio.Semaphore(_AT_ONCE)
    registered = {} if isinstance(applications, Unknown) else applications
    names: dict[ObjectId, asyncio.Task[Mapping[str, str] | Unknown]] = {}

    async def permissions(facts: Facts) -> tuple[str, ...] | Unknown:
        grants = await gathering.answered(world.graph.grants(facts.principal.object_id))
        if isinstance(grants, Unknown):
            return grants
        held = []
        for grant in grants:
            if grant.role_id == _NO_ROLE:
                continue
            if grant.resource_id not in names:
                question = gathering.answered(world.graph.app_roles(grant.resource_id))
                names[grant.resource_id] = asyncio.ensure_future(question)
            offered = await names[grant.resource_id]
            if isinstance(offered, Unknown):
                return offered
            held.append(offered.get(grant.role_id) or f"{grant.resource_name[:_TEXT]}: role {grant.role_id}")
        return tuple(sorted(set(held)))

    async def federated(facts: Facts) -> tuple[str, ...] | Unknown:
        application = registered[facts.principal.app_id]
        question = world.graph.federated_credentials(application.application_object_id)
        count = await gathering.answered(question)
        if isinstance(count, Unknown):
            return count
        return (f"{count} federated credential{'s' if count > 1 else ''}",) if count else ()

    async def complete(facts: Facts) -> Facts:
        if isinstance(silent_since(facts, after, now), Unknown):
            return facts  # nothing would be proposed but to watch
        async with gate:
            if isinstance(facts.live, NotAsked):
                facts = replace(facts, live=await federated(facts))
            if facts.live == ():
                return facts
            return replace(facts, permissions=await permissions(facts))

    return list(await asyncio.gather(*(complete(facts) for facts in candidates)))


# --- the report in the store ------------------------------------------------------------------------


async def write(report: Report, store: Store) -> None:
    """
    Keep a report, and the last few before it. One commit: a report is there whole or not at all.

    Raises: StoreError.
    """
    made = _made(report.made_at)
    pages = _pages(report.entries)
    head = {
        "made_at": report.made_at.isoformat(),
        "dormant_after_days": report.after.days,
        "looked_at": report.looked_at,
        "found": report.found,
        "shown": sum(map(len, pages)),
        "unread": list(report.unread),
        "pages": len(pages),
    }
    writes: list[Write] = [Insert(f"dormant:{made}", head)]
    writes += [Insert(_page_key(made, number), {"entries": page}) for number, page in enumerate(pages, 1)]
    await store.commit(writes)
    for old in (await store.scan("dormant:"))[:-_VERSIONS]:
        parts = await store.scan(f"dormant-page:{old.key.removeprefix('dormant:')}:")
        await store.commit([Delete(record.key, record.etag) for record in (old, *parts)])


async def read(store: Store, page: int) -> tuple[Mapping[str, Any], list[Any]] | None:
    """
    Read a page of the newest report, counted from 1, with the report's head; None while there is none.

    A page beyond the last is empty. Raises: StoreError.
    """
    heads = await store.scan("dormant:")
    if not heads:
        return None
    record = await store.get(_page_key(heads[-1].key.removeprefix("dormant:"), page))
    return heads[-1].body, [] if record is None else list(record.body["entries"])


def _made(moment: datetime) -> str:
    """Give a moment so that keys sort by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _page_key(made: str, number: int) -> str:
    return f"dormant-page:{made}:{number:04d}"


def _pages(entries: Iterable[Entry]) -> list[list[dict[str, Any]]]:
    """Cut entries into pages the store takes; what is beyond a whole report's size is left out, the least pressing."""
    pages: list[list[dict[str, Any]]] = []
    size = in_all = 0
    for entry in entries:
        body = entry.to_body()
        text = json.dumps(body)
        length = len(text) + text.count('"') + text.count("\\")  # as ``encoding.encode_batch`` counts
        in_all += length
        if in_all > _REPORT_SIZE:
            break
        if not pages or len(pages[-1]) == _PAGE_ENTRIES or size + length > _PAGE_SIZE:
            pages.append([])
            size = 0
        pages[-1].append(body)
        size += length
    return pages
