"""Gather evidence: ask Graph and the store what can be known about a finding, and keep what could not."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from clients.errors import ClientError, NotFound, Unavailable
from clients.stores import Put, StoreError
from clients.terms import AppId, Kind, Mark, NotAsked, RiskLevel, ServicePrincipal, Unknown, is_guid
from response import brake, breaker, reach
from response.containment import Containment, State
from response.coverage import About
from response.decision import corroborates, lifts, newer
from response.evidence import Armed, ChangeWindow, Evidence, NoSuchPrincipal, NotArmed
from response.finding import CORROBORATION_WINDOW, Finding, Source, Tier
from response.levers import CONFIRM_AGENT_COMPROMISED, RISK_LEVERS, first_lever
from response.privilege import Privilege, privilege_of, value_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from clients.logs import Rows
    from clients.stores import Record, Store
    from clients.terms import Dossier, ObjectId, Person, Policy, Risk, WhatIf
    from response.world import ReadingGate, World

T = TypeVar("T")
log = logging.getLogger("agentbreaker.gathering")
KILL_SWITCH: Final = "killswitch"
BRAKE: Final = "brake:automatic"
BRAKE_TRIPPED: Final = "brake:tripped"
POLICIES: Final = "policies"
LEDGER_BROKEN: Final = "ledger-broken"
ACTIVE: Final = "active-principals"
WINDOWS: Final = "change-windows"
# Any of them answers the question; who grants none does not want the answer, and it is not asked for.
_MARKS: Final = frozenset(
    {"CustomSecAttributeAssignment.Read.All", "CustomSecAttributeAssignment.ReadWrite.All"}
)
_ROLES: Final = frozenset(
    {"RoleManagement.Read.Directory", "RoleManagement.Read.All", "RoleManagement.ReadWrite.Directory"}
)
_SPONSORS: Final = frozenset(
    {
        "AgentIdentity.Read.All",
        "AgentIdentity.ReadWrite.All",
        "AgentIdentityBlueprintPrincipal.Read.All",
        "AgentIdentityBlueprintPrincipal.ReadWrite.All",
    }
)
_ACTIVE_AGE: Final = timedelta(hours=1)
_WINDOWS_AGE: Final = timedelta(minutes=15)
# A containment does not wait longer for Log Analytics: without an answer a person decides. The client alone would try for
# two minutes and a half, longer than a playbook listens.
_PATIENCE: Final = timedelta(seconds=10)
_DEFAULT_ACCESS: Final = "00000000-0000-0000-0000-000000000000"  # an assignment without any role
# One record holds them; more announced changes at once is an inventory gone wrong, and then nothing is known.
_MOST_WINDOWS: Final = 300
# Sentinel writes each watchlist item anew every 12 days, so that long must be looked back for all of them.
_WATCHLIST_REACH: Final = timedelta(days=14)
SIGN_IN_TABLES: Final = ("AADServicePrincipalSignInLogs", "AADManagedIdentitySignInLogs")
# Sign-ins that failed are not counted: anybody could raise the share with them.
ACTIVE_QUERY: Final = f"""
union isfuzzy=true {", ".join(SIGN_IN_TABLES)}
| where TimeGenerated > ago(1d) and ResultType == "0" and ServicePrincipalId != ""
| summarize Active = dcount(ServicePrincipalId)
"""
_WINDOWS_QUERY: Final = r"""
union isfuzzy=true
    (datatable(SearchKey: string, ChangeWindowStart: string, ChangeWindowEnd: string, ExpiresOn: string)[]),
    (_GetWatchlist('AgentInventory'))
