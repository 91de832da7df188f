"""The app in a process of its own: ``function_app.py`` in the local functions host, as ``func start`` would run it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_STARTS_WITHIN: Final = 30.0  # seconds
_STOPS_WITHIN: Final = 10.0
_LAST_LINES: Final = 15


def _inherited() -> dict[str, str]:
    """Give the environment without settings of some other app or platform: these are exactly what is passed."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AGENTBREAKER_", "WEBSITE_"))
    }


class AppHost:
    """
    Runs the app while it is open; an async context manager.

    ``base_url`` and ``keys`` (name → key, see ``host_keys.py``) are set once it listens; what the app logs is
    in ``log_file``. Raises: RuntimeError with the app's last lines when it does not start.
    """

    def __init__(
        self, app_dir: Path, state_dir: Path, environment: Mapping[str, str], *, port: int = 0
    ) -> None:
        self._command = (
            *(sys.executable, "-m", "simtenant.functions_host", "--port", str(port)),
            *("--app-dir", str(app_dir), "--state-dir", str(state_dir)),
        )
        self._app_dir, self._environment = app_dir, dict(environment)
        self.log_file = state_dir / "app.log"
        self.base_url = ""
        self.keys_file = ""
        self.keys: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._drained: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        with self.log_file.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._app_dir,
                env={**_inherited(), **self._environment},
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        try:
            async with asyncio.timeout(_STARTS_WITHIN):
                await self._until_it_listens()
        except (TimeoutError, EOFError) as error:
            await self._stop()
            raise RuntimeError("the app did not start:\n" + "\n".join(self.last_lines())) from error
        self._drained = asyncio.create_task(self._drain(), name="what the app prints")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        if self._drained is not None:
            await self._drained

    async def _until_it_listens(self) -> None:
        while not self.base_url:
            line = (await self._line()).decode()
            name, _, value = line.partition(" ")
            if name == "Keys:":
                self.keys_file = value.strip()
                content = json.loads(await asyncio.to_thread(Path(self.keys_file).read_text))
                self.keys = {key: entry["key"] for key, entry in content.items()}
            elif line.startswith("Listening on "):
                self.base_url = line.rsplit(" ", 1)[-1].strip()

    async def _line(self) -> bytes:
        if self._process is None or self._process.stdout is None:
            raise EOFError
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError
        return line

    async def _drain(self) -> None:
        """Read on, so that the app never waits for a full pipe."""
        try:
            while True:
                await self._line()
        except EOFError:
            return

    def last_lines(self) -> list[str]:
        """Give the end of what the app has logged."""
        return self.log_file.read_text(errors="replace").splitlines()[-_LAST_LINES:]

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOPS_WITHIN):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
