"""
One incident, handed to a package that runs under Microsoft's runtime, in front of the simulated tenant.

    python -m packer.hosted APP PYTHON HOST DIRECTORY

APP is the unpacked package, PYTHON the interpreter of an environment with nothing but the runtime, HOST the desk's
Functions host. Prints one JSON object; 0 when the principal is confirmed compromised in the tenant.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from bench.place import Agents, environment, open_estate

_ENDS_WITHIN: Final = 120.0  # seconds; a cold start with all SDKs takes a few
_ROLE: Final = "Incident.Submit"
_WHERE: Final = """
import importlib, json, sys
names = ("msgraph", "azure.functions", "azure.core", "httpx", "pydantic", "azure.identity", "azure.data.tables",
    "azure.monitor.query", "azure.monitor.ingestion", "azure.monitor.opentelemetry.exporter", "opentelemetry.sdk.trace", "h2", "msal",
    "cryptography")
print(json.dumps({name: importlib.import_module(name).__file__ for name in names}))
"""


async def serve(app: Path, python: str, host: Path, directory: Path) -> dict[str, Any]:
    """Start the package, hand it one incident, look what became of the principal in the tenant."""
    site = app / ".python_packages" / "lib" / "site-packages"
    async with open_estate(directory, identity_protection_per_second=1.0) as estate:
        agents = Agents(estate)
        principal = agents.new()
        body = directory / "incident.json"
        body.write_text(json.dumps(agents.incident(principal).playbook_body()))
        settings = environment(estate, directory / "state")
        command = [
            *(python, str(host), "--app-dir", str(app), "--python", python),
            *(f"--setting={name}={value}" for name, value in settings.items()),
            *("invoke", "incidents", "--url", "/api/incidents", "--body-file", str(body)),
            *("--header", f"x-ms-client-principal: {_caller()}"),
        ]
        # Only what a worker has: nothing of the desk's environment reaches the app.
        clean = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(site), "HOME": str(directory)}
        where = json.loads(await _output([python, "-c", _WHERE], clean, directory))
        answer = json.loads(await _output(command, clean, directory))
        # What took effect in the tenant; its risk shows it only minutes later, as Entra's does.
        confirmed = {
            changed
            for seen in estate.tenant.requests
            if seen.template.endswith("/confirmCompromised") and seen.status == 204
            for changed in seen.changed
        }
    http = answer.get("result", {}).get("http", {})
    return {
        "python": answer.get("python"),
        "runtime": answer.get("worker_version"),
        "timings": answer.get("timings"),
        "status": http.get("status"),
        "answer": http.get("body"),
        "error": answer.get("error"),
        "logs": [entry.get("message") for entry in answer.get("result", {}).get("logs", [])],
        "fromThePackage": all(Path(path).is_relative_to(site) for path in where.values()),
        "confirmedInTheTenant": confirmed == {principal.object_id},
    }


async def _output(command: list[str], environment: dict[str, str], directory: Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_ENDS_WITHIN):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if not out:
        raise RuntimeError(f"{command[1]} printed nothing: {err.decode(errors='replace')[-800:]}")
    return out


def _caller() -> str:
    """Give the header in which Easy Auth presents the playbook."""
    oid = "http://schemas.microsoft.com/identity/claims/objectidentifier"
    claims = [{"typ": "roles", "val": _ROLE}, {"typ": oid, "val": "bbbbbbbb-0000-4000-8000-000000000009"}]
    principal = {"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"}
    return base64.b64encode(json.dumps(principal).encode()).decode()


def main(arguments: list[str]) -> int:
    """Print what came of it. 1 when the principal was not confirmed, or by something outside the package."""
    app, python, host, directory = arguments
    found = asyncio.run(serve(Path(app), python, Path(host), Path(directory)))
    print(json.dumps(found, indent=1))
    return 0 if found["confirmedInTheTenant"] and found["fromThePackage"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
