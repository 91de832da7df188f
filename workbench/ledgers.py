"""``python -m workbench ledger``: verify the hash chain, or print the entries. Reads only."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clients.stores import StoreError, open_store
from response import ledger

if TYPE_CHECKING:
    import argparse

    from azure.core.credentials_async import AsyncTokenCredential

    from clients.stores import Store


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "ledger",
        help="verify the ledger's hash chain, or print it",
        description="verify: walk the whole chain; exit code 1 and the first broken entry when it was tampered with. "
        "show: print the entries as JSON lines.",
    )
    parser.add_argument("action", choices=("verify", "show"))
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
    parser.set_defaults(command=_command)


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
        return await (_verify(store) if parsed.action == "verify" else _show(store, parsed.containment))
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
    result = await ledger.verify(store)
    if isinstance(result, ledger.Broken):
        print(f"BROKEN at entry {result.number}: {result.why}. Entries before it are as they were written.")
        return 1
    if not result.entries:
        print("the ledger is empty: nothing was recorded for this tenant in this store")
        return 0
    print(f"{result.entries} entries, chain intact, last hash {result.head}")
    print("Note the last hash elsewhere: only that shows later that nothing was cut off and rewritten.")
    return 0


async def _show(store: Store, containment: str | None) -> int:
    for entry in await ledger.entries(store, containment_id=containment):
        print(json.dumps(asdict(entry), default=str))
    return 0
