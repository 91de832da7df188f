"""Rules that rest on refused attempts alone say so, and their findings carry it."""

import shutil

import pytest
from memory import NOON, PRINCIPALS, rule

from detections.catalog import DETECTIONS, RESULT_COLUMNS, CatalogError, Rule, load
from detections.runner import DetectionRow, parse_rows
from detections.sweep import finding_of
from response.finding import Finding


def row() -> DetectionRow:
    values = {
        "PrincipalId": PRINCIPALS[0],
        "FirstSeen": NOON,
        "LastSeen": NOON,
        "Count": 1,
        "Confidence": "medium",
        "EventIds": "[]",
    }
    (parsed,) = parse_rows(rule(), RESULT_COLUMNS, [tuple(values.get(name, "") for name in RESULT_COLUMNS)])
    assert isinstance(parsed, DetectionRow)
    return parsed


@pytest.mark.parametrize("only_failures", [True, False])
def test_a_finding_says_whether_it_rests_on_refused_attempts_alone(only_failures):
    found = finding_of(rule(only_failures=only_failures), row())

    assert found.only_failures is only_failures
    assert Finding.from_body(found.to_body()).only_failures is only_failures


def test_what_a_block_refuses_rests_on_refused_attempts_alone():
    rules = {one.id: one for one in load()}

    assert rules["AG-30a"].only_failures
    assert not rules["AG-07"].only_failures  # a Graph call that is refused carries a token of the principal


def test_a_flag_that_is_neither_true_nor_false_is_a_fault(tmp_path):
    folder = tmp_path / "ag_30a_block_working"
    shutil.copytree(DETECTIONS / folder.name, folder)
    text = (folder / "rule.yaml").read_text()
    (folder / "rule.yaml").write_text(text.replace("onlyFailures: true", "onlyFailures: perhaps"))

    with pytest.raises(CatalogError, match="onlyFailures"):
        Rule.from_folder(folder)
