"""The bench's end of the pipe to the app in a process of its own (``app_process``)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from bench.place import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from bench.figures import Json

# What belongs to the bench or the tests; the app refuses to start on a setting it does not know.
NOT_FOR_THE_APP: Final = ("AGENTDESK_SHARED", "AGENTDESK_BENCH_PYTHON")
_STOPS_WITHIN: Final = 10.0  # seconds


class AppProcess:
    """
    Starts the app and asks it; an async context manager.

    With ``paced`` the app waits for the tenant's ID Protection second as it does in production, without it
    that wait is zero. Raises: RuntimeError with the app's last lines when it ends.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], *, paced: bool) -> None:
        self._command = (sys.executable, "-m", "bench.app_process", *(("--paced",) if paced else ()))
        self._environment, self._log = dict(environment), directory / "app.log"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 22,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOPS_WITHIN)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def ask(self, what: str, **fields: Any) -> Json:
        """Let the app do one thing and give what it answers."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the app is not open")
        process.stdin.write(json.dumps({"what": what, **fields}).encode() + b"\n")
        line = await process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").splitlines()[-15:]
            raise RuntimeError("the app ended:\n" + "\n".join(last))
        return dict(json.loads(line))
