"""
``python -m workbench docs``: the pages of ``docs/detections`` from the rules themselves.

A page per rule, a table of what ATT&CK calls it, and a table of what each log table is needed for. With ``--check``
nothing is written and pages that differ are told: a test runs that, so the pages cannot fall behind.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detections.catalog import Confidence, duration_text, load
from workbench import schemas
from workbench.cases import load_cases
from workbench.export import obstacles
from workbench.gate import ATTACK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from detections.catalog import Rule

PAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "detections"
_GROUPS: Final = {"fast": "every minute", "windowed": "every five minutes", "baseline": "every hour"}


def pages(rules: Sequence[Rule], root: Path) -> dict[str, str]:
    """Give every page's text by file name. ``root`` is the folder of the rule folders, for their cases."""
    made = {f"{rule.folder}.md": _rule_page(rule, root) for rule in rules}
    return {"README.md": _index(rules), **made}


def differences(made: Mapping[str, str], folder: Path = PAGES) -> list[str]:
    """Name the pages that are missing, differ or belong to no rule."""
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}
    wrong = sorted(name for name in made if there.get(name) != made[name])
    return wrong + sorted(f"{name} (no such rule)" for name in there if name not in made)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "docs",
        help="write docs/detections from the rules",
        description="Write a page per rule, the ATT&CK table and the table of data sources to docs/detections.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page differs")
    parser.set_defaults(command=_docs)


def _docs(parsed: argparse.Namespace) -> int:
    made = pages(load(parsed.rules), parsed.rules)
    if parsed.check:
        wrong = differences(made)
        for name in wrong:
            print(f"✗ docs/detections/{name}: not what the rules say; run python -m workbench docs")
        return 1 if wrong else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for file in PAGES.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in {PAGES}")
    return 0


def _index(rules: Sequence[Rule]) -> str:
    lines = [
        "# The detections",
        "",
        "Written by `python -m workbench docs` from `detections/*/rule.yaml`; do not edit.",
        "",
        "| rule | what | one finding is worth | runs |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| [{rule.id}]({rule.folder}.md) | {rule.name} | {_worth(rule)} | {_GROUPS[rule.sweep]} |"
        for rule in rules
    ]
    lines += [
        "",
        (
            "`auto`: one finding is enough. `corroborated`: it contains with a second sign of another family within 60 minutes, "
            "or with Microsoft's own risk at medium or above. `approval`: a person decides. `context`: it adds to the dossier only."
        ),
        "",
        "## ATT&CK",
        "",
        "| tactic | technique | rules |",
        "| --- | --- | --- |",
    ]
    pinned: dict[str, list[str]] = json.loads(ATTACK.read_text(encoding="utf-8"))
    by_technique: dict[tuple[str, str], list[Rule]] = defaultdict(list)
    for rule in rules:
        for technique in rule.techniques:
            for tactic in pinned.get(technique.partition(".")[0], []):
                by_technique[tactic, technique].append(rule)
    lines += [
        f"| {tactic} | [{technique}](https://attack.mitre.org/techniques/{technique.replace('.', '/')}/) | {_links(found)} |"
        for (tactic, technique), found in sorted(by_technique.items(), key=lambda item: item[0])
    ]
    lines += [
        "",
        "## Which tables you need for which rules",
        "",
        (
            "`Agent…_CL` are the [baselines](../rules.md#baselines): summary tables that this project fills. A rule that has lost "
            "its baseline takes every principal for one it is still learning."
        ),
        "",
        "| table | without it these rules are silent | these see less |",
        "| --- | --- | --- |",
    ]
    needed: dict[str, tuple[list[Rule], list[Rule]]] = defaultdict(lambda: ([], []))
    for rule in rules:
        alone = len(rule.any_of_tables) == 1 and not rule.required_tables
        for table in rule.required_tables:
            needed[table][0].append(rule)
        for table in rule.any_of_tables:
            needed[table][0 if alone else 1].append(rule)
        for table in schemas.tables():
            named = {*rule.required_tables, *rule.any_of_tables}
            if table not in named and re.search(rf"\b{table}\b", rule.query):
                needed[table][1].append(rule)
    lines += [
        f"| {table} | {_links(silent) or '-'} | {_links(less) or '-'} |"
        for table, (silent, less) in sorted(needed.items())
    ]
    apart = [(rule, why) for rule in rules if (why := obstacles(rule))]
    lines += ["", "## Rules that run in the app only", ""]
    lines += [f"- [{rule.id}]({rule.folder}.md) {rule.name}: {'; '.join(why)}." for rule, why in apart] or [
        "None: each fits Sentinel's limits."
    ]
    return "\n".join(lines) + "\n"


