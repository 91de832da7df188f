"""
The rules: one folder each, loaded whole or not at all.

``rule.yaml`` speaks Sentinel's field names plus one block ``breaker:``; ``query.kql`` is the logic. A catalogue with
a fault in one rule does not load: a rule that is silently missing is a blind spot nobody sees. All faults of all
rules are told at once. What needs more than the files (parser, ATT&CK, cases) is ``python -m workbench check``.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import yaml

from response.finding import Tier

DETECTIONS: Final = Path(__file__).resolve().parent

RESULT_COLUMNS: Final = (
    "PrincipalId",
    "PrincipalName",
    "AppId",
    "FirstSeen",
    "LastSeen",
    "Count",
    "Reason",
    "IPAddress",
    "Resource",
    "EventIds",
    "Confidence",
)

_DURATION = re.compile(r"(\d+)([mhd])")
_UNITS: Final[Mapping[str, str]] = MappingProxyType({"m": "minutes", "h": "hours", "d": "days"})
_RULE_ID = re.compile(r"AG-\d{2}[a-z]?")
_Choice = TypeVar("_Choice", bound=StrEnum)


class Confidence(StrEnum):
    """How sure a rule is of one finding; ``learning`` says that too little is known of the principal to judge."""

    LEARNING = "learning"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class SweepGroup(StrEnum):
    """Which timer runs a rule."""

    FAST = "fast"  # every minute: events that speak for themselves
    WINDOWED = "windowed"  # every five minutes: windows, and what is new against a baseline
    BASELINE = "baseline"  # hourly: amounts against a principal's own distribution


class Severity(StrEnum):
    """Sentinel's severities."""

    INFORMATIONAL = "Informational"
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class Kind(StrEnum):
    """Sentinel's kinds of rule that people write."""

    SCHEDULED = "Scheduled"
    NRT = "NRT"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a rule: where, what, and what to write instead."""

    file: str
    field: str
    wrong: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.wrong}; write {self.instead}"


class CatalogError(Exception):
    """Rules could not be loaded; ``faults`` has every reason, of every rule."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class RunbookStep:
    """One step for the person on duty: look at ``field`` over ``window`` and answer ``question``."""

    window: str
    field: str
    question: str


