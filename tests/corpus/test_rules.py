"""Every rule passes the gate and does what its cases say."""

from collections.abc import Iterator

import pytest

from detections import catalog
from detections.catalog import Rule
from workbench.cases import Case, load_cases, run_case
from workbench.engine import LogEngine
from workbench.gate import Desk, check_rule
from workbench.parser import KqlParser, ParserMissingError

RULES = catalog.load()
CASES = [(rule, case) for rule in RULES for case in load_cases(catalog.DETECTIONS / rule.folder)]


@pytest.fixture(scope="module")
def engine() -> Iterator[LogEngine]:
    engine = LogEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def parser() -> Iterator[KqlParser | str]:
    """Microsoft's parser, or why it is not here."""
    try:
        parser = KqlParser()
    except ParserMissingError as error:
        yield str(error)
        return
    yield parser
    parser.close()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_passes_the_gate(rule: Rule, engine: LogEngine, parser: KqlParser | str) -> None:
    official = None if isinstance(parser, str) else parser

    assert check_rule(rule, Desk(catalog.DETECTIONS, engine, official)) == []

    if official is None:
        pytest.skip(f"MICROSOFT'S PARSER DID NOT CHECK THE RULES: {parser}")


@pytest.mark.parametrize(
    ("rule", "case"), [pytest.param(rule, case, id=f"{rule.id}: {case.name}") for rule, case in CASES]
)
def test_rule_does_what_the_case_says(rule: Rule, case: Case) -> None:
    assert run_case(rule, case).differences == ()


@pytest.mark.parametrize("word", ["boundary -1", "boundary 0", "boundary +1"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_has_a_case_below_at_and_above_its_threshold(rule: Rule, word: str) -> None:
    assert any(word in case.name for owner, case in CASES if owner is rule)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_has_a_silent_case_with_every_row_delivered_four_times(rule: Rule) -> None:
    text = (catalog.DETECTIONS / rule.folder / "cases.yaml").read_text(encoding="utf-8")

    assert "duplicates: 4" in text
    assert any(
        not case.fires and len({str(row.get("Id") or row.get("RequestId")) for row in rows}) < len(rows)
        for owner, case in CASES
        if owner is rule
        for rows in case.rows.values()
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_has_a_case_of_a_late_row_that_the_next_sweep_finds(rule: Rule) -> None:
    assert any(
        [bool(sweep.expect) for sweep in case.sweeps] == [False, True]
        for owner, case in CASES
        if owner is rule
    )