| extend Opens = trim(@"\s+", ChangeWindowStart), Closes = trim(@"\s+", ChangeWindowEnd), Ends = trim(@"\s+", ExpiresOn)
| where isempty(Ends) or (Ends matches regex @"^\d{4}-\d{2}-\d{2}" and todatetime(Ends) > now())
| where Opens matches regex @"^\d{4}-\d{2}-\d{2}" and Closes matches regex @"^\d{4}-\d{2}-\d{2}"
| project PrincipalId = tolower(trim(@"\s+", SearchKey)), Opens = todatetime(Opens), Closes = todatetime(Closes)
| where Closes > now() and Closes <= now() + 400d
"""


async def gather(finding: Finding, world: World, now: datetime) -> Evidence:
    """
    Check a finding. Never raises for a question that could not be answered: the answer is Unknown then.

    Graph: one read of the principal, one batch for who answers for it and what it may do; the policies only when the
    last reading is too old; the risk only when one finding is not enough and no other agrees.
    """
    store = world.store
    (
        (principal, claims, policies, windows),
        (stopped, undone, probation, known),
        (tripped, broken, earlier, ongoing),
    ) = await asyncio.gather(
        asyncio.gather(
            find_principal(finding.principal, world),
            answered(world.graph.own_claims()),
            answered(current_policies(world)),
            _windows(finding, world),
        ),
        asyncio.gather(
            answered(kill_switch_stopped(store)),
            answered(undone_at(finding.principal, store)),
            answered(on_probation(finding.principal, store, now)),
            answered(automatic(store)),
        ),
        asyncio.gather(
            answered(reason_in(BRAKE_TRIPPED, store)),
            answered(reason_in(LEDGER_BROKEN, store)),
            answered(earlier_findings(finding, store, now)),
            _ongoing(finding, store, now),
        ),
    )
    dossier, microsoft_risk = await asyncio.gather(
        _dossier(finding, principal, claims, world),
        _microsoft_risk(
            finding,
            principal,
            earlier if isinstance(earlier, Unknown) else newer(earlier, undone),
            world,
            now,
        ),
    )
    counts = _counts(known, dossier.owners, now)
    return Evidence(
        principal=principal,
        armed=await _armed(finding, principal, policies, world),
        own_identities=claims if isinstance(claims, Unknown) else world.own_principals | {claims[0]},
        microsoft_risk=microsoft_risk,
        earlier=earlier,
        kill_switch_stopped=stopped,
        ongoing=ongoing,
        at=now,
        mark=dossier.mark,
        privilege=dossier.privilege,
        owners=dossier.owners,
        change_window=_window_of(principal, windows, now),
        undone_at=undone,
        on_probation=probation,
        brake=counts,
        active_principals=await _active(finding, counts, world, now),
        brake_tripped=tripped,
        ledger_broken=broken,
    )


async def _armed(
    finding: Finding,
    principal: ServicePrincipal | NoSuchPrincipal | Unknown,
    policies: tuple[Policy, ...] | Unknown,
    world: World,
) -> Armed | NotArmed | Unknown:
    """Answer from the policies; where the settings want it, Microsoft's What If has to agree."""
    own = armed_for(principal, policies)
    weighs = finding.source is Source.ANALYST or finding.tier in (Tier.AUTO, Tier.CORROBORATED)
    if not world.what_if or not weighs or not isinstance(principal, ServicePrincipal):
        return own
    return await second_opinion(own, principal, world.graph.what_if)


@dataclass(frozen=True, slots=True)
class _Dossier:
    """The parts of a dossier as a judgement uses them."""

    mark: Mark | Unknown | NotAsked | None
    privilege: Privilege | Unknown | NotAsked
    owners: tuple[Person, ...] | Unknown | NotAsked


async def _dossier(
    finding: Finding,
    principal: ServicePrincipal | NoSuchPrincipal | Unknown,
    claims: tuple[ObjectId, frozenset[str]] | Unknown,
    world: World,
) -> _Dossier:
    """Ask who answers for the principal and what it may do, where that can matter."""
    if finding.tier is Tier.CONTEXT or not isinstance(principal, ServicePrincipal):
        left_out = NotAsked("not needed for this finding")
        return _Dossier(left_out, left_out, left_out)
    if principal.kind in (Kind.MICROSOFT, Kind.AGENT_USER):
        left_out = NotAsked("nobody here may contain it")
        return _Dossier(left_out, left_out, left_out)
    found = await answered(world.graph.dossier(principal))
    if isinstance(found, Unknown):
        return _Dossier(found, found, found)
    granted = None if isinstance(claims, Unknown) else claims[1]
    return _Dossier(_mark(found, granted), _privilege(found, granted), _owners(found, granted))


def _left_out(granted: frozenset[str] | None, any_of: frozenset[str]) -> bool:
    """Whether our token surely lacks the right to read something; what it carries unknown (None), that is not sure."""
    return granted is not None and not granted & any_of


def _mark(found: Dossier, granted: frozenset[str] | None) -> Mark | Unknown | NotAsked | None:
    if not isinstance(found.mark, Mark) and _left_out(granted, _MARKS):
        # Graph gives the same null without the permission as without a mark. Who marks principals grants it.
        return NotAsked("CustomSecAttributeAssignment.Read.All is not granted, so no mark is read")
    return found.mark