@dataclass(frozen=True, slots=True)
class EntityMapping:
    """Which columns name an entity of Sentinel: (identifier, column) pairs."""

    entity_type: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One detection.

    ``id`` is ours (AG-04), ``sentinel_id`` the GUID of the analytics rule. ``window`` is what one run judges,
    ``late_arrival`` how late rows may come and still be judged, ``lookback`` how much earlier history the query reads
    by itself. ``quiet_for`` is how long the same principal, rule and resource stay one finding. A finding of this rule
    makes later ones of the rules in ``lifts``, on the same principal and within the corroboration window, ``auto``.
    ``only_failures``: all it rests on are refused attempts, which anybody can make who knows the victim's appId.
    ``query`` begins with the two ``let`` lines that ``runner.bind_window`` replaces.
    """

    folder: str
    id: str
    sentinel_id: UUID
    name: str
    description: str
    severity: Severity
    kind: Kind
    version: str
    query_frequency: timedelta | None
    query_period: timedelta | None
    tactics: tuple[str, ...]
    techniques: tuple[str, ...]
    connectors: Mapping[str, tuple[str, ...]]
    entity_mappings: tuple[EntityMapping, ...]
    custom_details: Mapping[str, str]
    family: str
    tier: Tier
    tier_by_confidence: Mapping[Confidence, Tier]
    window: timedelta
    late_arrival: timedelta
    lookback: timedelta
    sweep: SweepGroup
    quiet_for: timedelta
    lifts: tuple[str, ...]
    only_failures: bool
    required_tables: tuple[str, ...]
    any_of_tables: tuple[str, ...]
    when_table_missing: str
    false_positives: tuple[str, ...]
    known_gaps: tuple[str, ...]
    runbook: tuple[RunbookStep, ...]
    query: str

    def tier_of(self, confidence: Confidence) -> Tier:
        """Give what a finding of this confidence is worth."""
        tier = Tier.CONTEXT if confidence is Confidence.LEARNING else self.tier
        return self.tier_by_confidence.get(confidence, tier)

    def sentinel_query(self) -> str:
        """Give the query as Sentinel runs it: with the column ``DetectionId`` that the custom details carry."""
        return f'{self.query.rstrip()}\n| extend DetectionId = "{self.id}"\n'

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read one rule folder. Raises: CatalogError with every fault of the rule."""
        faults: list[Fault] = []
        texts = {name: _text_of(folder, name, faults) for name in ("rule.yaml", "query.kql")}
        if faults:
            raise CatalogError(faults)
        document = _mapping_of(folder, texts["rule.yaml"], faults)
        rule = cls._from_document(folder, document, texts["query.kql"], faults)
        if faults:
            raise CatalogError(faults)
        return rule

    @classmethod
    def _from_document(
        cls, folder: Path, document: Mapping[str, Any], query: str, faults: list[Fault]
    ) -> Self:
        top = _Fields(f"{folder.name}/rule.yaml", "", document, faults)
        breaker = top.block("breaker")
        kind = top.choice("kind", Kind)
        scheduled = kind is Kind.SCHEDULED
        rule = cls(
            folder=folder.name,
            id=breaker.matching("id", _RULE_ID, "an id of the catalogue, as AG-04"),
            sentinel_id=top.guid("id"),
            name=top.text("name"),
            description=top.text("description"),
            severity=top.choice("severity", Severity),
            kind=kind,
            version=top.matching("version", re.compile(r"\d+\.\d+\.\d+"), "three numbers, as 1.0.0"),
            query_frequency=top.duration("queryFrequency") if scheduled else None,
            query_period=top.duration("queryPeriod") if scheduled else None,
            tactics=top.texts("tactics"),
            techniques=top.texts("relevantTechniques"),
            connectors=top.connectors("requiredDataConnectors"),
            entity_mappings=top.entity_mappings("entityMappings"),
            custom_details=top.text_map("customDetails"),
            family=breaker.text("family"),
            tier=breaker.choice("tier", Tier),
            tier_by_confidence=breaker.tier_map("tierByConfidence"),
            window=breaker.duration("window"),
            late_arrival=breaker.duration("lateArrival"),
            lookback=breaker.duration("lookback"),
            sweep=breaker.choice("sweep", SweepGroup),
            quiet_for=breaker.duration("quietFor", default="0m"),
            lifts=breaker.texts("lifts", may_be_empty=True, default=[]),
            only_failures=breaker.flag("onlyFailures"),
            required_tables=breaker.texts("requiredTables", may_be_empty=True),
            any_of_tables=breaker.texts("anyOfTables", may_be_empty=True),
            when_table_missing=breaker.text("whenTableMissing"),
            false_positives=breaker.texts("falsePositives"),
            known_gaps=breaker.texts("knownGaps"),
            runbook=breaker.runbook("runbook"),
            query=query,
        )
        top.nothing_else("status", "triggerOperator", "triggerThreshold", "eventGroupingSettings", "tags")
        breaker.nothing_else()
        return rule


def load(root: Path = DETECTIONS) -> tuple[Rule, ...]:
    """
    Load every rule folder under ``root``, in the order of their ids.

    A rule folder is one that holds ``rule.yaml``, ``query.kql`` or ``cases.yaml``.
    Raises: CatalogError with every fault of every rule, also two rules of one id and a root without rules.
    """
    faults: list[Fault] = []
    rules: list[Rule] = []
    for folder in sorted(path for path in root.iterdir() if _is_rule_folder(path)):
        try:
            rules.append(Rule.from_folder(folder))
        except CatalogError as error:
            faults += error.faults
    faults += _shared_ids(rules)
    faults += _unknown_lifts(rules)
    if not rules and not faults:
        faults.append(Fault(str(root), "folders", "there is no rule in it", "one folder a rule"))
    if faults:
        raise CatalogError(faults)
    return tuple(sorted(rules, key=lambda rule: rule.id))


