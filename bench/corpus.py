"""
Every rule once over a large workspace: ten million Graph calls and two million sign-ins, with their baselines.

The rows are made by SQL in the file, from a seed: a fortnight of a thousand principals that do what they always do,
and two that in the last half hour do not. The rules run in a process of their own, so that its memory is theirs.
"""

# ruff: noqa: S608 - the SQL is made of this module's own constants.

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.figures import against
from detections.catalog import Rule, load
from detections.runner import bind_window, newest_window
from workbench import schemas
from workbench.engine import INGESTED_AT, LogEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.figures import Json

TARGET_SECONDS: Final = 60.0
TARGET_GIGABYTES: Final = 2.0
NOW: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)
DAYS: Final = 14
_ROOT: Final = Path(__file__).resolve().parents[1]
_THREADS: Final = 2
_MEMORY: Final = "1200MB"  # what DuckDB may use; Python and the translator come on top
_CALLS_A_SIGN_IN: Final = 5

_FAMILIES: Final = (
    # method, before the id, after it (None: no id), family as the baselines write it
    ("GET", "/users/", "/messages", "/users/{id}/messages"),
    ("GET", "/users/", "/mailFolders", "/users/{id}/mailfolders"),
    ("GET", "/users/", "/drive/root", "/users/{id}/drive"),
    ("GET", "/users/", "/calendar/events", "/users/{id}/calendar"),
    ("POST", "/users/", "/sendMail", "/users/{id}/sendmail"),
    ("GET", "/users", None, "/users"),
    ("GET", "/groups", None, "/groups"),
    ("GET", "/groups/", "/members", "/groups/{id}/members"),
    ("GET", "/sites/", "/lists", "/sites/{id}/lists"),
    ("GET", "/drives/", "/items", "/drives/{id}/items"),
    ("GET", "/teams/", "/channels", "/teams/{id}/channels"),
    ("POST", "/teams/", "/channels", "/teams/{id}/channels"),
    ("GET", "/applications", None, "/applications"),
    ("GET", "/servicePrincipals", None, "/serviceprincipals"),
    ("GET", "/deviceManagement/managedDevices", None, "/devicemanagement/manageddevices"),
    ("GET", "/auditLogs/signIns", None, "/auditlogs/signins"),
    ("GET", "/reports/getOffice365ActiveUserDetail", None, "/reports/getoffice365activeuserdetail"),
    ("PATCH", "/planner/tasks/", "/details", "/planner/tasks/{id}"),
    ("GET", "/identity/conditionalAccess/policies", None, "/identity/conditionalaccess/policies"),
    ("GET", "/organization", None, "/organization"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many Graph calls and principals there are; a fifth as many sign-ins."""

    calls: int = 10_000_000
    principals: int = 1_000

    @property
    def step(self) -> int:
        """The time between two calls, in microseconds."""
        return DAYS * 86_400_000_000 // self.calls


def build(path: Path, size: Size) -> float:
    """Write the workspace to a DuckDB file. Returns the seconds that took."""
    began = time.perf_counter()
    engine = LogEngine(str(path))
    try:
        with engine.writing() as connection:
            for statement in _statements(size):
                connection.execute(statement)
    finally:
        engine.close()
    return time.perf_counter() - began


async def measure(runs: int, path: Path) -> Json:
    """Run all rules over a workspace, in a process of its own: once cold, once to warm up, then ``runs`` times."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.corpus", str(path), str(runs)),
        cwd=_ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"bench.corpus ended with {process.returncode}")
    found = json.loads(printed)
    seconds = against(found["seconds"], p50=TARGET_SECONDS)
    gigabytes = round(found["peakBytes"] / 2**30, 2)
    return {
        "unit": "s",
        "runs": runs,
        "target": {"p50": TARGET_SECONDS, "peakGigabytes": TARGET_GIGABYTES},
        "rows": found["rows"],
        "rules": found["rules"],
        "findings": found["findings"],
        "cold": round(found["cold"], 3),
        "warm": seconds,
        "slowest": found["slowest"],
        "failed": found["failed"],
        "peakGigabytes": gigabytes,
        "ok": bool(seconds["ok"] and gigabytes <= TARGET_GIGABYTES and not found["failed"]),
    }