def _privilege(found: Dossier, granted: frozenset[str] | None) -> Privilege | Unknown | NotAsked:
    app_roles = () if isinstance(found.app_roles, Unknown) else found.app_roles
    directory_roles = () if isinstance(found.directory_roles, Unknown) else found.directory_roles
    known = privilege_of(app_roles, directory_roles)
    if known.tier == 0:  # enough is known, whatever else could not be read
        return known
    if isinstance(found.app_roles, Unknown):
        return found.app_roles
    nameless = sum(is_guid(value_of(role)) and value_of(role) != _DEFAULT_ACCESS for role in found.app_roles)
    if nameless:
        return Unknown(f"the names of {nameless} of its app roles could not be read")
    if isinstance(found.directory_roles, Unknown):
        if _left_out(granted, _ROLES):
            return NotAsked(
                f"RoleManagement.Read.Directory is not granted; by its app roles alone it is tier {known.tier}"
            )
        return found.directory_roles
    return known


def _owners(found: Dossier, granted: frozenset[str] | None) -> tuple[Person, ...] | Unknown:
    if isinstance(found.owners, Unknown):
        return found.owners
    if isinstance(found.sponsors, Unknown):
        return found.owners if _left_out(granted, _SPONSORS) else found.sponsors
    known = {one.object_id for one in found.owners}
    return (*found.owners, *(one for one in found.sponsors if one.object_id not in known))


def _counts(
    known: tuple[brake.Automatic, ...] | Unknown,
    owners: tuple[Person, ...] | Unknown | NotAsked,
    now: datetime,
) -> brake.Counts | Unknown:
    if isinstance(known, Unknown):
        return known
    return brake.count(known, owner_ids(owners), now)


def owner_ids(owners: tuple[Person, ...] | Unknown | NotAsked) -> tuple[str, ...]:
    """Give the object ids of owners that are known."""
    return tuple(one.object_id for one in owners) if isinstance(owners, tuple) else ()


async def _active(
    finding: Finding, counts: brake.Counts | Unknown, world: World, now: datetime
) -> int | Unknown | NotAsked:
    automatic_one = finding.source is not Source.ANALYST and finding.tier is not Tier.CONTEXT
    if not automatic_one or isinstance(counts, Unknown) or not brake.asks_for_share(counts, world.policy):
        return NotAsked("not needed: the share of active principals is not reached by so few")
    return await answered(active_principals(world, now))


async def active_principals(world: World, now: datetime) -> int:
    """
    Count the principals that signed in in the last 24 hours, from an answer of at most an hour ago.

    Raises: ClientError; StoreError.
    """
    async with world.active_gate.lock:
        record = await world.store.get(ACTIVE)
        if (kept := _kept(record, "count", _ACTIVE_AGE, now)) is not None:
            return int(kept)
        rows = await _one_reading(world.active_gate, world, ACTIVE_QUERY, brake.DAY, _PATIENCE)
        count = int(rows.rows[0][rows.columns.index("Active")])
        await world.store.commit([Put(ACTIVE, {"at": now.isoformat(), "count": count})])
    return count


def _kept(record: Record | None, name: str, limit: timedelta, now: datetime) -> Any:
    """Give what the last reading found while it is young enough; None for what is old or nobody can read."""
    try:
        young = (
            record is not None and timedelta(0) <= now - datetime.fromisoformat(record.body["at"]) <= limit
        )
        return record.body[name] if record is not None and young else None
    except (KeyError, TypeError, ValueError):
        return None


async def _one_reading(gate: ReadingGate, world: World, kql: str, back: timedelta, within: timedelta) -> Rows:
    """Ask the log once for all who wait at the gate; a failure is their answer too. Raises: ClientError."""
    gate.raise_if_just_failed()
    now = world.now()
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await world.logs.query(kql, now - back, now)
    except ClientError as error:
        gate.failed(error)
        raise
    except TimeoutError:
        late = Unavailable("Log Analytics", f"no answer within {int(within.total_seconds())} s")
        gate.failed(late)
        raise late from None


async def _ongoing(finding: Finding, store: Store, now: datetime) -> tuple[Finding, ...] | Unknown:
    if finding.tier is not Tier.CORROBORATED:
        return ()
    return await answered(ongoing_findings(finding, store, now))


async def undone_at(principal: ObjectId, store: Store) -> datetime | None:
    """Read when a person last took a containment of the principal back. Raises: StoreError."""
    record = await store.get(f"undone:{principal}")
    return None if record is None else datetime.fromisoformat(record.body["at"])


