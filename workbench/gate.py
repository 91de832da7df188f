"""
What a rule must be before it may act: the checks of ``python -m workbench check``.

Each check is a function from a rule to its faults. A fault says file, field, what is wrong and what to write instead.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from detections.catalog import RESULT_COLUMNS, Fault, Kind, Rule, duration_text
from detections.runner import WindowError, bind_window, default_window
from workbench import schemas
from workbench.cases import CasesError, load_cases
from workbench.engine import LogEngine, QueryError
from workbench.export import LONGEST, MAX_QUERY, SHORTEST
from workbench.parser import KqlParser

ATTACK: Final = Path(__file__).with_name("attack.json")
MIN_CASES: Final = 6

# Kinds of sign (docs/decisions.md): two findings of one family do not corroborate each other.
FAMILIES: Final = (
    "reach",
    "volume",
    "probing",
    "origin",
    "token",
    "credential",
    "control",
    "execution",
    "egress",
    "prompt",
    "dlp",
    "id-protection",
    "containment",
    "after-containment",
    "hop",
    "canary",
    "dormancy",
)

# facts of the Sentinel rule format: enum of tactics, entity types with their identifiers, limits of a rule.
_TACTICS: Final = frozenset(
    [
        "Reconnaissance",
        "ResourceDevelopment",
        "InitialAccess",
        "Execution",
        "Persistence",
        "PrivilegeEscalation",
        "DefenseEvasion",
        "CredentialAccess",
        "Discovery",
        "LateralMovement",
        "Collection",
        "CommandAndControl",
        "Exfiltration",
        "Impact",
        "ImpairProcessControl",
        "InhibitResponseFunction",
    ]
)
_CUSTOM_DETAILS: Final = ("ServicePrincipalId", "AppId", "DetectionId", "Confidence")
_ENTITIES: Final = (
    ("Account", ("AadUserId", "PrincipalId")),
    ("Account", ("Name", "PrincipalName")),
    ("IP", ("Address", "IPAddress")),
)
_LEGACY: Final = "AzureDiagnostics"

# The portable subset: what the local engine refuses or, worse, answers differently. Source: the engine's contract.
_NOT_PORTABLE: Final = (
    (r"\bmv-apply\b", "mv-apply", "mv-expand and summarize"),
    (r"\bmake-series\b", "make-series", "summarize by bin(TimeGenerated, 1h)"),
    (r"\bexternaldata\b", "externaldata", "a watchlist"),
    (r"\bevaluate\b", "evaluate", "operators of the portable subset"),
    (r"^\s*(search|find)\b", "search and find", "the tables by name"),
    (r"\b(prev|next|row_number|serialize|scan)\s*\(", "window functions", "bins and a join, or arg_max"),
    (r"\b(ago|now)\s*\(", "ago() and now() below the two first lines", "windowStart and windowEnd"),
    (r"\bingestion_time\s*\(", "ingestion_time()", "overlapping windows; the runner sees to late rows"),
    (r"\bmake_(set|list)\s*\([^()]*,\s*\d+\s*\)", "make_set with a limit", "array_slice(make_set(x), 0, 19)"),
    (r"\bbin\s*\([^()]*,\s*(7d|14d|5h)\s*\)", "bins that do not divide a day", "startofweek(), 1h or 1d"),
    (r"\bResultType\s*==\s*\d", "ResultType compared with a number", 'text, as ResultType == "0"'),
    (r"\bTenantId\b", "TenantId, which is the workspace", "AADTenantId or AadTenantId"),
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the checks work with; ``parser`` is None where Microsoft's parser is not installed."""

    root: Path
    engine: LogEngine
    parser: KqlParser | None


def check_rule(rule: Rule, desk: Desk) -> list[Fault]:
    """Give every fault of a rule, in the order of the checks."""
    return [fault for check in CHECKS for fault in check(rule, desk)]


def _names(rule: Rule, _: Desk) -> Iterator[Fault]:
    prefix = rule.id.lower().replace("-", "_") + "_"
    if not re.fullmatch(re.escape(prefix) + r"[a-z0-9_]+", rule.folder):
        yield _yaml(
            rule, "breaker.id", f"{rule.id} and the folder {rule.folder} differ", f"a folder {prefix}…"
        )
    words = {word for word in rule.folder.removeprefix(prefix).split("_") if len(word) > 3}
    if not any(word[:5] in rule.name.lower() for word in words):
        yield _yaml(
            rule, "name", f"{rule.name!r} shares no word with the folder", "recognisably the same thing"
        )
    if len(rule.name) > 50 or rule.name.endswith("."):
        yield _yaml(rule, "name", "too long or with a full stop", "up to 50 characters, no full stop")
    if len(rule.description) > 5000:
        yield _yaml(rule, "description", "too long", "up to 5000 characters")


def _family(rule: Rule, _: Desk) -> Iterator[Fault]:
    if rule.family not in FAMILIES:
        yield _yaml(
            rule,
            "breaker.family",
            f"{rule.family} is no family",
            f"one of {', '.join(FAMILIES)}: signs of one family do not corroborate each other (docs/decisions.md)",
        )


