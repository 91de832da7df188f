"""
What a block reaches, and for how long old tokens still work. Pure; `response/gathering.py` asks the questions.

A block refuses new tokens. Those already issued live on, unless continuous access evaluation (CAE) ends them. What is
known of CAE for workload identities: one resource honours it, Microsoft Graph; for single-tenant applications of this
tenant; for clients that declared ``cp1``; unless a policy's session control turns it off. Its events are the disabling or
deletion of the principal and high risk. Sources: Entra "Continuous access evaluation for workload identities", "Continuous
access evaluation", "Access tokens", "Managed identity best practice recommendations"; facts/entra.md §4.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from clients.terms import Kind, ObjectId, ServicePrincipal, Unknown, object_id
from response.coverage import cae_turned_off
from response.evidence import Armed, NotArmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clients.logs import Rows
    from clients.terms import Policy, WhatIf
    from response.coverage import About

MICROSOFT_GRAPH: Final = "00000003-0000-0000-c000-000000000000"
ORDINARY_LIFETIME: Final = timedelta(minutes=90)
"""Entra gives a token without CAE a random life of 60 to 90 minutes ("Access tokens")."""
CAE_LIFETIME: Final = timedelta(hours=24)
"""Up to: CAE tokens of workload identities are long-lived because they can be ended."""
CACHED_LIFETIME: Final = timedelta(hours=24)
"""Managed identities' tokens are cached by the platform per resource for about a day; nobody can refresh them."""
ENDED_WITHIN: Final = timedelta(minutes=15)
"""The documented longest time until a critical event reaches a resource; the goal is near real time."""
LOOK_BACK: Final = timedelta(hours=28)
"""A CAE token's life and the delay of its sign-in row, before a block (facts/log-tables.md §1, CAE)."""


# --- a second opinion ---------------------------------------------------------------------------


def second_opinion(
    own: Armed | NotArmed | Unknown, what_ifs: Sequence[WhatIf] | Unknown
) -> Armed | NotArmed | Unknown:
    """
    Compare our answer with Microsoft's What If; a disagreement is Unknown and names both.

    What If counts only where it applies, its state is enabled and it blocks: policies that only report "apply" as well.
    It answers for one resource, so it never turns our Unknown into a yes. Where it gave no answer ours stands.
    Source: Graph v1.0 "conditionalAccessRoot: evaluate"; facts/entra.md §3.
    """
    if isinstance(what_ifs, Unknown):
        return own
    theirs = {one.policy_id.lower(): one for one in what_ifs}
    blocking = sorted(
        id_ for id_, one in theirs.items() if one.applies and one.state == "enabled" and one.blocks
    )
    match own:
        case Armed(policies=ours):
            agreed = tuple(id_ for id_ in ours if id_ in blocking)
            if agreed:
                return Armed(agreed)
            said = "; ".join(_said(id_, theirs.get(id_)) for id_ in ours)
            return Unknown(
                f"we find it blocked by policy {', '.join(ours)}, Microsoft's What If does not: {said}"
            )
        case NotArmed(why=why) if blocking:
            return Unknown(
                f"we find no policy that blocks it ({why}), Microsoft's What If finds {', '.join(blocking)}"
            )
        case Unknown(why=why) if blocking:
            return Unknown(
                f"{why}. Microsoft's What If, asked about one resource, finds it blocked by {', '.join(blocking)}"
            )
        case _:
            return own


def _said(policy_id: str, theirs: WhatIf | None) -> str:
    if theirs is None:
        return f"it does not name {policy_id}"
    if not theirs.applies:
        return f"{policy_id} does not apply ({', '.join(theirs.reasons) or 'no reason given'})"
    if theirs.state != "enabled":
        return f"{policy_id} is not enabled there"
    return f"{policy_id} does not block there"


# --- what continuous access evaluation reaches ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reach:
    """
    Which resources CAE ends tokens at for a principal, in appIds; empty where none. ``why`` says so for a person.

    Even there only tokens of a client that declared ``cp1`` are ended.
    """

    resources: tuple[str, ...] | Unknown
    why: str