async def on_probation(principal: ObjectId, store: Store, now: datetime) -> bool:
    """Tell whether the principal was taken back a short while ago and is watched. Raises: StoreError."""
    pointer = await store.get(f"open:{principal}")
    record = None if pointer is None else await store.get(f"containment:{pointer.body['containment']}")
    if record is None:
        return False
    c = Containment.from_body(record.body)
    return c.state is State.HALF_OPEN and c.probation_until is not None and now < c.probation_until


async def reason_in(key: str, store: Store) -> str:
    """Read why something stands still (storm brake, ledger); empty when it does not. Raises: StoreError."""
    record = await store.get(key)
    return "" if record is None else str(record.body.get("why") or "no reason was written")


async def automatic(store: Store) -> tuple[brake.Automatic, ...]:
    """Read the automatic containments that the storm brake counts. Raises: StoreError."""
    record = await store.get(BRAKE)
    return () if record is None else brake.read(record.body)


# --- announced changes: the inventory, read for everybody at once ---------------------------------


async def _windows(finding: Finding, world: World) -> tuple[_Window, ...] | Unknown | NotAsked:
    if finding.source is Source.ANALYST or finding.tier is Tier.CONTEXT:
        return NotAsked("not needed for a person's order, or for what is context only")
    return await answered(change_windows(world))


async def change_windows(
    world: World, *, refresh_after: timedelta = _WINDOWS_AGE, within: timedelta = _PATIENCE
) -> tuple[_Window, ...]:
    """
    Give the announced changes of all principals, from the last reading while it is young enough.

    A window without an end, one that ends in more than 400 days, or one of an entry that has expired does not count
    (docs/rules.md: no entry makes a rule blind for ever). Raises: ClientError; StoreError; ValueError.
    """
    async with world.windows_gate.lock:
        now = world.now()
        kept = _kept(await world.store.get(WINDOWS), "windows", refresh_after, now)
        if kept is not None:
            return tuple(_window(one) for one in kept)
        windows = _windows_in(
            await _one_reading(world.windows_gate, world, _WINDOWS_QUERY, _WATCHLIST_REACH, within)
        )
        await world.store.commit([Put(WINDOWS, {"at": now.isoformat(), "windows": windows})])
    return tuple(_window(one) for one in windows)


def _windows_in(rows: Rows) -> list[dict[str, str]]:
    """Give the windows of an answer. Raises: ValueError when a column is missing or there are too many to keep."""
    principal, opens, closes = (rows.columns.index(name) for name in ("PrincipalId", "Opens", "Closes"))
    found = [
        {
            "principal": str(row[principal]),
            "opens": row[opens].isoformat(),
            "closes": row[closes].isoformat(),
        }
        for row in rows.rows
        if is_guid(row[principal]) and isinstance(row[opens], datetime) and isinstance(row[closes], datetime)
    ]
    if len(found) > _MOST_WINDOWS:  # cut short, somebody's announced change would be missed
        raise ValueError("more announced changes than can be kept")
    return found


@dataclass(frozen=True, slots=True)
class _Window:
    principal: str
    opens: datetime
    closes: datetime


def _window(body: Mapping[str, Any]) -> _Window:
    opens, closes = (datetime.fromisoformat(body[name]) for name in ("opens", "closes"))
    return _Window(str(body["principal"]), opens, closes)


def _window_of(
    principal: ServicePrincipal | NoSuchPrincipal | Unknown,
    windows: tuple[_Window, ...] | Unknown | NotAsked,
    now: datetime,
) -> ChangeWindow | Unknown | NotAsked | None:
    if not isinstance(principal, ServicePrincipal):
        return NotAsked("there is no principal to look for")
    if isinstance(windows, Unknown | NotAsked):
        return windows
    ids = (principal.object_id, principal.app_id)
    ends = [one.closes for one in windows if one.principal in ids and one.opens <= now < one.closes]
    return ChangeWindow(max(ends)) if ends else None


async def find_principal(principal: ObjectId, world: World) -> ServicePrincipal | NoSuchPrincipal | Unknown:
    """Read the principal; when Graph knows no such object id, tell whose id it is if that can be found out."""
    try:
        return await world.graph.service_principal(principal)
    except NotFound:
        agent_user = await answered(world.graph.agent_user(principal))
        if isinstance(agent_user, ServicePrincipal):
            return agent_user
        return NoSuchPrincipal(await _hint(principal, world))
    except ClientError as error:
        return Unknown(str(error))


