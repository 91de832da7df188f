"""What is deployed, what is loaded at start, and what Microsoft's own runtime makes of the app."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("AGENTDESK_SHARED", ROOT.parent / "shared"))
HOST = SHARED / "tools" / "functions_host.py"
FUNCTIONS = {
    "incidents": ("incidents", ["POST"]),
    "compromise": ("principals/{principalId}/compromise", ["POST"]),
    "containments": ("containments/{id?}", ["GET"]),
    "principal": ("principals/{principalId}", ["GET"]),
    "killswitch": ("killswitch", ["PUT"]),
    "approval": ("containments/{id}/approval", ["POST"]),
    "undo": ("containments/{id}/undo", ["POST"]),
    "signals": ("signals", ["POST"]),
    "notifications": ("notifications", ["GET"]),
    "retry_notifications": ("notifications/retry", ["POST"]),
    "openapi": ("openapi.json", ["GET"]),
    "health": ("health", ["GET"]),
    "readiness": ("readiness", ["GET"]),
    "dormant": ("dormant", ["GET"]),
}
TIMERS = {
    "sweep_fast": "AGENTBREAKER_SWEEP_FAST_SCHEDULE",
    "sweep": "AGENTBREAKER_SWEEP_SCHEDULE",
    "sweep_baseline": "AGENTBREAKER_SWEEP_BASELINE_SCHEDULE",
    "sweep_dormant": "AGENTBREAKER_SWEEP_DORMANT_SCHEDULE",
    "settle": "AGENTBREAKER_SETTLE_SCHEDULE",
}
HEAVY = (
    "msgraph",
    "azure.identity",
    "azure.monitor",
    "azure.data",
    "httpx",
    "aiohttp",
    "pydantic",
    "kiota_abstractions",
    "yaml",
    "tenacity",
    "opentelemetry",
)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_importing_the_app_loads_no_sdk():
    loaded = json.loads(python("import json, sys, function_app; print(json.dumps(sorted(sys.modules)))"))

    assert [
        name for name in loaded if name in HEAVY or name.startswith(tuple(f"{heavy}." for heavy in HEAVY))
    ] == []


def test_the_sdks_are_loaded_in_the_background_after_the_start():
    code = "import function_app, sys; function_app._warming.join(60); print('msgraph.graph_service_client' in sys.modules)"

    assert python(code).strip() == "True"


def test_functions_routes_and_timers_are_the_documented_ones():
    # In a process of its own: a test of the local host looks whether function_app was left behind in this one.
    printed = python(
        "import json, function_app as f; "
        "print(json.dumps({x.get_function_name(): x.get_function_json() for x in f.app.get_functions()}))"
    )
    bindings = {name: json.loads(text)["bindings"] for name, text in json.loads(printed).items()}
    found = {name: next(b for b in each if b["type"].endswith("Trigger")) for name, each in bindings.items()}

    routes = {name: (t["route"], t["methods"]) for name, t in found.items() if t["type"] == "httpTrigger"}
    assert routes == FUNCTIONS
    assert {t["authLevel"] for t in found.values() if t["type"] == "httpTrigger"} == {"ANONYMOUS"}
    timers = {name: t["schedule"] for name, t in found.items() if t["type"] == "timerTrigger"}
    assert timers == {name: f"%{setting}%" for name, setting in TIMERS.items()}
    assert not any(t.get("runOnStartup") for t in found.values())


def test_what_is_not_for_production_is_not_deployed():
    ignored = {
        line.strip().rstrip("/")
        for line in (ROOT / ".funcignore").read_text().splitlines()
        if not line.startswith("#")
    }

    for folder in (
        "simtenant",
        "workbench",
        "bench",
        "tests",
        "docs",
        "infra",
        "scripts",
        ".ci",
        "node_modules",
    ):
        assert folder in ignored
    deployed = {
        "function_app.py",
        "host.json",
        "requirements.txt",
        "settings.py",
        "handlers",
        "detections",
        "response",
        "clients",
    }
    assert not deployed & ignored


def test_the_deployed_code_needs_no_desk_dependency():
    wanted = (ROOT / "requirements.txt").read_text()

    for tool in ("duckdb", "pytest", "rich", "mini-racer", "hypothesis"):
        assert tool not in wanted


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="NOT RUN: Microsoft's runtime package needs Python 3.13"
)
@pytest.mark.skipif(not HOST.is_file(), reason=f"NOT RUN: {HOST} is absent (set AGENTDESK_SHARED)")
def test_microsofts_runtime_indexes_the_app_and_runs_health():
    settings = [f"--setting={name}=0 */5 * * * *" for name in TIMERS.values()]
    command = [sys.executable, str(HOST), "--app-dir", str(ROOT), *settings]

    listed = json.loads(subprocess.run([*command, "list"], check=True, capture_output=True, text=True).stdout)
    invoked = json.loads(
        subprocess.run(
            [*command, "invoke", "health", "--url", "/api/health"], check=True, capture_output=True, text=True
        ).stdout
    )

    assert {f["name"] for f in listed["functions"]} == {*FUNCTIONS, *TIMERS}
    assert "alive" in json.dumps(invoked["result"])


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="NOT RUN: Microsoft's runtime package needs Python 3.13"
)
@pytest.mark.skipif(not HOST.is_file(), reason=f"NOT RUN: {HOST} is absent (set AGENTDESK_SHARED)")
def test_microsofts_runtime_gets_a_refusal_and_no_traceback_without_settings():
    command = [
        sys.executable,
        str(HOST),
        "--app-dir",
        str(ROOT),
        "invoke",
        "incidents",
        "--url",
        "/api/incidents",
        "--body",
        "{}",
    ]

    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert "settings_unreadable" in answer
    assert "Traceback" not in json.dumps(
        json.loads(answer)["result"]["return_value"] if "return_value" in answer else ""
    )


def test_the_package_holds_the_app_and_nothing_of_the_desk():
    listed = python(
        "import sys; sys.path.insert(0, 'scripts'); import package; print('\\n'.join(package.deployed()))"
    ).split()

    tops = {path.split("/")[0] for path in listed}
    assert tops == {
        "clients",
        "detections",
        "function_app.py",
        "handlers",
        "host.json",
        "requirements.txt",
        "response",
        "settings.py",
    }
    assert "detections/ag_04_first_key_vault_use/query.kql" in listed
