"""What the page on cost says is what the rules and schedules give."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from detections.catalog import SweepGroup, load
from workbench import cost
from workbench.__main__ import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cost.md").read_text()


def test_the_table_in_the_page_is_the_one_that_is_counted_now():
    counted = PAGE.split("<!-- counted: python -m workbench cost -->\n")[1].split("\n<!-- end -->")[0]

    assert counted == cost.table(load())


def test_every_rule_is_run_by_exactly_one_timer():
    rules = load()

    assert sum(timer.rules for timer in cost.timers(rules)) == len(rules)


def test_a_rule_that_needs_two_windows_a_run_counts_twice():
    rule = next(rule for rule in load() if rule.sweep is SweepGroup.WINDOWED)
    quick = replace(rule, window=timedelta(minutes=3), late_arrival=timedelta(minutes=3))

    (sweep,) = (timer for timer in cost.timers([quick]) if timer.name == "sweep")

    assert (sweep.runs, sweep.queries) == (288, 576)


def test_the_sums_that_the_page_draws_from_the_table_are_right():
    timers, readings = cost.timers(load()), cost.readings()

    assert f"({2 * sum(timer.queries for timer in timers):,})" in PAGE
    assert f"The app sends {readings['policies']:,} of the 86,400" in PAGE


def test_the_command_prints_the_table(capsys):
    assert main(["cost"]) == 0

    assert capsys.readouterr().out.startswith("| timer | schedule |")