async def _hint(given: str, world: World) -> str:
    """Say which service principal was meant, when an appId or an app registration's object id was given."""
    by_app_id = await answered(world.graph.service_principal_by_app_id(AppId(given)))
    if isinstance(by_app_id, ServicePrincipal):
        return f"The id given is an appId; its service principal has object id {by_app_id.object_id}."
    application = await answered(world.graph.application(given))
    if isinstance(application, Unknown):
        return ""
    meant = await answered(world.graph.service_principal_by_app_id(application.app_id))
    owner = "The id given is the object id of an app registration"
    if isinstance(meant, Unknown):
        return f"{owner}; give the object id of its service principal (Enterprise applications)."
    return f"{owner}; its service principal has object id {meant.object_id}."


def armed_for(
    principal: ServicePrincipal | NoSuchPrincipal | Unknown, policies: tuple[Policy, ...] | Unknown
) -> Armed | NotArmed | Unknown:
    """Tell whether the breaker is armed for what we know of the principal."""
    if isinstance(policies, Unknown):
        return policies
    if isinstance(principal, ServicePrincipal):
        return breaker.armed(policies, principal)
    return Unknown("the principal was not read")


async def own_identities(world: World) -> frozenset[ObjectId] | Unknown:
    """Give the object ids that are this system itself: the one in our own Graph token and those in settings."""
    claims = await answered(world.graph.own_claims())
    return claims if isinstance(claims, Unknown) else world.own_principals | {claims[0]}


async def earlier_findings(finding: Finding, store: Store, now: datetime) -> tuple[Finding, ...]:
    """
    Read other findings about the principal in the corroboration window, from before an undo too. Raises: StoreError.

    The window ends now; for a sign that lifts this rule it ends where the finding begins, because what an agent did
    minutes after a prompt attack may be seen an hour later.
    """
    records = await store.scan(f"finding:{finding.principal}:")
    known = [Finding.from_body(record.body) for record in records if record.key != finding.key]
    return tuple(
        f
        for f in known
        if now - f.last_seen <= CORROBORATION_WINDOW
        or (finding.rule_id in f.lifts and finding.first_seen - f.last_seen <= CORROBORATION_WINDOW)
    )


async def ongoing_findings(finding: Finding, store: Store, now: datetime) -> tuple[Finding, ...]:
    """
    Read other findings about the principal that began earlier and still go on. Raises: StoreError.

    A rule that says what is new keeps quiet while it goes on, so its finding is as old as the novelty. Their end is
    given as when they were last said.
    """
    found = []
    for record in await store.scan(f"finding:{finding.principal}:"):
        if record.key == finding.key or not record.body.get("repeated_until"):
            continue
        until = datetime.fromisoformat(record.body["repeated_until"])
        other = Finding.from_body(record.body)
        if now - until <= CORROBORATION_WINDOW < now - other.last_seen:
            found.append(replace(other, last_seen=until))
    return tuple(found)


async def kill_switch_stopped(store: Store) -> bool:
    """Read the kill switch, afresh. Raises: StoreError; the caller must then act as if it were on."""
    record = await store.get(KILL_SWITCH)
    return False if record is None else record.body["stopped"] is not False


async def current_policies(world: World, *, refresh_after: timedelta | None = None) -> tuple[Policy, ...]:
    """
    Give the Conditional Access policies, from the last reading while it is young enough, else from Graph.

    Raises: ClientError or StoreError; an old reading is never used in place of a failed new one.
    """
    limit = world.policies_max_age if refresh_after is None else refresh_after
    async with world.policies_gate.lock:
        record = await world.store.get(POLICIES)
        if (known := _young_enough(record, world.now(), limit)) is not None:
            return known
        world.policies_gate.raise_if_just_failed()
        try:
            policies = await world.graph.policies()
        except ClientError as error:
            world.policies_gate.failed(error)
            raise
        bodies = [breaker.policy_to_body(policy) for policy in policies]
        await world.store.commit([Put(POLICIES, {"read_at": world.now().isoformat(), "policies": bodies})])
    return policies


def _young_enough(record: Record | None, now: datetime, limit: timedelta) -> tuple[Policy, ...] | None:
    """Give the policies of the last reading; None where it is old, absent or unreadable, and Graph has to be asked."""
    if record is None:
        return None
    try:
        young = timedelta(0) <= now - datetime.fromisoformat(record.body["read_at"]) <= limit
        return tuple(breaker.policy_from_body(body) for body in record.body["policies"]) if young else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("the last reading of the policies is unreadable: %s", type(error).__name__)
        return None