def parse_yaml(text: str) -> Any:
    """
    Parse YAML without tags. Raises: yaml.YAMLError.

    By libyaml where PyYAML was built with it: 34 rules take a quarter of a second in Python, at every start of the app.
    """
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe loaders


def duration(text: object) -> timedelta:
    """Read a duration as rules write it: 5m, 1h, 13d. Raises: ValueError."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def duration_text(span: timedelta) -> str:
    """Write a duration as rules do: in the largest unit that gives a whole number."""
    minutes = int(span.total_seconds()) // 60
    for unit, size in (("d", 24 * 60), ("h", 60)):
        if minutes and minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


class _Fields:
    """
    The fields of one YAML mapping, each read once into its type.

    A reader notes a fault and gives a stand-in that nobody sees, because a rule with a fault is never handed out.
    """

    def __init__(self, file: str, path: str, values: Mapping[str, Any], faults: list[Fault]) -> None:
        self._file, self._path, self._values, self._faults = file, path, values, faults
        self._read: set[str] = set()

    def fault(self, name: str, wrong: str, instead: str) -> None:
        self._faults.append(Fault(self._file, f"{self._path}{name}", wrong, instead))

    def text(self, name: str) -> str:
        value = self._take(name)
        if isinstance(value, str) and value.strip():
            return value
        self.fault(name, "missing" if value is None else f"{value!r} is no text", "a text")
        return ""

    def matching(self, name: str, pattern: re.Pattern[str], instead: str) -> str:
        value = self._take(name)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.fault(name, "missing" if value is None else f"{value!r} does not fit", instead)
        return ""

    def guid(self, name: str) -> UUID:
        value = self._take(name)
        try:
            return UUID(value)
        except (ValueError, TypeError, AttributeError):
            self.fault(name, f"{value!r} is no GUID", "a new GUID, as `python -c 'import uuid; ...'` gives")
            return UUID(int=0)

    def choice(self, name: str, choices: type[_Choice]) -> _Choice:
        value = self._take(name)
        return self._one_of(name, value, choices)

    def duration(self, name: str, *, default: str | None = None) -> timedelta:
        value = self._take(name, default=default)
        try:
            return duration(value)
        except ValueError as error:
            self.fault(name, "missing" if value is None else str(error), "as 5m, 1h or 13d")
            return timedelta(0)

    def flag(self, name: str) -> bool:
        """Read true or false; false where it is not written."""
        value = self._take(name, default=False)
        if isinstance(value, bool):
            return value
        self.fault(name, f"{value!r} is neither true nor false", "true, without quotes")
        return False

    def texts(
        self, name: str, *, may_be_empty: bool = False, default: list[str] | None = None
    ) -> tuple[str, ...]:
        value = self._take(name, default=default)
        if isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value):
            if value or may_be_empty:
                return tuple(value)
            self.fault(name, "the list is empty", "at least one entry")
            return ()
        self.fault(name, "missing" if value is None else f"{value!r} is no list of texts", "a list of texts")
        return ()

    def text_map(self, name: str) -> Mapping[str, str]:
        value = self._take(name)
        if isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair):
            return MappingProxyType(dict(value))
        self.fault(
            name, "missing" if value is None else f"{value!r} is no map of texts", "name: Column pairs"
        )
        return MappingProxyType({})

    def tier_map(self, name: str) -> Mapping[Confidence, Tier]:
        value = self._take(name, default={})
        if not isinstance(value, dict):
            self.fault(name, f"{value!r} is no map", "confidence: tier pairs, as {high: auto}")
            return MappingProxyType({})
        if value.get(Confidence.LEARNING, Tier.CONTEXT) != Tier.CONTEXT:
            self.fault(name, "learning is more than context", "nothing: learning is context in every rule")
        return MappingProxyType(
            {
                self._one_of(name, confidence, Confidence): self._one_of(f"{name}.{confidence}", tier, Tier)
                for confidence, tier in value.items()
            }
        )

    def block(self, name: str) -> "_Fields":
        value = self._take(name)
        if not isinstance(value, dict):
            self.fault(name, "missing" if value is None else "not a mapping", "a block of its own fields")
            value = {}
        return _Fields(self._file, f"{self._path}{name}.", value, self._faults)

    def connectors(self, name: str) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for item in self.blocks(name):
            found[item.text("connectorId")] = item.texts("dataTypes")
            item.nothing_else()
        return MappingProxyType(found)

    def entity_mappings(self, name: str) -> tuple[EntityMapping, ...]:
        found = []
        for item in self.blocks(name):
            pairs = []
            for pair in item.blocks("fieldMappings"):
                pairs.append((pair.text("identifier"), pair.text("columnName")))
                pair.nothing_else()
            found.append(EntityMapping(item.text("entityType"), tuple(pairs)))
            item.nothing_else()
        return tuple(found)

    def runbook(self, name: str) -> tuple[RunbookStep, ...]:
        found = []
        for item in self.blocks(name):
            found.append(RunbookStep(item.text("window"), item.text("field"), item.text("question")))
            item.nothing_else()
        return tuple(found)

    def nothing_else(self, *allowed: str) -> None:
        """Note every field that nobody read: it is misspelt or does not exist, and would have no effect."""
        for name in self._values:
            if name not in self._read and name not in allowed:
                self.fault(name, "no such field", "one of the fields of docs/rules.md, or nothing")

    def blocks(self, name: str) -> "list[_Fields]":
        value = self._take(name)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            self.fault(name, "missing or no list of mappings", "at least one mapping, see docs/rules.md")
            return []
        return [
            _Fields(self._file, f"{self._path}{name}[{number}].", item, self._faults)
            for number, item in enumerate(value)
        ]

    def _one_of(self, name: str, value: object, choices: type[_Choice]) -> _Choice:
        try:
            return choices(str(value))
        except ValueError:
            wrong = "missing" if value is None else f"{value!r} is none of them"
            self.fault(name, wrong, " or ".join(choices))
            return next(iter(choices))

    def _take(self, name: str, default: object = None) -> Any:
        self._read.add(name)
        return self._values.get(name, default)


def _is_rule_folder(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in ("rule.yaml", "query.kql", "cases.yaml"))


def _text_of(folder: Path, name: str, faults: list[Fault]) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        faults.append(Fault(f"{folder.name}/{name}", "file", "it is missing", "the file, see docs/rules.md"))
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(f"{folder.name}/{name}", "file", f"unreadable: {error}", "UTF-8 text"))
    return ""


def _mapping_of(folder: Path, text: str, faults: list[Fault]) -> Mapping[str, Any]:
    try:
        document = parse_yaml(text)
    except yaml.YAMLError as error:
        faults.append(Fault(f"{folder.name}/rule.yaml", "file", f"no YAML: {error}", "valid YAML"))
        raise CatalogError(faults) from error
    if not isinstance(document, dict):
        faults.append(Fault(f"{folder.name}/rule.yaml", "file", "no mapping", "the fields of docs/rules.md"))
        raise CatalogError(faults)
    return document


def _unknown_lifts(rules: Iterable[Rule]) -> list[Fault]:
    rules = tuple(rules)
    known = {rule.id for rule in rules}
    return [
        Fault(
            f"{rule.folder}/rule.yaml", "breaker.lifts", f"there is no rule {lifted}", "ids of the catalogue"
        )
        for rule in rules
        for lifted in rule.lifts
        if lifted not in known
    ]


def _shared_ids(rules: Iterable[Rule]) -> list[Fault]:
    identities: tuple[tuple[str, Callable[[Rule], object]], ...] = (
        ("breaker.id", lambda rule: rule.id),
        ("id", lambda rule: rule.sentinel_id),
        ("name", lambda rule: rule.name),
    )
    faults = []
    for field, identity in identities:
        owners: dict[object, Rule] = {}
        for rule in rules:
            owner = owners.setdefault(identity(rule), rule)
            if owner is not rule:
                wrong = f"{identity(rule)} belongs to {owner.folder} as well"
                faults.append(Fault(f"{rule.folder}/rule.yaml", field, wrong, "one of its own"))
    return faults
