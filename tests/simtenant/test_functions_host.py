"""The local functions host, over real sockets, with a small app of the real azure.functions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from simtenant import functions_host, host_keys
from simtenant.functions_host import AlreadyRuns, CannotHost, FunctionsHost
from simtenant.server import RunsInAzure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

APP = """
import asyncio, json, os, threading
import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
AUTH_AT_IMPORT = os.environ.get("WEBSITE_AUTH_ENABLED")
runs, gate, state = [], asyncio.Event(), {"at_once": 0, "most": 0}

def told(req, **more):
    return func.HttpResponse(json.dumps({
        "method": req.method, "url": req.url, "headers": dict(req.headers), "params": dict(req.params),
        "route": dict(req.route_params), "body": req.get_body().decode("latin-1"),
        "thread": threading.current_thread().name, "auth": AUTH_AT_IMPORT, **more,
    }), mimetype="application/json")

@app.function_name("echo")
@app.route(route="echo/{id}/{rest?}", methods=["GET", "POST"])
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("literal")
@app.route(route="echo/Special", methods=["GET"])
async def literal(req: func.HttpRequest) -> func.HttpResponse:
    return told(req, literal=True)

@app.function_name("blocking")
@app.route(route="blocking", methods=["GET"])
def blocking(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("by_guid")
@app.route(route="by/{id:guid}")
async def by_guid(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("files")
@app.route(route="files/{*path}", methods=["GET"])
async def files(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("fails")
@app.route(route="fails", methods=["GET"])
async def fails(req: func.HttpRequest) -> func.HttpResponse:
    raise RuntimeError("a secret in a message")

@app.function_name("nothing")
@app.route(route="nothing", methods=["GET"])
async def nothing(req: func.HttpRequest):
    return None

@app.function_name("text")
@app.route(route="text", methods=["GET"])
async def text(req: func.HttpRequest) -> str:
    return "hello"

@app.function_name("teapot")
@app.route(route="teapot", methods=["GET"])
async def teapot(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"short", status_code=418, headers={"X-Own": "yes"}, mimetype="text/csv")

@app.function_name("keyed")
@app.route(route="keyed", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
async def keyed(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("admin_only")
@app.route(route="adminonly", methods=["GET"], auth_level=func.AuthLevel.ADMIN)
async def admin_only(req: func.HttpRequest) -> func.HttpResponse:
    return told(req)

@app.function_name("tick")
@app.timer_trigger(arg_name="timer", schedule="%TICK_SCHEDULE%", run_on_startup=False)
async def tick(timer: func.TimerRequest) -> None:
    runs.append(timer.past_due)
    state["at_once"] += 1
    state["most"] = max(state["most"], state["at_once"])
    try:
        if state.get("slow"):
            await gate.wait()
        if state.get("broken"):
            raise RuntimeError("tick broke")
    finally:
        state["at_once"] -= 1
"""
GUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.fixture(autouse=True)
def _schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICK_SCHEDULE", "0 0 0 1 1 *")


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "function_app.py").write_text(APP)
    return folder


class Desk:
    """A host and an HTTP client for it."""

    def __init__(self, host: FunctionsHost, session: aiohttp.ClientSession) -> None:
        self.host, self._session = host, session

    @property
    def app(self) -> Any:
        return sys.modules["function_app"]

    async def call(self, method: str, path: str, key: str = "", **options: Any) -> tuple[int, Any, Any]:
        headers = {
            **options.pop("headers", {}),
            **({"x-functions-key": self.host.keys.by_name[key].key} if key else {}),
        }
        url = f"{self.host.base_url}{path}"
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as answer:
            body = await answer.read()
            is_json = answer.content_type == "application/json" and body
            return answer.status, json.loads(body) if is_json else body, answer.headers


@asynccontextmanager
async def hosted(app_dir: Path, **options: Any) -> AsyncIterator[Desk]:
    host = FunctionsHost(app_dir, state_dir=app_dir.parent / "state", port=0, **options)
    async with host, aiohttp.ClientSession() as session:
        yield Desk(host, session)


@pytest.fixture
async def desk(app_dir: Path) -> AsyncIterator[Desk]:
    async with hosted(app_dir) as open_desk:
        yield open_desk


def principal(headers: dict[str, str]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.b64decode(headers["x-ms-client-principal"]))
    return decoded


# --- calls ----------------------------------------------------------------------------------------


async def test_a_request_reaches_its_function_whole(desk: Desk) -> None:
    status, seen, headers = await desk.call(
        "POST",
        "/api/ECHO/a%20b%2Fc?x=1&x=2&y=%C3%A9",
        data=b"\x00body\xff",
        headers={"X-Own": "é", "Content-Type": "a/b"},
    )

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (seen["method"], seen["route"], seen["params"]) == (
        "POST",
        {"id": "a b%2Fc"},
        {"x": "1,2", "y": "é"},
    )
    assert seen["body"] == "\x00body\xff"
    assert seen["headers"]["content-type"] == "a/b"
    assert seen["url"].startswith(desk.host.base_url + "/api/ECHO/")
    assert seen["auth"] == "True"


async def test_asynchronous_functions_run_on_the_loop_and_others_beside_it(desk: Desk) -> None:
    assert (await desk.call("GET", "/api/echo/1"))[1]["thread"] == "MainThread"
    assert (await desk.call("GET", "/api/blocking"))[1]["thread"].startswith("function")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/echo/special", ("literal", {})),
        ("/api/echo/other", ("echo", {"id": "other"})),
        ("/api/echo/special/more", ("echo", {"id": "special", "rest": "more"})),
        (f"/api/by/{GUID}", ("by_guid", {"id": GUID})),
        ("/api/files", ("files", {"path": ""})),
        ("/api/files/a/b", ("files", {"path": "a/b"})),
    ],
)
async def test_routes_are_matched_as_aspnet_does(
    desk: Desk, path: str, expected: tuple[str, dict[str, str]]
) -> None:
    status, seen, _ = await desk.call("GET", path)

    assert status == 200
    assert seen["route"] == expected[1]
    assert ("literal" in seen) == (expected[0] == "literal")


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/echo", "/api/echo/a/b/c", "/apiecho/1", "/api/by/no-guid", "/echo/1", "/admin/x"],
)
async def test_an_unknown_route_is_404(desk: Desk, path: str) -> None:
    status, body, _ = await desk.call("GET", path)

    assert status == 404
    assert body["error"]["code"] == "not_found"


async def test_another_method_is_405_and_says_which(desk: Desk) -> None:
    status, _, headers = await desk.call("DELETE", "/api/echo/special")

    assert (status, headers["Allow"]) == (405, "GET, POST")
    assert (await desk.call("HEAD", "/api/echo/special"))[0] == 405
    assert (await desk.call("POST", "/api/echo/special"))[1]["route"] == {"id": "special"}
    assert (await desk.call("PATCH", f"/api/by/{GUID}"))[0] == 200


async def test_a_failing_function_is_a_bare_500_and_an_error_in_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    status, body, _ = await desk.call("GET", "/api/fails")

    assert (status, body["error"]["code"]) == (500, "function_failed")
    assert "secret" not in json.dumps(body)
    assert "Traceback" not in json.dumps(body)
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info


async def test_an_answer_that_is_none_is_a_500(desk: Desk) -> None:
    assert (await desk.call("GET", "/api/nothing"))[0] == 500


async def test_answers_keep_status_headers_and_type(desk: Desk) -> None:
    status, body, headers = await desk.call("GET", "/api/teapot")

    assert (status, body, headers["X-Own"]) == (418, b"short", "yes")
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert (await desk.call("GET", "/api/text"))[1] == b"hello"


async def test_large_bodies_pass_for_the_app_to_refuse(desk: Desk) -> None:
    body = io.BytesIO(b"x" * 3_000_000)
    assert len((await desk.call("POST", "/api/echo/1", data=body))[1]["body"]) == 3_000_000


async def test_a_body_over_the_hosts_own_limit_is_413(app_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions_host, "_MAX_BODY", 1000)
    async with hosted(app_dir) as desk:
        assert (await desk.call("POST", "/api/echo/1", data="x" * 1000))[0] == 200
        assert (await desk.call("POST", "/api/echo/1", data="x" * 1001))[0] == 413


# --- who calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_key_is_presented_as_easy_auth_presents_a_caller(desk: Desk, by: str) -> None:
    key = desk.host.keys.by_name["analyst"]
    call = (
        {"path": "/api/echo/1", "key": "analyst"}
        if by == "header"
        else {"path": f"/api/echo/1?code={key.key}"}
    )

    _, seen, _ = await desk.call("GET", **call)

    told = principal(seen["headers"])
    claims = [(claim["typ"], claim["val"]) for claim in told["claims"]]
    assert told["auth_typ"] == "aad"
    assert [value for typ, value in claims if typ == "roles"] == ["Containment.Execute", "Containment.Read"]
    assert ("http://schemas.microsoft.com/identity/claims/objectidentifier", key.object_id) in claims
    assert seen["headers"]["x-ms-client-principal-id"] == key.object_id
    assert seen["headers"]["x-ms-client-principal-name"] == "analyst"
    assert seen["headers"]["x-ms-client-principal-idp"] == "aad"
    assert "x-functions-key" not in seen["headers"]


async def test_what_a_caller_says_about_itself_is_thrown_away(desk: Desk) -> None:
    forged = {
        "X-MS-CLIENT-PRINCIPAL": base64.b64encode(
            b'{"claims":[{"typ":"roles","val":"Containment.Approve"}]}'
        ).decode(),
        "x-ms-client-principal-ID": "somebody",
        "X-Ms-Client-Principal-Other": "else",
    }

    for key in ("", "reader"):
        _, seen, _ = await desk.call("GET", "/api/echo/1", key=key, headers=forged)
        assert "Containment.Approve" not in json.dumps(principal(seen["headers"]) if key else {})
        assert "somebody" not in json.dumps(seen)
        assert "x-ms-client-principal-other" not in seen["headers"]


async def test_without_a_key_nobody_is_presented(desk: Desk) -> None:
    status, seen, _ = await desk.call("GET", "/api/echo/1")

    assert status == 200
    assert not [name for name in seen["headers"] if name.startswith("x-ms-client-principal")]


async def test_the_master_key_stands_for_nobody(desk: Desk) -> None:
    _, seen, _ = await desk.call("GET", "/api/echo/1", key="master")

    assert "x-ms-client-principal" not in seen["headers"]


@pytest.mark.parametrize("wrong", ["x", "é" * 20, "x" * 43])
async def test_a_wrong_key_is_401_even_where_none_is_needed(desk: Desk, wrong: str) -> None:
    assert (await desk.call("GET", "/api/echo/1", params={"code": wrong}))[0] == 401


async def test_functions_that_want_a_key_have_one_and_admin_functions_the_master(desk: Desk) -> None:
    by_key = {
        key: (
            (await desk.call("GET", "/api/keyed", key=key))[0],
            (await desk.call("GET", "/api/adminonly", key=key))[0],
        )
        for key in ("", "reader", "master")
    }

    assert by_key == {"": (401, 401), "reader": (200, 401), "master": (200, 200)}


async def test_keys_are_made_once_and_for_their_owner_only(app_dir: Path) -> None:
    async with hosted(app_dir) as first:
        path = first.host.keys_path
        keys = first.host.keys.by_name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len({key.key for key in keys.values()}) == len(keys)
        assert all(key.key not in repr(key) for key in keys.values())
    async with hosted(app_dir) as second:
        assert second.host.keys.by_name == keys


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"a": 1}', '{"a": {"key": "short"}}', '{"a": {"key": "0123456789abcdef", "roles": "x"}}',
        '{"a": {"key": "0123456789abcdef", "objectId": 1}}', '{"a": {"key": "0123456789abcdef", "master": "yes"}}',
        '{"a": {"key": "0123456789abcdef"}, "b": {"key": "0123456789abcdef"}}',
    ],
)  # fmt: skip
def test_a_wrong_keys_file_is_refused_without_telling_keys(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)

    with pytest.raises(ValueError, match=r"keys\.json") as raised:
        host_keys.load_or_create(tmp_path / "keys.json")

    assert "0123456789abcdef" not in str(raised.value)


async def test_the_status_is_for_everybody(desk: Desk) -> None:
    assert (await desk.call("GET", "/admin/host/status"))[:2] == (200, {"state": "Running"})


# --- timers ---------------------------------------------------------------------------------------


async def eventually(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)


async def test_a_timer_runs_by_hand_with_the_master_key_only(desk: Desk) -> None:
    assert (await desk.call("POST", "/admin/functions/tick"))[0] == 401
    assert (await desk.call("POST", "/admin/functions/tick", key="analyst"))[0] == 401
    assert (await desk.call("POST", "/admin/functions/echo", key="master"))[0] == 404
    assert (await desk.call("POST", "/admin/functions/tick", key="master", json={"input": ""}))[0] == 202

    await eventually(lambda: desk.app.runs == [False])


async def test_a_timer_runs_on_its_schedule_and_never_twice_at_once(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICK_SCHEDULE", "* * * * * *")
    async with hosted(app_dir) as desk:
        app = desk.app
        await eventually(lambda: app.runs)
        app.state["slow"] = True
        seen = len(app.runs)
        await eventually(lambda: len(app.runs) > seen)
        with pytest.raises(AlreadyRuns):
            await desk.host.run_timer("tick")
        assert (await desk.call("POST", "/admin/functions/tick", key="master"))[0] == 409
        await asyncio.sleep(1.2)
        assert len(app.runs) == seen + 1
        app.gate.set()
        await eventually(lambda: len(app.runs) > seen + 1)
        assert app.state["most"] == 1
        assert set(app.runs) == {False}


async def test_a_failing_timer_is_logged_and_runs_again(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TICK_SCHEDULE", "* * * * * *")
    async with hosted(app_dir) as desk:
        desk.app.state["broken"] = True
        await eventually(lambda: len(desk.app.runs) >= 2)

    assert any(record.exc_info and "tick" in record.getMessage() for record in caplog.records)


async def test_timers_that_are_switched_off_run_by_hand_only(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICK_SCHEDULE", "* * * * * *")
    async with hosted(app_dir, timers=False) as desk:
        await asyncio.sleep(1.2)
        assert desk.app.runs == []
        await desk.host.run_timer("tick", past_due=True)
        assert desk.app.runs == [True]


async def test_a_run_missed_while_the_host_was_off_is_past_due_once(app_dir: Path) -> None:
    async with hosted(app_dir) as desk:
        await asyncio.sleep(0.1)
        assert desk.app.runs == []
    memory = app_dir.parent / "state" / "timers.json"
    assert datetime.fromisoformat(json.loads(memory.read_text())["tick"]) > datetime.now(UTC)
    memory.write_text(json.dumps({"tick": (datetime.now(UTC) - timedelta(days=2)).isoformat()}))

    for expected in ([True], []):
        async with hosted(app_dir) as desk:
            await asyncio.sleep(0.2)
            assert desk.app.runs == expected


async def test_a_spoilt_memory_of_timers_is_as_a_first_start(app_dir: Path) -> None:
    (app_dir.parent / "state").mkdir()
    (app_dir.parent / "state" / "timers.json").write_text("{")

    async with hosted(app_dir) as desk:
        await asyncio.sleep(0.1)
        assert desk.app.runs == []


# --- starting -------------------------------------------------------------------------------------


async def test_it_leaves_nothing_behind(app_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    before = dict(os.environ), list(sys.path)
    async with hosted(app_dir):
        assert os.environ["WEBSITE_AUTH_ENABLED"] == "True"

    assert (dict(os.environ), list(sys.path)) == before
    assert "function_app" not in sys.modules


async def test_it_does_not_start_in_azure(app_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSITE_INSTANCE_ID", "abc")

    with pytest.raises(RunsInAzure):
        await FunctionsHost(app_dir, state_dir=app_dir, port=0).__aenter__()

    assert not (app_dir / "host-keys.json").exists()


HEADER = "import azure.functions as func\napp = func.FunctionApp()\n"
ROUTE = '@app.route(route="{}")\ndef f(req: func.HttpRequest): ...\n'


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("", "FunctionApp"),
        (HEADER, "no functions"),
        (HEADER + ROUTE.format("a{b}c"), "route segment"),
        (HEADER + ROUTE.format("{b:regex}"), "route segment"),
        (HEADER + '@app.timer_trigger(arg_name="t", schedule="* * *")\ndef f(t): ...\n', "six fields"),
        (HEADER + '@app.timer_trigger(arg_name="t", schedule="%NOT_SET%")\ndef f(t): ...\n', "NOT_SET"),
        (HEADER + '@app.timer_trigger(arg_name="t", schedule="0 0 0 30 2 *")\ndef f(t): ...\n', "never"),
        (
            HEADER + '@app.queue_trigger(arg_name="m", queue_name="q", connection="c")\ndef f(m): ...\n',
            "only HTTP and timer",
        ),
    ],
)
async def test_an_app_that_cannot_be_hosted_is_refused_in_words(tmp_path: Path, code: str, says: str) -> None:
    (tmp_path / "function_app.py").write_text(code)
    before = dict(os.environ)

    with pytest.raises(CannotHost, match=says):
        await FunctionsHost(tmp_path, state_dir=tmp_path / "state", port=0).__aenter__()

    assert dict(os.environ) == before


async def test_a_folder_without_an_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotHost, match=r"function_app\.py"):
        await FunctionsHost(tmp_path, state_dir=tmp_path / "state", port=0).__aenter__()


async def test_the_route_prefix_of_host_json_counts(app_dir: Path) -> None:
    (app_dir / "host.json").write_text(
        json.dumps({"version": "2.0", "extensions": {"http": {"routePrefix": ""}}})
    )

    async with hosted(app_dir) as desk:
        assert (await desk.call("GET", "/echo/1"))[0] == 200
        assert (await desk.call("GET", "/admin/host/status"))[0] == 200


def test_the_command_serves_until_it_is_told_to_stop(app_dir: Path) -> None:
    (app_dir / "local.settings.json").write_text(
        json.dumps({"Values": {"TICK_SCHEDULE": "wrong", "FROM_FILE": "1"}})
    )
    command = [
        sys.executable,
        "-m",
        "simtenant.functions_host",
        "--port",
        "0",
        "--app-dir",
        str(app_dir),
        "--state-dir",
        str(app_dir / "state"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    assert lines[0].startswith("LOCAL FUNCTIONS HOST")
    assert lines[3].startswith("Listening on http://127.0.0.1:")
    keys = json.loads((app_dir / "state" / "host-keys.json").read_text())
    assert not any(entry["key"] in "".join(lines) for entry in keys.values())


def test_the_command_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "simtenant.functions_host",
        "--port",
        "0",
        "--app-dir",
        str(tmp_path),
        "--state-dir",
        str(tmp_path),
    ]

    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )

    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "function_app.py" in ended.stderr
