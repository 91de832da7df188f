"""
``python -m workbench ledger``: verify the hash chain, print entries; accept a break, make the index again.

``verify`` and ``show`` read only. ``accept-break`` is how a person lets enforcement go on behind a break.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clients.stores import StoreError, open_store
from response import integrity, ledger

if TYPE_CHECKING:
    import argparse

    from azure.core.credentials_async import AsyncTokenCredential

    from clients.stores import Store


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "ledger",
        help="verify the ledger's hash chain, print it, or accept a break",
        description="verify: walk the whole chain; exit code 1 and the first broken entry when it was tampered with. "
        "show: print entries as JSON lines. accept-break: record that a person knows of a break, so that levers may be "
        "pulled again. reindex: write what the index by principal lacks.",
    )
    parser.add_argument("action", choices=("verify", "show", "accept-break", "reindex"))
    parser.add_argument(
        "--store",
        default=os.environ.get("AGENTBREAKER_STORE", "sqlite:///.state/agentbreaker.db"),
        metavar="URL",
        help="default: AGENTBREAKER_STORE, else the file of a laptop; a table in Azure is read as `az login`",
    )
    parser.add_argument(
        "--tenant",
        default=os.environ.get("AGENTBREAKER_TENANT_ID"),
        metavar="GUID",
        help="default: AGENTBREAKER_TENANT_ID of the environment",
    )
    parser.add_argument(
        "--containment", default=None, metavar="ID", help="show: only entries of this containment"
    )
    parser.add_argument(
        "--principal", default=None, metavar="ID", help="show: only entries about this principal"
    )
    parser.add_argument(
        "--last", type=_whole_number, default=None, metavar="N", help="show: only the newest N"
    )
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help="accept-break: why; kept in the ledger for ever"
    )
    parser.add_argument(
        "--by",
        default="",
        metavar="NAME",
        help="accept-break: who says so; default: the user of this machine",
    )
    parser.set_defaults(command=_command)


def _whole_number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("a whole number from 1")
    return int(text)


def _command(parsed: argparse.Namespace) -> int:
    try:
        return asyncio.run(_run(parsed))
    except (StoreError, ValueError) as error:
        print(f"the ledger could not be read: {error}")
        return 2


async def _run(parsed: argparse.Namespace) -> int:
    if not parsed.tenant:
        raise ValueError("name the tenant: --tenant GUID, or AGENTBREAKER_TENANT_ID in the environment")
    path = parsed.store.removeprefix("sqlite:///")
    if path != parsed.store and not await asyncio.to_thread(Path(path).is_file):
        raise ValueError(f"there is no file {path}")
    credential = _credential(parsed.store)
    store = open_store(parsed.store, parsed.tenant.lower(), credential)
    try:
        match parsed.action:
            case "verify":
                return await _verify(store)
            case "accept-break":
                return await _accept(store, parsed.reason, parsed.by)
            case "reindex":
                print(f"{await ledger.reindex(store)} entries were not in the index, and are now")
                return 0
            case _:
                return await _show(store, parsed)
    finally:
        await store.close()
        if credential is not None:
            await credential.close()


def _credential(url: str) -> AsyncTokenCredential | None:
    if not url.startswith("https://"):
        return None
    from azure.identity.aio import AzureCliCredential  # noqa: PLC0415  # only for a store in Azure

    return AzureCliCredential()


async def _verify(store: Store) -> int:
    recorded = await integrity.recorded_break(store)
    result = await ledger.verify(store, witness=await integrity.read_witness(store))
    if isinstance(result, ledger.Broken):
        print(f"BROKEN at entry {result.number}: {result.why}. Entries before it are as they were written.")
        return 1
    if recorded is not None:
        print(
            f"The chain reads well, but a break at entry {recorded.number} was recorded and nobody has accepted it:"
            f" {recorded.why}. No lever is pulled until somebody does (accept-break)."
        )
        return 1
    if not result.entries:
        print("the ledger is empty: nothing was recorded for this tenant in this store")
        return 0
    print(f"{result.entries} entries, chain intact, last hash {result.head}")
    if result.accepted:
        print(
            f"It has {result.accepted} breaks that people accepted: see the entries of kind break_accepted."
        )
    print("Note the last hash elsewhere: only that shows later that nothing was cut off and rewritten.")
    return 0


async def _accept(store: Store, reason: str, by: str) -> int:
    if not reason.strip():
        raise ValueError("say why with --reason: it stays in the ledger")
    actor = f"desk:{by.strip() or _user()}"
    entry = await integrity.accept_break(store, actor=actor, reason=reason.strip(), now=datetime.now(UTC))
    if entry is None:
        print("nothing is broken, so there is nothing to accept")
        return 1
    print(f"accepted by {actor}, entry {entry.number}: {entry.body['why']} (entry {entry.body['number']})")
    result = await ledger.verify(store)
    if isinstance(result, ledger.Broken):
        print(f"STILL BROKEN at entry {result.number}: {result.why}")
        return 1
    print("Levers may be pulled again. What was lost or changed stays so.")
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ValueError("this machine does not say who you are: name yourself with --by") from error


async def _show(store: Store, parsed: argparse.Namespace) -> int:
    containment, last = parsed.containment, parsed.last
    if parsed.principal is not None:
        newest = await ledger.about(store, parsed.principal, last or 10_000, containment_id=containment)
        found = newest[::-1]
    elif last is not None and containment is None:
        found = (await ledger.recent(store, last))[::-1]
    else:
        found = await ledger.entries(store, containment_id=containment)
        found = found[-last:] if last is not None else found
    for entry in found:
        print(json.dumps(asdict(entry), default=str))
    return 0