def _rule_page(rule: Rule, root: Path) -> str:
    cases = load_cases(root / rule.folder)
    why = obstacles(rule)
    facts = [
        ("one finding is worth", _worth(rule)),
        ("family", f"`{rule.family}`"),
        ("severity in Sentinel", str(rule.severity)),
        ("ATT&CK", f"{', '.join(rule.tactics)}: {', '.join(rule.techniques)}"),
        ("runs", f"{_GROUPS[rule.sweep]} in the app; in Sentinel {_schedule(rule, why)}"),
        (
            "judges",
            f"{duration_text(rule.window)}, rows up to {duration_text(rule.late_arrival)} late",
        ),
        ("looks back", duration_text(rule.lookback) if rule.lookback else "not beyond its window"),
        ("needs", ", ".join(rule.required_tables) or "-"),
        ("reads where there", ", ".join(rule.any_of_tables) or "-"),
    ]
    if rule.quiet_for:
        facts.append(
            (
                "the same again",
                f"same principal and resource within {duration_text(rule.quiet_for)}: one finding",
            )
        )
    if rule.lifts:
        facts.append(("lifts", f"later findings of {', '.join(rule.lifts)} within 60 minutes to `auto`"))
    lines = [
        f"# {rule.id} {rule.name}",
        "",
        (
            "Written by `python -m workbench docs`; do not edit. "
            f"[Query](../../detections/{rule.folder}/query.kql), [rule](../../detections/{rule.folder}/rule.yaml), "
            f"[cases](../../detections/{rule.folder}/cases.yaml), [all rules](README.md)."
        ),
        "",
        rule.description.strip(),
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts),
        "",
        "## When a table is missing or empty",
        "",
        rule.when_table_missing.strip(),
        "",
        "## False positives",
        "",
        *(f"- {item.strip()}" for item in rule.false_positives),
        "",
        "## Known gaps and evasions",
        "",
        *(f"- {item.strip()}" for item in rule.known_gaps),
        "",
        "## Runbook",
        "",
        *(
            f"{number}. {step.question.strip()} Look at `{step.field}`, {step.window}."
            for number, step in enumerate(rule.runbook, start=1)
        ),
        "",
        "## What its cases hold fast",
        "",
        *(f"- {'fires' if case.fires else 'silent'}: {case.name}" for case in cases),
    ]
    return "\n".join(lines) + "\n"


def _worth(rule: Rule) -> str:
    others = [
        f"{confidence} confidence: `{rule.tier_of(confidence)}`"
        for confidence in Confidence
        if confidence in rule.tier_by_confidence
    ]
    return "; ".join([f"`{rule.tier}`", *others])


def _schedule(rule: Rule, why: tuple[str, ...]) -> str:
    if why:
        return f"not: {'; '.join(why)}"
    if rule.query_frequency is None or rule.query_period is None:
        return "as an NRT rule"
    return f"every {duration_text(rule.query_frequency)} over {duration_text(rule.query_period)}"


def _links(rules: Sequence[Rule]) -> str:
    return ", ".join(f"[{rule.id}]({rule.folder}.md)" for rule in rules)
