"""The demo as a newcomer runs it, in a process of its own."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from simtenant.__main__ import main
from simtenant.server import refuse_in_azure

ROOT = Path(__file__).resolve().parents[2]
KEYS = [
    "scenario",
    "mode",
    "principalId",
    "detections",
    "timeline",
    "secondsRowVisibleToConfirmed",
    "secondsConfirmedToDenied",
    "outcome",
    "benignContained",
    "confirmCalls",
    "graphCalls",
    "ledgerEntries",
    "ledgerVerified",
]


def demo(*arguments):
    command = [sys.executable, "-m", "simtenant", "demo", "--json", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout), ended.stderr


def test_the_rogue_agent_is_blocked_and_proven_and_nobody_else_is_touched():
    code, report, told = demo()

    assert code == 0, told
    assert list(report) == KEYS
    assert (report["scenario"], report["mode"], report["outcome"]) == ("vault", "enforce", "proven")
    # Others find it as well, sooner or later; this one suffices.
    assert "AG-04" in report["detections"]
    assert (report["benignContained"], report["confirmCalls"], report["ledgerVerified"]) == (0, 1, True)
    assert report["secondsRowVisibleToConfirmed"] > 0
    assert report["secondsConfirmedToDenied"] > 0
    assert report["ledgerEntries"] >= 8
    events = [moment["event"] for moment in report["timeline"]]
    for earlier, later in (
        ("agent rogue", "detected AG-04"),
        ("pulled", "confirmed"),
        ("agent blocked", "proven"),
    ):
        assert events.index(earlier) < events.index(later)
    assert all(datetime.fromisoformat(moment["at"]).tzinfo for moment in report["timeline"])
    assert "Traceback" not in told


def test_observe_sees_it_and_touches_nothing():
    code, report, told = demo("--mode", "observe")

    assert code == 0, told
    assert (report["outcome"], report["confirmCalls"], report["benignContained"]) == ("observed", 0, 0)
    assert "AG-04" in report["detections"]
    assert report["secondsConfirmedToDenied"] is None


@pytest.mark.parametrize("name", ["WEBSITE_SITE_NAME", "IDENTITY_ENDPOINT"])
def test_it_refuses_to_start_in_azure(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "x")

    assert main(["demo"]) == 1
    assert name in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        refuse_in_azure()


def test_a_wrong_scenario_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--scenario", "volcano"])

    assert ended.value.code == 2
    assert "vault" in capsys.readouterr().err
