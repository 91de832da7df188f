"""Writes whose answer is lost, requests that are throttled, bodies that are kept."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from policies_world import SP_POLICY, Desk, desk

from simtenant.faults import FaultKind
from workbench.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ENABLED, REPORT_ONLY = "enabled", "enabledForReportingButNotEnforced"


@pytest.fixture
async def d(tmp_path: Path, monkeypatch: Any, capsys: Any) -> AsyncIterator[Desk]:
    async with desk(tmp_path, monkeypatch, capsys) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "there"), [(FaultKind.DROP_AFTER, True), (FaultKind.DROP_BEFORE, False)])
async def test_a_create_whose_answer_is_lost_is_looked_for_and_never_sent_twice(
    d: Desk, kind: FaultKind, there: bool
) -> None:
    d.fault("POST .*/conditionalAccess/policies", kind)

    code, said = await d.run("apply", SP_POLICY)

    assert (code, len(d.tenant.policies)) == ((0, 1) if there else (1, 0)), said
    assert "no answer came" in said
    if not there:
        assert "created as" not in said
        assert (await d.run("apply", SP_POLICY))[0] == 0
    assert len(d.tenant.policies) == 1


async def test_a_late_effect_of_a_lost_request_is_told_and_not_taken_for_ours(d: Desk) -> None:
    d.fault("POST .*/conditionalAccess/policies", FaultKind.DROP_BEFORE)
    await d.run("apply", SP_POLICY)
    late = d.tenant.add_risk_policy(display_name=SP_POLICY, state=REPORT_ONLY)

    code, said = await d.run("apply", SP_POLICY)
    assert (code, len(d.tenant.policies)) == (1, 1)
    assert "A request of ours to create it was sent at" in said

    code, said = await d.run("apply", SP_POLICY, "--policy-id", late["id"])
    assert (code, len(d.tenant.policies)) == (0, 1), said
    assert (await d.run("apply", SP_POLICY))[0] == 0


async def test_an_unreadable_state_file_stops_everything(d: Desk) -> None:
    await d.run("apply", SP_POLICY)
    d.state.write_text(d.state.read_text()[:-20])
    with pytest.raises(UsageError, match="cannot be read"):
        await d.run("promote", SP_POLICY, "--accept-short-history", "0")
    assert d.policy()["state"] == REPORT_ONLY


@pytest.mark.parametrize(
    ("kind", "state"), [(FaultKind.DROP_AFTER, ENABLED), (FaultKind.DROP_BEFORE, REPORT_ONLY)]
)
async def test_a_change_whose_answer_is_lost_says_what_the_tenant_shows(
    d: Desk, kind: FaultKind, state: str
) -> None:
    await d.run("apply", SP_POLICY)
    d.fault("PATCH .*/conditionalAccess/policies", kind)

    code, said = await d.run("promote", SP_POLICY, "--accept-short-history", "0")

    assert (code, d.policy()["state"]) == (0 if state == ENABLED else 1, state), said
    assert len([one for one in d.writes() if one.startswith("PATCH")]) == 1
    assert ("enabled. New token requests" in said) is (state == ENABLED)


async def test_the_body_from_before_is_on_disk_before_the_write_and_for_its_owner_only(
    d: Desk, monkeypatch: Any
) -> None:
    await d.run("apply", SP_POLICY)
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(len(d.writes())), sync(fd))[1])
    await d.run("promote", SP_POLICY, "--accept-short-history", "0")

    [saved] = list(d.state.with_name(d.state.name + ".bodies").iterdir())
    assert json.loads(saved.read_text())["state"] == REPORT_ONLY
    assert synced.count(1) >= 4  # file and folder, twice, while only the POST had been sent
    for file in (saved, d.state):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_throttled_write_is_done_once_in_the_end(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    async with desk(tmp_path, monkeypatch, capsys) as d:
        d.fault("POST .*/conditionalAccess/policies", FaultKind.STATUS, status=429)
        code, said = await d.run("apply", SP_POLICY)

    assert (code, d.writes(), len(d.tenant.policies)) == (0, ["POST 429", "POST 201"], 1), said


async def test_at_the_documented_rate_nothing_is_throttled(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    async with desk(tmp_path, monkeypatch, capsys, identity_protection_per_second=1) as d:
        code, said = await d.run("apply", SP_POLICY, pace="1.1")

    assert (code, d.writes(), d.tenant.throttle.refused) == (0, ["POST 201"], 0), said
