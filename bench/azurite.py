"""Azurite, Microsoft's emulator of Azure Storage, as a process of its own: the second store of the storm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.place import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_OPENS_WITHIN: Final = 60.0  # seconds


@contextlib.asynccontextmanager
async def azurite(directory: Path) -> AsyncIterator[str]:
    """
    Start Azurite's table service in memory; give the endpoint.

    Raises: RuntimeError where Node or the package (``npm install``) is missing, or it does not start.
    """
    modules = Path(os.environ.get("AGENTDESK_NODE_MODULES", ROOT / "node_modules"))
    main, node = modules / "azurite/dist/src/table/main.js", shutil.which("node")
    if node is None or not main.is_file():
        raise RuntimeError("Azurite needs Node and its package (npm install)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = directory / "azurite.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(node, str(main), "--tablePort", str(port)),
            *("--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"),
            stdout=output,
            stderr=output,
            cwd=directory,
        )
    try:
        await asyncio.wait_for(_open(port, process, log), _OPENS_WITHIN)
        yield f"http://127.0.0.1:{port}/devstoreaccount1"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _open(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    while process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise RuntimeError(f"Azurite did not start: {said[-800:]}")
