"""The back-test's memory against the sweep's rules: what is news, what is judged again, what a sign lifts."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detections import catalog
from detections.catalog import Confidence
from detections.runner import DetectionRow, Window
from workbench.backtest.verdicts import Judge, Told
from workbench.tenant import load_tenant

AGENT = "11111111-2222-4333-8444-000000000001"
HOME = "aaaaaaaa-0000-4000-8000-000000000001"
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
RULES = {rule.id: rule for rule in catalog.load(catalog.DETECTIONS)}


class Bench:
    """A judge, fed rows by minutes after noon."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tenant.json"
        agent = {"objectId": AGENT, "appId": AGENT, "name": "notes-agent", "kind": "application"}
        file.write_text(json.dumps({"tenantId": HOME, "principals": [agent]}))
        self.judge = Judge(RULES, load_tenant(file), lambda _principal, _now: None, lambda _now: 1000)

    def found(
        self, rule: str, begins: float, ends: float, at: float, resource: str = "", confidence: str = "medium"
    ) -> None:
        row = DetectionRow(
            rule_id=rule,
            principal_id=AGENT,
            principal_name="notes-agent",
            app_id="",
            first_seen=NOON + timedelta(minutes=begins),
            last_seen=NOON + timedelta(minutes=ends),
            count=1,
            reason=f"{rule} {resource}",
            ip_address="",
            resource=resource,
            event_ids=(),
            confidence=Confidence(confidence),
        )
        end = NOON + timedelta(minutes=at)
        self.judge.take(RULES[rule], row, Window(end - timedelta(minutes=90), end))

    def told(self) -> list[tuple[str, str, str]]:
        return [_short(told) for told in self.judge.told]


def _short(told: Told) -> tuple[str, str, str]:
    return told.detection, told.resource, told.verdict


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_something_else_after_a_prompt_attack_is_contained_though_the_same_claim_goes_on(
    bench: Bench,
) -> None:
    bench.found("AG-01", 0, 40, 45, "storage")
    bench.found("AG-25", 20, 20, 50)
    bench.found("AG-01", 25, 45, 50, "vault")

    assert bench.told()[-1] == ("AG-01", "vault", "contain")


def test_what_weighs_more_after_a_prompt_attack_is_judged_by_its_own_time(bench: Bench) -> None:
    bench.found("AG-01", 0, 40, 45, "storage", "low")
    bench.found("AG-25", 20, 20, 50)
    bench.found("AG-01", 25, 45, 50, "vault")

    assert bench.told()[-1] == ("AG-01", "vault", "contain")
    assert bench.judge.told[-1].time == NOON + timedelta(minutes=25)


def test_resources_of_a_claim_are_known_still_after_it_was_judged_anew(bench: Bench) -> None:
    bench.found("AG-01", 0, 30, 35, "one", "low")
    bench.found("AG-01", 5, 25, 35, "two", "low")
    bench.found("AG-01", 10, 30, 40, "three")
    bench.found("AG-01", 200, 200, 205, "two")

    assert [resource for _, resource, _ in bench.told()] == ["one", "three"]


def test_a_claim_that_was_watched_and_is_now_for_a_person_asks(bench: Bench) -> None:
    bench.found("AG-01", 0, 0, 5, "storage")
    bench.found("AG-01", 90, 90, 95, "storage", "low")

    assert bench.told() == [("AG-01", "storage", "ask")]


def test_a_sign_does_not_contain_what_a_person_was_asked_about(bench: Bench) -> None:
    bench.found("AG-10", 0, 0, 5, "network")
    bench.found("AG-10", 170, 170, 175, "network")
    bench.found("AG-01", 185, 185, 190, "storage")
    assert bench.told()[-1] == ("AG-01", "storage", "ask")

    bench.found("AG-25", 180, 180, 200)

    assert bench.told()[1:] == [("AG-01", "storage", "ask"), ("AG-25", "", "watch")]