def cae_reach(about: About, policies: Sequence[Policy] | Unknown) -> Reach:
    """Tell which resources end a principal's tokens once its risk is high or it is disabled."""
    kind = about.principal.kind
    if kind is Kind.AGENT_IDENTITY:
        why = "no document says whether continuous access evaluation covers agent identities"
        return Reach(Unknown(why), why)
    if kind is not Kind.APPLICATION:
        words = kind.value.replace("_", " ")
        return Reach((), f"continuous access evaluation covers single-tenant applications only, no {words}")
    if isinstance(policies, Unknown):
        return Reach(Unknown(policies.why), f"a policy may turn it off, and {policies.why}")
    off = cae_turned_off(policies, about)
    if isinstance(off, Unknown):
        return Reach(off, off.why)
    if off:
        return Reach((), f"policy {', '.join(off)} turns continuous access evaluation off for it")
    return Reach(
        (MICROSOFT_GRAPH,), "Microsoft Graph ends tokens of clients that declared cp1; no other resource does"
    )


# --- which tokens it got ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """
    The last token of one sort that a principal got for one resource.

    ``cae`` is what the sign-in row says; None where it says nothing: the key ``Is CAE Token`` of
    ``AuthenticationProcessingDetails`` is documented for users' rows only. ``resource`` is an appId, ``resource_name``
    the tenant's text.
    """

    principal: ObjectId
    issued_at: datetime
    resource: str
    resource_name: str
    cae: bool | None


_COLUMNS: Final = (
    "ServicePrincipalId",
    "LastIssued",
    "ResourceIdentity",
    "ResourceDisplayName",
    "AuthenticationProcessingDetails",
)
# One row for each sort of token, or an agent that asks a thousand times an hour would crowd out the others.
_TOKENS: Final = """
| where ResultType == "0"
| join kind=inner asked on ServicePrincipalId
| summarize LastIssued = max(CreatedDateTime) by ServicePrincipalId, ResourceIdentity, ResourceDisplayName, AuthenticationProcessingDetails
| project ServicePrincipalId, LastIssued, ResourceIdentity, ResourceDisplayName, AuthenticationProcessingDetails
"""


def tokens_query(principals: Iterable[ServicePrincipal]) -> str:
    """
    Compose the query for the last tokens of principals of one kind; only object ids that are GUIDs are written into it.

    Managed identities have a table of their own. Raises: ValueError for an id that is no GUID, for nobody, and for
    managed identities together with others.
    """
    asked = list(principals)
    managed = {principal.kind is Kind.MANAGED_IDENTITY for principal in asked}
    if len(managed) != 1:
        raise ValueError("ask about principals of one table, and about somebody")
    table = "AADManagedIdentitySignInLogs" if managed == {True} else "AADServicePrincipalSignInLogs"
    rows = ", ".join(f'"{object_id(principal.object_id)}"' for principal in asked)
    return f"let asked = datatable(ServicePrincipalId: string)[{rows}];\n{table}{_TOKENS}"


def tokens_from(rows: Rows) -> tuple[Token, ...]:
    """Parse the answer, oldest first. Raises: ValueError when columns are missing or an id is none."""
    at = {name: rows.columns.index(name) for name in _COLUMNS}
    found = [
        Token(
            principal=object_id(row[at["ServicePrincipalId"]]),
            issued_at=row[at["LastIssued"]],
            resource=str(row[at["ResourceIdentity"]] or "").lower(),
            resource_name=str(row[at["ResourceDisplayName"]] or ""),
            cae=_is_cae(row[at["AuthenticationProcessingDetails"]]),
        )
        for row in rows.rows
    ]
    return tuple(sorted(found, key=lambda token: token.issued_at))


def _is_cae(cell: object) -> bool | None:
    """Read the key ``Is CAE Token`` from a JSON list of keys and values; None where it is not there."""
    try:
        details = json.loads(str(cell)) if cell else []
    except ValueError:
        return None
    for item in details if isinstance(details, list) else []:
        if isinstance(item, dict) and str(item.get("key", "")).strip().lower() == "is cae token":
            return {"true": True, "false": False}.get(str(item.get("value", "")).strip().lower())
    return None


def declared_cp1(tokens: Sequence[Token] | Unknown) -> bool | Unknown:
    """Tell whether the client lets its Graph tokens be ended, from the tokens it got."""
    if isinstance(tokens, Unknown):
        return tokens
    said = [token.cae for token in tokens if token.resource == MICROSOFT_GRAPH]
    if not said:
        return Unknown("it got no token for Microsoft Graph in the time looked at")
    if None in said:
        return Unknown("its sign-in rows do not say whether its tokens were CAE tokens")
    return said[-1] is True


# --- until when old tokens work ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remaining:
    """One sort of token that may still work. ``resource`` is empty for tokens whose rows were not seen yet."""

    resource: str
    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Residual:
    """
    What the principal may still do with tokens it holds. ``until`` is when the last of them must be dead.

    ``issued_after`` are tokens issued after the block began: for those the block did not hold.
    """

    until: datetime
    remaining: tuple[Remaining, ...]
    issued_after: tuple[Token, ...] = ()


def residual_access(
    principal: ServicePrincipal,
    reach: Reach,
    tokens: Sequence[Token] | Unknown,
    *,
    blocked_from: datetime,
    seen_until: datetime,
    is_critical_event: bool,
) -> Residual:
    """
    Tell until when tokens issued before a block may work, never too early.

    ``blocked_from`` is when new tokens were surely refused: when risk read high, not when confirming it was accepted.
    Up to ``seen_until`` the sign-in log is taken to be complete; a token issued later may exist without a row.
    ``is_critical_event`` says whether the lever is an event of CAE (risk high, principal disabled); taking away
    credentials or roles is none. What is not known counts as the longer of its possibilities.
    """
    case = _Case(principal.kind, reach, blocked_from, is_critical_event)
    mine = () if isinstance(tokens, Unknown) else [t for t in tokens if t.principal == principal.object_id]
    remaining = [
        Remaining(t.resource, *_end(case, t.issued_at, t.cae, is_graph=t.resource == MICROSOFT_GRAPH))
        for t in mine
    ]
    if isinstance(tokens, Unknown) or seen_until < blocked_from:
        unseen = (
            f"its sign-ins could not be read ({tokens.why})"
            if isinstance(tokens, Unknown)
            else "a token issued shortly before the block may have no row yet"
        )
        # Of what kind it is nobody knows, whatever the ones before it were.
        until, why = max(_end(case, blocked_from, None, is_graph=graph) for graph in (True, False))
        remaining.append(Remaining("", until, f"{unseen}; {why}"))
    alive = tuple(one for one in sorted(remaining, key=lambda one: one.until) if one.until > blocked_from)
    return Residual(
        until=alive[-1].until if alive else blocked_from,
        remaining=alive,
        issued_after=tuple(token for token in mine if token.issued_at > blocked_from),
    )


@dataclass(frozen=True, slots=True)
class _Case:
    kind: Kind
    reach: Reach
    blocked_from: datetime
    is_critical_event: bool


def _end(case: _Case, issued: datetime, cae: bool | None, *, is_graph: bool) -> tuple[datetime, str]:
    """Give when a token must be dead, and why then."""
    if case.kind is Kind.MANAGED_IDENTITY:
        words = "the platform caches a managed identity's tokens for up to 24 hours"
        return issued + CACHED_LIFETIME, words
    ordinary = issued + ORDINARY_LIFETIME
    if cae is False or (cae is None and not is_graph):
        # Entra gives CAE tokens for resources that honour CAE, and for workload identities that is Graph alone.
        return ordinary, "not a CAE token: nothing ends it, and it lives for up to 90 minutes"
    reached = case.reach.resources
    ends = is_graph and case.is_critical_event and not isinstance(reached, Unknown) and bool(reached)
    if not ends or issued > case.blocked_from:
        token = "a CAE token" if cae else "possibly a CAE token"
        if not case.is_critical_event:
            because = "what was done is no event that ends CAE tokens"
        elif issued > case.blocked_from:
            because = "it was issued after the block"
        else:
            because = case.reach.why
        return issued + CAE_LIFETIME, f"{token}, which lives for up to 24 hours: {because}"
    ended = min(issued + CAE_LIFETIME, case.blocked_from + ENDED_WITHIN)
    if cae:
        return ended, "a CAE token: Microsoft Graph ends it within 15 minutes"
    words = "whether it is a CAE token is not known; if it is none, it lives for up to 90 minutes"
    return max(ended, ordinary), words