def _schedule(rule: Rule, _: Desk) -> Iterator[Fault]:
    frequency, period = rule.query_frequency, rule.query_period
    if rule.kind is Kind.NRT or frequency is None or period is None:
        return
    if not SHORTEST <= frequency <= period <= LONGEST:
        yield _yaml(rule, "queryPeriod", "Sentinel refuses it", "5m ≤ queryFrequency ≤ queryPeriod ≤ 14d")
    if period >= timedelta(days=2) and frequency < timedelta(hours=1):
        yield _yaml(rule, "queryFrequency", "too often for a period of 2d or more", "1h or more")
    reads = rule.window + rule.late_arrival
    if reads < frequency + rule.late_arrival:
        yield _yaml(
            rule,
            "breaker.window",
            f"{duration_text(rule.window)} is shorter than queryFrequency: what comes late between two runs of Sentinel "
            "is judged by neither",
            f"{duration_text(frequency)} or more, or a shorter queryFrequency",
        )
    # A rule that looks further back than Sentinel can runs in the app alone; the export says so.
    needs = min(reads + rule.lookback, LONGEST)
    if period < needs:
        yield _yaml(
            rule,
            "queryPeriod",
            f"shorter than the {duration_text(needs)} the query reads",
            "more, or less lookback",
        )


def _attack(rule: Rule, _: Desk) -> Iterator[Fault]:
    pinned: dict[str, list[str]] = json.loads(ATTACK.read_text(encoding="utf-8"))
    for tactic in rule.tactics:
        if tactic not in _TACTICS:
            yield _yaml(rule, "tactics", f"{tactic} is none of Sentinel's", ", ".join(sorted(_TACTICS)))
    for technique in rule.techniques:
        wanted = pinned.get(technique.partition(".")[0])
        if wanted is None:
            yield _yaml(
                rule, "relevantTechniques", f"{technique} is not in attack.json", "one that is, as T1528"
            )
        elif missing := [tactic for tactic in wanted if tactic not in rule.tactics]:
            yield _yaml(rule, "tactics", f"{technique} needs {', '.join(missing)} as well", ", ".join(wanted))


def _mappings(rule: Rule, _: Desk) -> Iterator[Fault]:
    mapped = {(mapping.entity_type, pair) for mapping in rule.entity_mappings for pair in mapping.fields}
    for entity, pair in _ENTITIES:
        if (entity, pair) not in mapped:
            yield _yaml(rule, "entityMappings", f"{entity} lacks {pair[0]}", f"{pair[0]} from {pair[1]}")
    columns = {*RESULT_COLUMNS, "DetectionId"}
    used = [column for _, (_, column) in mapped] + list(rule.custom_details.values())
    for column in sorted({column for column in used if column not in columns}):
        yield _yaml(
            rule,
            "entityMappings or customDetails",
            f"{column} is no column of the answer",
            ", ".join(sorted(columns)),
        )
    for key in _CUSTOM_DETAILS:
        if key not in rule.custom_details:
            yield _yaml(rule, "customDetails", f"{key} is missing", f"{key}: its column")
    for key in rule.custom_details:
        if len(key) > 20 or not re.fullmatch(r"[a-zA-Z]+\w*", key):
            yield _yaml(
                rule, "customDetails", f"Sentinel refuses the key {key}", "up to 20 letters and digits"
            )


def _tables(rule: Rule, _: Desk) -> Iterator[Fault]:
    known = schemas.tables()
    declared = {*rule.required_tables, *rule.any_of_tables}
    for table in sorted(declared - set(known)):
        yield _yaml(
            rule, "breaker.requiredTables", f"{table} is not in workbench/schemas", "a table that exists"
        )
    text = _without_comments(rule.query)
    for table in sorted(declared & set(known)):
        if not re.search(rf"\b{table}\b", text):
            yield _yaml(
                rule, "breaker.requiredTables", f"the query does not read {table}", "only what it reads"
            )
    connected = {table for types in rule.connectors.values() for table in types}
    for table in sorted(table for table in known if re.search(rf"\b{table}\b", text)):
        if table not in connected:
            yield _yaml(rule, "requiredDataConnectors", f"no connector brings {table}", "its dataTypes")