def run(path: Path, runs: int, rules: Sequence[Rule]) -> Json:
    """Run every rule over its newest window, again and again, and say what that took."""
    engine = opened(path)
    try:
        times: dict[str, list[float]] = {rule.id: [] for rule in rules}
        failed: dict[str, str] = {}
        rounds, findings = [], 0
        for _ in range(runs + 2):
            began, findings = time.perf_counter(), 0
            for rule in rules:
                at = time.perf_counter()
                try:
                    findings += len(ask(engine, rule).rows)
                except Exception as error:  # noqa: BLE001  # one rule that fails must not hide what the others take
                    failed[rule.id] = f"{type(error).__name__}: {error}"[:300]
                times[rule.id].append(time.perf_counter() - at)
            rounds.append(time.perf_counter() - began)
        return {
            "rows": {table: engine.count(table) for table in _FILLED},
            "rules": len(rules),
            "findings": findings,
            "cold": rounds[0],
            "seconds": rounds[2:],
            "slowest": _slowest({rule: statistics.median(taken[2:]) for rule, taken in times.items()}),
            "failed": failed,
            "peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    finally:
        engine.close()


def opened(path: Path) -> LogEngine:
    """Open the workspace as the measurements use it: two threads, and memory that leaves room for Python's own."""
    engine = LogEngine(str(path))
    with engine.writing() as connection:
        connection.execute(f"SET threads={_THREADS}")
        connection.execute(f"SET memory_limit='{_MEMORY}'")
    return engine


def ask(engine: LogEngine, rule: Rule) -> Any:
    """Run a rule over its newest window."""
    window = newest_window(rule, NOW)
    return engine.query(bind_window(rule.query, window.start, window.end), now=NOW, visible_at=NOW)


def _slowest(medians: Mapping[str, float]) -> Json:
    ordered = sorted(medians.items(), key=lambda pair: -pair[1])
    return {rule: round(seconds, 3) for rule, seconds in ordered[:5]}


def _guid(of: str) -> str:
    """Give SQL for a GUID made of a text: the same text, the same GUID."""
    return f"CAST(CAST(md5({of}) AS UUID) AS VARCHAR)"


def _statements(size: Size) -> list[str]:
    start = f"TIMESTAMP '{NOW - timedelta(days=DAYS):%Y-%m-%d %H:%M:%S}'"
    last = size.calls - 1_800_000_000 // size.step  # calls of the last half hour
    families = ", ".join(
        f"({n}, '{method}', '{before}', {'NULL' if after is None else repr(after)}, '{family}')"
        for n, (method, before, after, family) in enumerate(_FAMILIES)
    )
    at = f"{start} + to_microseconds(CAST(delivered * {size.step} AS BIGINT))"
    # One row in fifty is the one before, delivered again. Six families a principal; two of them take most of its calls. The seventh principal is refused and the
    # thirteenth reads everybody's mail at the end.
    calls = f"""
        SELECT i, delivered, i // {_CALLS_A_SIGN_IN} AS sign_in, {at} AS moment, p.*, f.*,
          CASE WHEN p.n = 13 AND i >= {last} THEN i ELSE hash(i, 'object') % 40 END AS object,
          CASE WHEN p.n = 7 AND i >= {last} THEN 403 WHEN hash(i, 'status') % 200 = 0 THEN 404
               WHEN hash(i, 'status') % 200 = 1 THEN 403 ELSE 200 END AS status
        FROM (SELECT i AS delivered, i - (i % 50 = 1)::BIGINT AS i FROM range({size.calls}) r(i))
        JOIN principals p ON p.n = hash(i // {_CALLS_A_SIGN_IN}, 'principal') % {size.principals}
        JOIN families f ON f.family_n = CASE WHEN i >= {last} AND p.n = 13 THEN 0 WHEN i >= {last} AND p.n = 7
          THEN hash(i) % {len(_FAMILIES)}
          ELSE hash(p.n, CASE WHEN hash(i) % 20 < 12 THEN 0 WHEN hash(i) % 20 < 17 THEN 1 ELSE 2 + hash(i) % 4 END)
            % {len(_FAMILIES)} END
    """
    identity = _guid("n || '/' || object")
    path = f"before || coalesce({identity} || after, '')"
    return [
        f"""CREATE TEMP TABLE principals AS SELECT i AS n, {_guid("'principal' || i")} AS id,
          {_guid("'application' || i")} AS app, 'agent-' || i AS name, {_guid("'key' || i")} AS key,
          ['192.0.2.', '198.51.100.', '203.0.113.'][1 + i % 3] || (i % 250 + 1) AS address,
          ['192.0', '198.51', '203.0'][1 + i % 3] AS network, ['NL', 'IE', 'DE'][1 + i % 3] AS country
          FROM range({size.principals}) r(i)""",
        f"CREATE TEMP TABLE families AS SELECT * FROM (VALUES {families}) v(family_n, method, before, after, family)",
        _insert(
            "AADServicePrincipalSignInLogs",
            {
                "TimeGenerated": "moment",
                "Id": _guid("'sign-in' || i"),
                "ServicePrincipalId": "id",
                "ServicePrincipalName": "name",
                "AppId": "app",
                "ResourceIdentity": "'00000003-0000-0000-c000-000000000000'",
                "ResourceDisplayName": "'Microsoft Graph'",
                "Location": "country",
                "IPAddress": "address",
                "ClientCredentialType": "'clientSecret'",
                "ServicePrincipalCredentialKeyId": "key",
                "AuthenticationProcessingDetails": '\'[{"key": "Azure AD App Authentication Library", "value": '
                '"Family: MSAL Library: MSAL.Python 1.28.0 Platform: Linux"}]\'',
                "ResultType": "CASE WHEN hash(i, 'result') % 300 = 0 THEN '7000222' ELSE '0' END",
                "UniqueTokenIdentifier": "'token-' || i",
                INGESTED_AT: "moment + to_seconds(CAST(60 + hash(i, 'late') % 300 AS BIGINT))",
            },
            f"""(SELECT i, {start} + to_microseconds(CAST(i * {_CALLS_A_SIGN_IN * size.step} AS BIGINT)) AS moment, p.*
              FROM range({size.calls // _CALLS_A_SIGN_IN}) r(i)
              JOIN principals p ON p.n = hash(i, 'principal') % {size.principals})""",
        ),
        _insert(
            "MicrosoftGraphActivityLogs",
            {
                "TimeGenerated": "moment",
                "RequestId": _guid("'request' || i"),
                "RequestMethod": "method",
                "RequestUri": f"'https://graph.microsoft.com/v1.0' || {path}",
                "ResponseStatusCode": "status",
                "IPAddress": "address",
                "UserAgent": "'python-requests/2.32'",
                "SignInActivityId": "'token-' || sign_in",
                "AppId": "app",
                "ServicePrincipalId": "id",
                "Roles": "'Mail.Read User.Read.All'",
                INGESTED_AT: "moment + to_seconds(CAST(120 + hash(i, 'late') % 900 AS BIGINT))",
            },
            f"({calls})",
        ),
        # What the baselines' own queries give for these rows, without their seven regular expressions a call
        # (tests/bench holds the two against each other).
        f"""CREATE TEMP TABLE hours AS
          SELECT time_bucket(INTERVAL '1h', moment) AS bin, id, any_value(app) AS app, method, family, count(*) AS calls,
            count(*) FILTER (status BETWEEN 200 AND 299) AS good, count(*) FILTER (status = 403) AS refused,
            count(DISTINCT (after IS NULL, CASE WHEN after IS NULL THEN 0 ELSE object END)) AS objects,
            {", ".join(f"count(*) FILTER (minute(moment) // 15 = {n}) AS quarter{n}" for n in range(4))},
            min(moment) AS first_seen, max(moment) AS last_seen
          FROM ({calls}) WHERE i = delivered GROUP BY ALL""",
        f"""CREATE TEMP TABLE mailboxes AS
          SELECT time_bucket(INTERVAL '1h', ten) AS bin, id, method, family, max(boxes) AS boxes FROM (
            SELECT time_bucket(INTERVAL '10m', moment) AS ten, id, method, family, count(DISTINCT object) AS boxes
            FROM ({calls}) WHERE i = delivered AND regexp_matches(family, '^/users/[^/]+/(messages|mailfolders|sendmail)')
            GROUP BY ALL) GROUP BY ALL""",
        _insert(
            "AgentGraphHourly_CL",
            {
                "TimeGenerated": "bin + INTERVAL '105m'",
                "BinStart": "bin",
                "PrincipalId": "id",
                "AppId": "app",
                "Method": "method",
                "Family": "family",
                "Calls": "calls",
                "Succeeded": "good",
                "Refused": "refused",
                "Objects": "objects",
                **{f"Quarter{n}": f"quarter{n}" for n in range(4)},
                "TopMailboxes": "coalesce(boxes, 0)",
                "FirstSeen": "first_seen",
                "LastSeen": "last_seen",
                INGESTED_AT: "bin + INTERVAL '105m'",
            },
            "(SELECT * FROM hours LEFT JOIN mailboxes USING (bin, id, method, family)"
            f" WHERE bin >= {start} ORDER BY bin)",
        ),
        _insert(
            "AgentResourceDaily_CL",
            {
                "TimeGenerated": "day + INTERVAL '25h'",
                "BinStart": "day",
                "PrincipalId": "id",
                "AppId": "app",
                "Source": "'Graph'",
                "Operation": "method",
                "Resource": "family",
                "Calls": "calls",
                "Succeeded": "good",
                "Refused": "refused",
                "Objects": "objects",
                "Bytes": "0",
                "TopHourObjects": "top",
                "TopHourBytes": "0",
                "FirstSeen": "first_seen",
                "LastSeen": "last_seen",
                INGESTED_AT: "day + INTERVAL '25h'",
            },
            f"""(SELECT bin::DATE::TIMESTAMP AS day, id, any_value(app) AS app, method, family, sum(calls) AS calls,
              sum(good) AS good, sum(refused) AS refused, sum(objects) AS objects, max(objects) AS top,
              min(first_seen) AS first_seen, max(last_seen) AS last_seen
              FROM hours WHERE bin < TIMESTAMP '{NOW:%Y-%m-%d}' GROUP BY day, id, method, family ORDER BY day)""",
        ),
        _insert(
            "AgentSignInDaily_CL",
            {
                "TimeGenerated": "day + INTERVAL '25h'",
                "BinStart": "day",
                "PrincipalId": '"ServicePrincipalId"',
                "PrincipalName": '"ServicePrincipalName"',
                "AppId": '"AppId"',
                "ResourceIdentity": '"ResourceIdentity"',
                "ResourceName": '"ResourceDisplayName"',
                "Country": '"Location"',
                "Network": "network",
                "Credential": "'clientsecret:' || key",
                "CredentialType": "'clientsecret'",
                "Client": "'msal.python'",
                "ClientVersion": "'1.28.0'",
                "Successes": "good",
                "Failures": "bad",
                "FirstSeen": "first_seen",
                "LastSeen": "last_seen",
                INGESTED_AT: "day + INTERVAL '25h'",
            },
            f"""(SELECT "TimeGenerated"::DATE::TIMESTAMP AS day, "ServicePrincipalId", "ServicePrincipalName", "AppId",
              "ResourceIdentity", "ResourceDisplayName", "Location", network, key,
              count(*) FILTER ("ResultType" = '0') AS good, count(*) FILTER ("ResultType" <> '0') AS bad,
              min("TimeGenerated") AS first_seen, max("TimeGenerated") AS last_seen
              FROM raw."AADServicePrincipalSignInLogs" JOIN principals p ON p.id = "ServicePrincipalId"
              WHERE "TimeGenerated" < TIMESTAMP '{NOW:%Y-%m-%d}' GROUP BY ALL ORDER BY day)""",
        ),
        "CHECKPOINT",
    ]


_FILLED: Final = (
    "MicrosoftGraphActivityLogs",
    "AADServicePrincipalSignInLogs",
    "AgentGraphHourly_CL",
    "AgentResourceDaily_CL",
    "AgentSignInDaily_CL",
)


def _insert(table: str, columns: Mapping[str, str], source: str) -> str:
    unknown = set(columns) - {name for name, _ in schemas.tables()[table]} - {INGESTED_AT}
    if unknown:
        raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}")
    names = ", ".join(f'"{name}"' for name in columns)
    return f'INSERT INTO raw."{table}" ({names}) SELECT {", ".join(columns.values())} FROM {source}'


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), load())))
