"""Who may run the command, what is misuse, and what is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from policies_world import SOMEBODY, SP_POLICY, Desk, desk

from workbench.__main__ import main
from workbench.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def d(tmp_path: Path, monkeypatch: Any, capsys: Any) -> AsyncIterator[Desk]:
    async with desk(tmp_path, monkeypatch, capsys) as opened:
        yield opened


async def test_the_apps_own_identity_never_changes_policies(d: Desk, monkeypatch: Any) -> None:
    code, said = await d.run("apply", SP_POLICY, "--app-object-id", d.person.object_id)
    assert (code, d.tenant.policies) == (1, [])
    assert "app's own identity" in said
    monkeypatch.setenv("AGENTBREAKER_CLIENT_ID", d.person.app_id)
    assert (await d.run("apply", SP_POLICY))[0] == 1
    assert d.tenant.policies == []


async def test_missing_rights_are_named_before_anything_is_asked(d: Desk) -> None:
    d.person.app_roles.discard("Policy.ReadWrite.ConditionalAccess")

    code, said = await d.run("apply", SP_POLICY)

    assert (code, "Policy.ReadWrite.ConditionalAccess" in said, d.writes()) == (1, True, [])
    assert (await d.run("plan", SP_POLICY))[0] == 0


async def test_without_the_licence_it_says_so(d: Desk) -> None:
    d.tenant.settings.licensed = False

    code, said = await d.run("apply", SP_POLICY)

    assert (code, "Workload ID Premium" in said) == (1, True)
    d.tenant.settings.licensed = True
    assert (await d.run("apply", SP_POLICY))[0] == 0


async def test_names_from_the_tenant_cannot_redraw_the_terminal(d: Desk) -> None:
    rogue = d.tenant.add_application("evil\x1b[2J\u202eeman")
    await d.run("apply", SP_POLICY)
    d.at_risk(rogue)
    await d.fortnight(rogue)

    _, said = await d.run("promote", SP_POLICY)

    assert r"evil\x1b[2J\u202eeman" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("apply", "no-such-policy"),
        ("apply", SP_POLICY, "--exclude", "agent"),
        ("promote", SP_POLICY, "--accept", "agent"),
        ("promote", SP_POLICY, "--accept-short-history", "14"),
        ("promote", SP_POLICY, "--accept-all", "-1"),
        ("apply", "--policy-id", SOMEBODY),
    ],
)
async def test_misuse_is_told_apart(d: Desk, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        await d.run(*arguments)
    assert d.writes() == []


def test_a_token_is_never_sent_in_the_clear(capsys: Any) -> None:
    assert main(["policies", "plan", "--graph-url", "http://example.com", "--tenant", SOMEBODY]) == 2
    assert "https" in capsys.readouterr().err
