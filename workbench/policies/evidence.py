"""
Whom a report-only policy would have hit, from the sign-in log; and how far back the log can tell.

Each table is asked by itself: ``union isfuzzy=true`` would leave out a table that is not there, and a table that is not
there has not said "nobody". Sign-in rows come twice, so they are counted by ``Id``. In ``SigninLogs`` the column
ConditionalAccessPolicies is dynamic, in the others a string (facts: schemas). Results: Log Analytics reference,
``appliedConditionalAccessPolicyResult`` of Graph's signIn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from clients.errors import ClientError
from clients.terms import is_guid
from workbench.policies.refusal import RefusedError

if TYPE_CHECKING:
    from clients.logs import Rows

WINDOW: Final = timedelta(days=14)
_LOOKED_BACK: Final = timedelta(days=30)
# A log whose last row is older than this has stopped, or nobody signs in: its end counts, not the present.
_CURRENT: Final = timedelta(days=1)
# A policy that was enabled for a while and blocked then has hit as well.
_HIT: Final = frozenset({"reportOnlyFailure", "reportOnlyInterrupted", "failure"})
_MISS: Final = frozenset({"success", "notApplied", "notEnabled", "reportOnlySuccess", "reportOnlyNotApplied"})

# Managed identities are not asked about: Conditional Access does not reach them (entra-docs workload-identity.md).
_WORKLOADS: Final = (("AADServicePrincipalSignInLogs", "ServicePrincipalId", "ServicePrincipalName"),)
_PEOPLE: Final = (
    ("SigninLogs", "UserId", "UserPrincipalName"),
    ("AADNonInteractiveUserSignInLogs", "UserId", "UserPrincipalName"),
)

_REACH: Final = """
{table}
| where TimeGenerated >= windowStart and TimeGenerated < windowEnd
| extend Policies = tostring(ConditionalAccessPolicies)
| extend IsNamed = Policies contains policyId
| extend NamedAt = iff(IsNamed, TimeGenerated, datetime(null))
| extend IsUnreadable = IsNamed and isnull(array_length(todynamic(Policies)))
| summarize Rows = count(), Oldest = min(TimeGenerated), Newest = max(TimeGenerated), FirstNamed = min(NamedAt),
    Unreadable = countif(IsUnreadable)
| project Rows, Oldest, Newest, FirstNamed, Unreadable
"""
_HITS: Final = """
{table}
| where TimeGenerated >= windowStart and TimeGenerated < windowEnd
| where tostring(ConditionalAccessPolicies) contains policyId
| project TimeGenerated, Id, PrincipalId = {principal}, PrincipalName = {name}, ResourceDisplayName,
    Policies = tostring(ConditionalAccessPolicies)
| summarize arg_min(TimeGenerated, PrincipalId, PrincipalName, ResourceDisplayName, Policies) by Id
| mv-expand Applied = todynamic(Policies)
| where tolower(tostring(Applied.id)) == policyId
| extend Result = tostring(Applied.result)
| summarize Times = count(), First = min(TimeGenerated), arg_max(TimeGenerated, PrincipalName),
    Resources = make_set(ResourceDisplayName) by PrincipalId, Result