def _window(rule: Rule, _: Desk) -> Iterator[Fault]:
    try:
        reads = default_window(rule.query)
        bind_window(rule.query, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    except WindowError as error:
        yield _kql(rule, "window", str(error), "let windowStart = ago(90m); and let windowEnd = now(); first")
        return
    if not rule.query.startswith("let windowStart = ") or not rule.query.splitlines()[1].startswith(
        "let windowEnd"
    ):
        yield _kql(rule, "window", "other lines stand before the two let lines", "them first, comments below")
    if reads != rule.window + rule.late_arrival:
        wanted = duration_text(rule.window + rule.late_arrival)
        yield _kql(
            rule, "windowStart", f"ago({duration_text(reads)}) is not window + lateArrival", f"ago({wanted})"
        )
    if len(rule.sentinel_query()) > MAX_QUERY:
        yield _kql(rule, "query", "longer than Sentinel takes", f"up to {MAX_QUERY} characters")


def _subset(rule: Rule, _: Desk) -> Iterator[Fault]:
    lines = _without_comments(rule.query).splitlines()
    for number, line in enumerate(lines[2:], start=3):
        for pattern, what, instead in _NOT_PORTABLE:
            if re.search(pattern, line):
                yield _kql(rule, f"line {number}", f"{what} is not portable", instead)


def _official(rule: Rule, desk: Desk) -> Iterator[Fault]:
    if desk.parser is None:
        return
    analysis = desk.parser.check(rule.query)
    for error in analysis.errors:
        yield _kql(
            rule, f"line {error.line}", f"{error.code} {error.message}", "what Microsoft's parser accepts"
        )
    if not analysis.errors:
        yield from _projection(rule, [name for name, _ in analysis.columns], "Microsoft's parser")
        for error in desk.parser.check(rule.sentinel_query()).errors:
            yield _kql(rule, "exported query", f"{error.code} {error.message}", "no column named DetectionId")


def _other_workspaces(rule: Rule, desk: Desk) -> Iterator[Fault]:
    """Workspaces differ: a table that nothing has written to yet is missing, and AzureDiagnostics types as it likes."""
    if desk.parser is None or desk.parser.check(rule.query).errors:
        return
    text = _without_comments(rule.query)
    tables = schemas.tables()
    read = [table for table in tables if re.search(rf"\b{table}\b", text)]
    for table in read:
        if table in rule.required_tables:
            continue
        others = {name: columns for name, columns in tables.items() if name != table}
        for error in desk.parser.check(rule.query, others).errors:
            yield _kql(
                rule,
                f"line {error.line}",
                f"without {table}: {error.code} {error.message}",
                f"({table} | ...) as a part of union isfuzzy=true, not in a let of its own; or make it required",
            )
    if _LEGACY in read:
        for how, columns in _legacy_shapes(tables[_LEGACY], text):
            for error in desk.parser.check(rule.query, {**tables, _LEGACY: columns}).errors:
                yield _kql(
                    rule,
                    f"line {error.line}",
                    f"with {how} in {_LEGACY}: {error.code} {error.message}",
                    'tostring(column_ifexists("name", ""))',
                )


def _legacy_shapes(
    columns: Sequence[tuple[str, str]], text: str
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Give what the columns that come with their first value can be: text, GUID, or not there."""
    grown = {name for name, _ in columns if re.search(r"_[sgd]$", name) and re.search(rf"\b{name}\b", text)}
    ids = {name for name in grown if name.endswith("_g")}
    for kind in ("string", "guid"):
        yield f"ids as {kind}", [(name, kind if name in ids else own) for name, own in columns]
    for gone in sorted(grown):
        yield f"no {gone}", [(name, own) for name, own in columns if name != gone]


def _local(rule: Rule, desk: Desk) -> Iterator[Fault]:
    try:
        result = desk.engine.query(rule.query, now=datetime(2026, 1, 15, tzinfo=UTC))
    except QueryError as error:
        yield _kql(
            rule,
            "query",
            f"the local engine: {error.code}: {error.message}",
            "the portable subset, docs/rules.md",
        )
        return
    yield from _projection(rule, [name for name, _ in result.columns], "the local engine")


def _projection(rule: Rule, columns: Sequence[str], whose: str) -> Iterator[Fault]:
    if tuple(columns) != RESULT_COLUMNS:
        wrong = f"{whose} sees the columns {', '.join(columns)}"
        yield _kql(rule, "last project", wrong, f"| project {', '.join(RESULT_COLUMNS)}")


def _cases(rule: Rule, desk: Desk) -> Iterator[Fault]:
    file = f"{rule.folder}/cases.yaml"
    try:
        cases = load_cases(desk.root / rule.folder)
    except CasesError as error:
        yield from error.faults
        return
    if len(cases) < MIN_CASES:
        yield Fault(file, "cases", f"only {len(cases)}", f"at least {MIN_CASES}")
    if not any(case.fires for case in cases):
        yield Fault(file, "cases", "none has to fire", "one that fires")
    if all(case.fires for case in cases):
        yield Fault(file, "cases", "none has to stay silent", "the benign twin of the one that fires")
    names = [case.name for case in cases]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Fault(file, "cases", f"two are named {name!r}", "names of their own")


CHECKS: Final[tuple[Callable[[Rule, Desk], Iterable[Fault]], ...]] = (
    _names,
    _family,
    _schedule,
    _attack,
    _mappings,
    _tables,
    _window,
    _subset,
    _official,
    _other_workspaces,
    _local,
    _cases,
)


def _without_comments(kql: str) -> str:
    # A // inside a string, as in a URL, follows a colon or a quoted pattern; a comment here follows blanks only.
    return re.sub(r"(^|\s)//.*", r"\1", kql)


def _yaml(rule: Rule, field: str, wrong: str, instead: str) -> Fault:
    return Fault(f"{rule.folder}/rule.yaml", field, wrong, instead)


def _kql(rule: Rule, field: str, wrong: str, instead: str) -> Fault:
    return Fault(f"{rule.folder}/query.kql", field, wrong, instead)
