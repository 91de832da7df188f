"""``python -m workbench ledger`` as a person meets it."""

import asyncio
import json
from pathlib import Path

import pytest

from clients.stores import Delete, Put
from clients.stores.sqlite import SqliteStore
from response import integrity, ledger
from response.ledger import Draft, EntryKind, commit_with_entries
from workbench.__main__ import main

TENANT = "11111111-1111-4111-8111-111111111111"
ONE, OTHER = "9b2e0000-0000-4000-8000-000000000001", "9b2e0000-0000-4000-8000-000000000002"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of six entries, of two principals and two containments in turn."""
    file = tmp_path / "state.db"

    async def write() -> None:
        store = SqliteStore(file, TENANT)
        for n in range(6):

            async def build(n: int = n):
                return [], [
                    Draft(EntryKind.CLAIMED, "agentbreaker", (ONE, OTHER)[n % 2], f"c{n % 3}", {"n": n})
                ]

            await commit_with_entries(store, build)
        await store.close()

    asyncio.run(write())
    return file


def run(path: Path, *arguments: str) -> int:
    return main(["ledger", *arguments, "--store", f"sqlite:///{path}", "--tenant", TENANT])


def change(path: Path, number: int) -> None:
    async def write() -> None:
        store = SqliteStore(path, TENANT)
        record = await store.get(f"ledger:{number:012}")
        assert record is not None
        await store.commit([Put(record.key, {**record.body, "actor": "somebody else"})])
        await integrity.check_all(store)
        await store.close()

    asyncio.run(write())


def shown(capsys: pytest.CaptureFixture[str]) -> list[int]:
    return [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((), [1, 2, 3, 4, 5, 6]),
        (("--last", "2"), [5, 6]),
        (("--principal", ONE), [1, 3, 5]),
        (("--principal", ONE, "--last", "2"), [3, 5]),
        (("--principal", ONE, "--containment", "c1"), [5]),
        (("--containment", "c0"), [1, 4]),
        (("--containment", "c0", "--last", "1"), [4]),
    ],
)
def test_show_prints_what_was_asked_for_in_order(path, capsys, arguments, numbers):
    assert run(path, "show", *arguments) == 0
    assert shown(capsys) == numbers


def test_a_break_is_told_accepted_with_a_reason_and_then_told_as_accepted(path, capsys):
    change(path, 2)
    assert run(path, "verify") == 1
    assert "BROKEN at entry 2" in capsys.readouterr().out

    assert run(path, "accept-break") == 2
    assert "--reason" in capsys.readouterr().out
    assert run(path, "accept-break", "--reason", "restored from backup", "--by", "ada") == 0
    assert "accepted by desk:ada, entry 7" in capsys.readouterr().out

    assert run(path, "verify") == 0
    assert "1 breaks that people accepted" in capsys.readouterr().out
    assert run(path, "accept-break", "--reason", "again", "--by", "ada") == 1


def test_a_recorded_break_is_told_though_the_chain_reads_well(path, capsys):
    async def record() -> None:
        store = SqliteStore(path, TENANT)
        await store.commit([Put(integrity.BROKEN, {"at": "", "number": 3, "why": "changed"})])
        await store.close()

    asyncio.run(record())
    assert run(path, "verify") == 1
    assert "nobody has accepted it" in capsys.readouterr().out


def test_reindex_says_how_much_was_missing(path, capsys):
    async def forget() -> None:
        store = SqliteStore(path, TENANT)
        for record in await store.scan("about:"):
            await store.commit([Delete(record.key, record.etag)])
        assert await ledger.about(store, ONE) == []
        await store.close()

    asyncio.run(forget())
    assert run(path, "reindex") == 0
    assert capsys.readouterr().out.startswith("6 entries")
    assert run(path, "show", "--principal", OTHER) == 0
    assert shown(capsys) == [2, 4, 6]