| project PrincipalId, PrincipalName, Result, Times, First, Last = TimeGenerated, Resources = tostring(Resources)
"""


class Logs(Protocol):
    """Who answers queries: ``clients/logs.py: LogsClient``, or the local engine in a test of the texts."""

    async def query(self, kql: str, start: datetime, end: datetime) -> Rows:
        """Run a query over rows between two times."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A principal or user that the policy would have refused, or did."""

    id: str
    name: str
    times: int
    first: datetime
    last: datetime
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """How long the log can speak about the policy as it is now; ``why`` says what makes it shorter than it might be."""

    days: float
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the log says about a policy."""

    hits: tuple[Hit, ...]
    history: History


def queries(policy_id: str, start: datetime, end: datetime, *, people: bool) -> list[tuple[str, str, str]]:
    """
    Give (table, reach, hits): the KQL for each table. Raises: ValueError for an id that is no GUID and for naive times.

    Names of tables and columns are this module's own; the id is a GUID and nothing else, times are written from datetimes.
    """
    if not is_guid(policy_id):
        raise ValueError("a policy id is a GUID")
    made = []
    for table, principal, name in _PEOPLE if people else _WORKLOADS:
        head = f'let policyId = "{policy_id.lower()}";\nlet windowEnd = {_literal(end)};\n'
        reach = f"{head}let windowStart = {_literal(end - _LOOKED_BACK)};{_REACH.format(table=table)}"
        hits = f"{head}let windowStart = {_literal(start)};{_HITS.format(table=table, principal=principal, name=name)}"
        made.append((table, reach, hits))
    return made


async def gather(logs: Logs, policy_id: str, since: datetime, now: datetime, *, people: bool) -> Evidence:
    """
    Ask the log whom the policy would have hit in the last 14 days, and how long it speaks about it (``since``: as it is now).

    Raises: RefusedError for any answer that is not whole: an unread table has not said "nobody".
    """
    found: dict[str, list[Hit]] = {}
    histories: list[History] = []
    for table, reach, hits in queries(policy_id, now - WINDOW, now, people=people):
        [row] = await _asked(logs, table, reach, now - _LOOKED_BACK, now)
        histories.append(_history(table, row, since, now))
        for line in await _asked(logs, table, hits, now - WINDOW, now):
            if hit := _hit(table, line):
                found.setdefault(hit.id, []).append(hit)
    # The shortest: what one table cannot tell, another does not make up for.
    history = min(histories, key=lambda one: one.days)
    return Evidence(tuple(_joined(parts) for _, parts in sorted(found.items())), history)


async def _asked(logs: Logs, table: str, kql: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    try:
        answer = await logs.query(kql, start, end)
    except ClientError as error:
        raise RefusedError(
            f"{table} could not be read whole ({error}), so nobody can say whom the policy would hit. Nothing was changed."
            " Check that the diagnostic setting of Entra writes this table to the workspace and that you may read it"
            " (Log Analytics Reader), then run the command again"
        ) from error
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _history(table: str, row: dict[str, Any], since: datetime, now: datetime) -> History:
    if row["Unreadable"]:
        raise RefusedError(
            f"{table} has {row['Unreadable']} rows that name the policy in a form that cannot be read, so whom it would"
            " hit is not known. Nothing was changed"
        )
    if not row["Rows"]:
        return History(0.0, f"{table} has no row of the last {_LOOKED_BACK.days} days")
    if row["FirstNamed"] is None:
        return History(0.0, f"no row of {table} names the policy: the log says nothing about it yet")
    end = now if now - row["Newest"] <= _CURRENT else row["Newest"]
    starts = {
        "the policy covers what it covers only since": since,
        f"{table} reaches back only to": row["Oldest"],
        f"the first row of {table} that names the policy is of": row["FirstNamed"],
    }
    words, start = max(starts.items(), key=lambda one: one[1])
    why = f"{words} {start:%Y-%m-%d %H:%M} UTC"
    if end is not now:
        why += f", and its last row is of {end:%Y-%m-%d %H:%M} UTC"
    return History(max(0.0, (end - max(start, now - WINDOW)) / timedelta(days=1)), why)


def _hit(table: str, line: dict[str, Any]) -> Hit | None:
    result, principal = str(line["Result"]), str(line["PrincipalId"] or "")
    if result in _MISS:
        return None
    if result not in _HIT:
        raise RefusedError(
            f"{table} has a result that this version does not know, so whom the policy would hit is not known."
            " Nothing was changed"
        )
    if not is_guid(principal):
        raise RefusedError(
            f"{table} has {line['Times']} sign-ins that the policy would have refused and does not say whose."
            " Nothing was changed"
        )
    resources = tuple(sorted(str(one) for one in json.loads(line["Resources"] or "[]") if one))
    return Hit(
        principal.lower(),
        str(line["PrincipalName"] or ""),
        int(line["Times"]),
        line["First"],
        line["Last"],
        resources,
    )


def _joined(parts: list[Hit]) -> Hit:
    latest = max(parts, key=lambda one: one.last)
    return Hit(
        latest.id,
        latest.name,
        sum(one.times for one in parts),
        min(one.first for one in parts),
        latest.last,
        tuple(sorted({resource for one in parts for resource in one.resources})),
    )


def _literal(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("a window needs times with a zone")
    return f"datetime({moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ})"