async def risk_behind(lever: str, principal: ObjectId, world: World) -> Risk | None:
    """Read the risk that a risk lever sets, through its own door. Costs a turn. Raises: ClientError."""
    graph = world.graph
    return await (
        graph.agent_risk(principal) if lever == CONFIRM_AGENT_COMPROMISED.id else graph.risk(principal)
    )


async def _microsoft_risk(
    finding: Finding,
    principal: ServicePrincipal | NoSuchPrincipal | Unknown,
    earlier: tuple[Finding, ...] | Unknown,
    world: World,
    now: datetime,
) -> RiskLevel | Unknown | NotAsked | None:
    if finding.tier is not Tier.CORROBORATED or finding.source is Source.ANALYST:
        return NotAsked(
            "not needed for this finding, and asking costs the tenant's one ID Protection call a second"
        )
    lever = (
        first_lever(principal.kind, world.policy.levers) if isinstance(principal, ServicePrincipal) else None
    )
    if lever is None or lever.id not in RISK_LEVERS:
        return NotAsked("no risk lever here reaches this kind of identity")
    if isinstance(earlier, tuple) and any(
        corroborates(f, finding, world.policy, now) or lifts(f, finding, world.policy) for f in earlier
    ):
        return NotAsked("another finding agrees already")
    risk = await answered(risk_behind(lever.id, finding.principal, world))
    if isinstance(risk, Unknown):
        return risk
    return None if risk is None else risk.microsoft_says


async def answered(question: Awaitable[T]) -> T | Unknown:
    """Await an answer; a service or store that does not give one makes it Unknown, with the reason."""
    try:
        return await question
    except (ClientError, StoreError) as error:
        return Unknown(str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Unknown(f"a stored record is unreadable ({type(error).__name__})")


# --- is the breaker armed: a second opinion, and what old tokens still reach (response/reach.py judges) ------------

WhatIfCall: TypeAlias = "Callable[[ServicePrincipal, str, RiskLevel], Awaitable[tuple[WhatIf, ...]]]"
"""Asks Microsoft's What If about a principal, a resource's appId and a risk level. Costs an ID Protection second."""
# Sign-in rows take minutes; how long at most is not documented. What is younger is not taken for complete.
_ROWS_ARE_THERE_AFTER: Final = timedelta(hours=2)


async def second_opinion(
    own: Armed | NotArmed | Unknown, principal: ServicePrincipal, ask: WhatIfCall
) -> Armed | NotArmed | Unknown:
    """
    Compare our answer with Microsoft's, where Microsoft gives one: single-tenant applications only (facts §3).

    Asked about Microsoft Graph at high risk. A question that fails leaves ours as it is. Never raises for it.
    """
    if principal.kind is not Kind.APPLICATION:
        return own
    return reach.second_opinion(own, await answered(ask(principal, reach.MICROSOFT_GRAPH, RiskLevel.HIGH)))


async def recent_tokens(
    principals: Sequence[ServicePrincipal], world: World, since: datetime, until: datetime
) -> tuple[reach.Token, ...] | Unknown:
    """
    Read which tokens principals got between two times; Unknown when the log gives no whole answer.

    One log query however many are asked about. Managed identities are asked about apart (``reach.tokens_query``).
    """

    async def read() -> tuple[reach.Token, ...]:
        return reach.tokens_from(await world.logs.query(reach.tokens_query(principals), since, until))

    return await answered(read())


def residual_access(
    principal: ServicePrincipal,
    tokens: tuple[reach.Token, ...] | Unknown,
    policies: tuple[Policy, ...] | Unknown,
    now: datetime,
    *,
    blocked_from: datetime,
    is_critical_event: bool,
) -> tuple[reach.Reach, bool | Unknown, reach.Residual]:
    """
    Tell what CAE reaches, whether the client lets its tokens be ended, and until when old tokens may work.

    ``tokens`` were read at ``now`` and go back to ``reach.LOOK_BACK`` before ``blocked_from``. What could not be read
    makes the answer later, never earlier.
    """
    reached = reach.cae_reach(About(principal), policies)
    residual = reach.residual_access(
        principal,
        reached,
        tokens,
        blocked_from=blocked_from,
        seen_until=now - _ROWS_ARE_THERE_AFTER,
        is_critical_event=is_critical_event,
    )
    return reached, reach.declared_cp1(tokens), residual
