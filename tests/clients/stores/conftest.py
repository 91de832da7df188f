"""Both stores, opened on fresh state. Azurite is a real process, one for the whole run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clients.stores import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clients.stores import Store

_REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running Azurite table service."""
    modules = Path(os.environ.get("AGENTDESK_NODE_MODULES", _REPOSITORY / "node_modules"))
    main, node = modules / "azurite/dist/src/table/main.js", shutil.which("node")
    if node is None or not main.is_file():
        why = f"NOT TESTED: the Azure store. It needs Node and Azurite in {modules} (scripts/node-modules)."
        if os.environ.get("AGENTDESK_CI"):
            pytest.fail(why)
        pytest.skip(why)
    port = free_port()
    arguments = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    log = tmp_path_factory.mktemp("azurite") / "azurite.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [node, str(main), "--tablePort", str(port), *arguments],
            stdout=output,
            stderr=output,
            cwd=log.parent,
        )
        try:
            _wait_until_open(port, process, log)
            yield f"http://127.0.0.1:{port}/devstoreaccount1"
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"Azurite did not start: {log.read_text()[-2000:]}")


@pytest.fixture(params=["sqlite", "azure"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store nobody has used."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'agentbreaker.db'}"
    return f"{request.getfixturevalue('azurite')}/t{uuid.uuid4().hex}"


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Callable[[str], Store]]:
    """Opens partitions of one store and closes them at the end."""
    stores: list[Store] = []

    def opener(partition: str = "tenant") -> Store:
        stores.append(open_store(url, partition))
        return stores[-1]

    yield opener
    for store in stores:
        await store.close()


@pytest.fixture
def store(opened: Callable[[str], Store]) -> Store:
    """One empty partition."""
    return opened("tenant")
