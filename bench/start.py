"""How long it takes from starting the worker until the app's functions are indexed, in Microsoft's runtime."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.figures import Json, against
from bench.place import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TARGET_SECONDS: Final = 0.7
_PROBE: Final = "import sys, azure_functions_runtime; sys.exit(sys.version_info[:2] != (3, 13))"


async def microsoft_runtime(runs: int, variables: Mapping[str, str] = os.environ) -> Json | None:
    """
    Measure in ``azure-functions-runtime`` on Python 3.13, through the shared stand-in for its host.

    Gives None where the tool or such a Python is missing; ``why_not`` says which.
    """
    tool, python = _tool(variables), await _python(variables)
    if tool is None or python is None:
        return None
    # The first start writes the compiled modules, which a deployed package has.
    indexed = [await _indexed(tool, python) for _ in range(runs + 1)][1:]
    return against(indexed, p50=TARGET_SECONDS)


async def why_not(variables: Mapping[str, str] = os.environ) -> str:
    """Say what is missing for ``microsoft_runtime``; empty when nothing is."""
    if _tool(variables) is None:
        return "no shared/tools/functions_host.py beside the repository; set AGENTDESK_SHARED"
    if await _python(variables) is None:
        return (
            "no Python 3.13 with azure-functions-runtime: not this interpreter, not .venv*/bin/python;"
            " set AGENTDESK_BENCH_PYTHON"
        )
    return ""


def _tool(variables: Mapping[str, str]) -> Path | None:
    shared = Path(variables.get("AGENTDESK_SHARED") or ROOT.parent / "shared")
    tool = shared / "tools" / "functions_host.py"
    return tool if tool.is_file() else None


async def _python(variables: Mapping[str, str]) -> str | None:
    given = variables.get("AGENTDESK_BENCH_PYTHON")
    beside = [str(path) for path in sorted(ROOT.glob(".venv*/bin/python"))]
    for candidate in (given,) if given else (sys.executable, *beside):
        if await _succeeds(candidate, "-c", _PROBE):
            return candidate
    return None


async def _succeeds(*command: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return False
    return await process.wait() == 0


async def _indexed(tool: Path, python: str) -> float:
    """Start one worker; give the seconds from its start to its answer with the functions."""
    command: Sequence[str] = (python, str(tool), "--app-dir", str(ROOT), "list")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(
            f"Microsoft's runtime did not index the app: {out.decode()[-800:]}{err.decode()[-800:]}"
        )
    return float(json.loads(out)["timings"]["indexed_ms"]) / 1000
