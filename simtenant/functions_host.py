"""
A local host for a Python function app (v2 programming model): routes, keys, timers. No Core Tools, no Node.

    python -m simtenant.functions_host --port 7071 [--app-dir .] [--state-dir .state]

It imports ``function_app.py``, serves its HTTP functions under ``/api`` and runs its timers, in one process
on one event loop. It behaves as Azure Functions does where that matters to an app:

- asynchronous functions share the event loop, synchronous ones a thread pool;
- a failing function is HTTP 500 without a traceback, and an error in the log;
- who calls is told in ``X-MS-CLIENT-PRINCIPAL`` as Easy Auth tells it (``host_keys.py``), and what a caller
  sends under that name is thrown away;
- a timer never overlaps itself, skips what it missed while running, and is past due once after a start.

It does not do: other triggers, output bindings, several workers, the 230 s limit of Azure's load balancer. A
method that a route does not take is 405 here, for the sake of whoever types the call. It is for a desk:
localhost only, and it refuses to start where the environment says "Azure".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import inspect
import json
import logging
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, unquote

import azure.functions as func
from aiohttp import web
from azure.functions.timer import TimerRequest

from simtenant.host_keys import HostKey, HostKeys, load_or_create
from simtenant.ncrontab import Schedule
from simtenant.server import refuse_in_azure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType, TracebackType

log = logging.getLogger("simtenant.functions_host")

_BIND: Final = "127.0.0.1"
_MAX_BODY: Final = 100 * 1024 * 1024  # the host's own limit (functions-bindings-http-webhook-trigger#limits)
_MONITORED: Final = timedelta(minutes=1)  # schedules at least this far apart are remembered over a restart
_LAST_WORDS_SECONDS: Final = 5  # what runs when the host stops has this long to end
_PRINCIPAL: Final = "x-ms-client-principal"
_KEY: Final = "x-functions-key"


class CannotHost(Exception):
    """The app asks for something this host does not do, or cannot be loaded. The text says what."""


class FunctionsHost:
    """
    Serve one function app on localhost; an async context manager.

    Inside the ``async with``: ``base_url``, ``keys`` (``keys.by_name["analyst"].key``) and ``names`` of the
    functions. Port 0 takes a free one. Keys and the memory of timers live in ``state_dir``. While it is open,
    ``WEBSITE_AUTH_ENABLED`` is True in this process, and ``function_app`` is the app's module; so one host a
    process at a time.

    Raises on entering: CannotHost; RunsInAzure; ValueError for a keys file that is wrong; whatever importing
    the app raises.
    """

    def __init__(
        self,
        app_dir: Path,
        *,
        state_dir: Path,
        port: int = 7071,
        keys: Path | None = None,
        timers: bool = True,
    ) -> None:
        self._app_dir, self._state_dir = app_dir.resolve(), state_dir
        self._port, self._keys_path, self._timers_on = port, keys or state_dir / "host-keys.json", timers
        self._stack = contextlib.AsyncExitStack()
        self.base_url = ""
        self.keys = HostKeys({})
        self._prefix: list[str] = []  # segments, lower case
        self._routes: list[_Route] = []
        self._timers: dict[str, _Timer] = {}

    @property
    def keys_path(self) -> Path:
        """Where the keys are."""
        return self._keys_path

    @property
    def names(self) -> list[str]:
        """Names of all functions of the app."""
        return sorted([*(route.function.name for route in self._routes), *self._timers])

    async def __aenter__(self) -> Self:
        refuse_in_azure()
        async with self._stack as stack:
            self._prefix = _route_prefix(self._app_dir)
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.keys = load_or_create(self._keys_path)
            stack.enter_context(
                _environment(WEBSITE_AUTH_ENABLED="True", AZURE_FUNCTIONS_ENVIRONMENT="Development")
            )
            module = stack.enter_context(_imported(self._app_dir))
            threads = ThreadPoolExecutor(_thread_count(), thread_name_prefix="function")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            self._index(_functions(module, threads))
            await self._serve(stack)
            self._start_timers(stack)
            # Everything is up: what was opened stays open until __aexit__.
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def run_timer(self, name: str, *, past_due: bool = False) -> None:
        """Run a timer now and wait for it. Raises: KeyError; AlreadyRuns; what the function raises."""
        await self._timers[name].run(past_due=past_due)

    def _index(self, functions: Iterable[_Function]) -> None:
        memory = _TimerMemory(self._state_dir / "timers.json")
        for function in functions:
            if function.trigger["type"] == "httpTrigger":
                self._routes.append(_Route.of(function))
            else:
                self._timers[function.name] = _Timer.of(function, memory)
        # A literal segment is more specific than a parameter, as in ASP.NET.
        self._routes.sort(key=lambda route: route.weight)

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/admin/host/status", _status)
        app.router.add_post("/admin/functions/{name}", self._run_by_hand)
        app.router.add_route("*", "/{path:.*}", self._call)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_WORDS_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, _BIND, self._port).start()
        self.base_url = f"http://{_BIND}:{runner.addresses[0][1]}"

    def _start_timers(self, stack: contextlib.AsyncExitStack) -> None:
        loops = []
        for name, timer in self._timers.items() if self._timers_on else ():
            loops.append(asyncio.create_task(timer.run_for_ever(), name=name))
            loops[-1].add_done_callback(_report_if_broken)

        async def stop() -> None:
            ending = [*loops, *(run for timer in self._timers.values() for run in timer.stop())]
            if ending:
                _, late = await asyncio.wait(ending, timeout=_LAST_WORDS_SECONDS)
                for task in late:
                    task.cancel()
                await asyncio.gather(*ending, return_exceptions=True)

        stack.push_async_callback(stop)

    async def _call(self, request: web.Request) -> web.Response:
        path = [_unescaped(part) for part in request.rel_url.raw_path.split("/") if part]
        inside = [part.lower() for part in path[: len(self._prefix)]] == self._prefix
        segments = path[len(self._prefix) :]
        matches = [(r, values) for r in self._routes if inside and (values := r.match(segments)) is not None]
        if not matches:
            return _refused(404, "not_found", "No function has this route.")
        chosen = next(((route, values) for route, values in matches if route.takes(request.method)), None)
        if chosen is None:
            allowed = sorted({method for route, _ in matches for method in route.methods})
            refused = _refused(405, "method_not_allowed", f"This route takes {', '.join(allowed)}.")
            refused.headers["Allow"] = ", ".join(allowed)
            return refused
        route, values = chosen
        presented = _presented_key(request)
        key = self.keys.find(presented) if presented else None
        if (presented and key is None) or not route.opens_to(key):
            return _refused(401, "wrong_key", "A key of this host is needed in the x-functions-key header.")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refused(413, "too_large", f"A body has at most {_MAX_BODY} bytes.")
        return await _answered(route.function, _as_function_sees(request, key, values, body))

    async def _run_by_hand(self, request: web.Request) -> web.Response:
        key = self.keys.find(_presented_key(request))
        if key is None or not key.master:
            return _refused(401, "wrong_key", "The master key is needed in the x-functions-key header.")
        timer = self._timers.get(request.match_info["name"])
        if timer is None:
            return _refused(404, "not_found", "No timer has this name.")
        try:
            timer.start_by_hand()
        except AlreadyRuns:
            return _refused(409, "already_runs", "This timer is running at the moment.")
        return web.Response(status=202)


# --- functions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Function:
    """One function of the app: its trigger binding and how to call it."""

    name: str
    trigger: Mapping[str, Any]
    call: Callable[..., Any]
    threads: ThreadPoolExecutor

    async def run(self, argument: Any) -> Any:
        """Call it as the worker does: on the loop if it is asynchronous, in the pool if not."""
        named = {self.trigger["name"]: argument}
        if inspect.iscoroutinefunction(self.call):
            return await self.call(**named)
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: self.call(**named))


def _functions(module: ModuleType, threads: ThreadPoolExecutor) -> list[_Function]:
    app: Any = getattr(module, "app", None)
    if not hasattr(app, "get_functions"):
        raise CannotHost("function_app.py has no FunctionApp named app")
    found = []
    for declared in app.get_functions():
        name = declared.get_function_name()
        bindings = json.loads(declared.get_function_json())["bindings"]
        triggers = [binding for binding in bindings if binding["type"] in ("httpTrigger", "timerTrigger")]
        others = [
            binding["type"] for binding in bindings if binding not in triggers and binding["type"] != "http"
        ]
        if len(triggers) != 1 or others:
            raise CannotHost(
                f"{name}: only HTTP and timer triggers are hosted here, not {', '.join(others) or 'none'}"
            )
        found.append(_Function(name, triggers[0], declared.get_user_function(), threads))
    if not found:
        raise CannotHost("function_app.py declares no functions")
    return found


@contextlib.contextmanager
def _imported(app_dir: Path) -> Any:
    """Import ``function_app.py`` under its own name, as the worker does, and forget it at the end."""
    spec = importlib.util.spec_from_file_location("function_app", app_dir / "function_app.py")
    if spec is None or spec.loader is None or not (app_dir / "function_app.py").is_file():
        raise CannotHost(f"there is no function_app.py in {app_dir}")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("function_app")
    sys.modules["function_app"] = module
    sys.path.insert(0, str(app_dir))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(app_dir))
        if before is None:
            sys.modules.pop("function_app", None)
        else:
            sys.modules["function_app"] = before


@contextlib.contextmanager
def _environment(**variables: str) -> Any:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _thread_count() -> int | None:
    """Read the worker's own setting; unset is Python's default (facts: PYTHON_THREADPOOL_THREAD_COUNT)."""
    text = os.environ.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
    return int(text) if text.isdigit() and int(text) else None


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Segment:
    text: str  # literal, lower case; or the parameter's name
    parameter: bool = False
    optional: bool = False
    rest: bool = False
    constraint: str = ""


_CONSTRAINTS: Final = {
    "": re.compile(r".+", re.DOTALL),
    "int": re.compile(r"[+-]?[0-9]{1,10}"),
    "long": re.compile(r"[+-]?[0-9]{1,19}"),
    "bool": re.compile(r"true|false", re.IGNORECASE),
    "alpha": re.compile(r"[a-z]*", re.IGNORECASE),
    "guid": re.compile(r"\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE),
}
_PARAMETER: Final = re.compile(r"\{(?P<rest>\*{0,2})(?P<name>\w+)(:(?P<constraint>\w+))?(?P<optional>\?)?\}")


@dataclass(frozen=True, slots=True)
class _Route:
    """An HTTP function and its ASP.NET route template (learn.microsoft.com/aspnet/core/fundamentals/routing)."""

    function: _Function
    segments: tuple[_Segment, ...]
    methods: frozenset[str]  # empty: any
    auth_level: str

    @classmethod
    def of(cls, function: _Function) -> _Route:
        trigger = function.trigger
        template = trigger.get("route") or function.name
        segments = tuple(_segment(part, function.name) for part in template.strip("/").split("/") if part)
        methods = frozenset(str(method).upper() for method in trigger.get("methods") or ())
        return cls(function, segments, methods, str(trigger.get("authLevel") or "FUNCTION").upper())

    @property
    def weight(self) -> tuple[int, ...]:
        """Lower is more specific."""
        return tuple(3 if s.rest else 2 if s.optional else 1 if s.parameter else 0 for s in self.segments)

    def takes(self, method: str) -> bool:
        return not self.methods or method in self.methods

    def opens_to(self, key: HostKey | None) -> bool:
        """Anonymous functions are open to all: who calls is then the app's affair."""
        if self.auth_level == "ANONYMOUS":
            return True
        return key is not None and (key.master or self.auth_level == "FUNCTION")

    def match(self, path: Sequence[str]) -> dict[str, str] | None:
        """Give the route values; None when the path is another."""
        values: dict[str, str] = {}
        for place, segment in enumerate(self.segments):
            if segment.rest:
                values[segment.text] = "/".join(path[place:])
                return values
            if place >= len(path):
                if segment.optional:
                    continue
                return None
            if not segment.parameter:
                if path[place].lower() != segment.text:
                    return None
            elif _CONSTRAINTS[segment.constraint].fullmatch(path[place]):
                values[segment.text] = path[place]
            else:
                return None
        return values if len(path) <= len(self.segments) else None


def _segment(part: str, function: str) -> _Segment:
    if "{" not in part:
        return _Segment(part.lower())
    found = _PARAMETER.fullmatch(part)
    if found is None or (found["constraint"] or "") not in _CONSTRAINTS:
        raise CannotHost(f"{function}: the route segment {part!r} is not understood here")
    return _Segment(
        found["name"], True, bool(found["optional"]), bool(found["rest"]), found["constraint"] or ""
    )


def _unescaped(part: str) -> str:
    # ASP.NET leaves %2F as it is: a slash in a value is not a slash in the path.
    return "%2F".join(unquote(piece) for piece in re.split("%2f", part, flags=re.IGNORECASE))


def _presented_key(request: web.Request) -> str:
    return request.headers.get(_KEY) or request.query.get("code", "")


def _as_function_sees(
    request: web.Request, key: HostKey | None, values: Mapping[str, str], body: bytes
) -> func.HttpRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        name = name.lower()
        # Only the host says who calls; and the key is the host's affair alone.
        if not name.startswith(_PRINCIPAL) and name != _KEY:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    if key is not None:
        headers |= key.principal_headers()
    query = {name: ",".join(given) for name, given in parse_qs(request.rel_url.raw_query_string).items()}
    return func.HttpRequest(
        method=request.method,
        url=str(request.url),
        headers=headers,
        params=query,
        route_params=dict(values),
        body=body,
    )


async def _answered(function: _Function, argument: func.HttpRequest) -> web.Response:
    """Run an HTTP function. This is the outermost edge: whatever it raises is logged and told as a bare 500."""
    try:
        result = await function.run(argument)
        return _as_http(result)
    except Exception:
        log.exception("function %s failed", function.name)
        return _refused(500, "function_failed", "The function failed. The log of the host says why.")


def _as_http(result: Any) -> web.Response:
    if isinstance(result, str):
        return web.Response(text=result)
    if not isinstance(result, func.HttpResponse):
        raise TypeError(f"a function gave {type(result).__name__} where an HttpResponse is wanted")
    headers = {name: value for name, value in result.headers.items() if name.lower() != "content-length"}
    if "content-type" not in {name.lower() for name in headers}:
        text = result.mimetype.startswith("text/")
        headers["Content-Type"] = f"{result.mimetype}; charset={result.charset}" if text else result.mimetype
    return web.Response(status=result.status_code, headers=headers, body=result.get_body())


def _refused(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "details": {}}}, status=status)


async def _status(_: web.Request) -> web.Response:
    return web.json_response({"state": "Running"})


def _route_prefix(app_dir: Path) -> list[str]:
    path = app_dir / "host.json"
    content = json.loads(path.read_text("utf-8-sig")) if path.is_file() else {}
    prefix: str = content.get("extensions", {}).get("http", {}).get("routePrefix", "api")
    return [part for part in prefix.lower().split("/") if part]


# --- timers ---------------------------------------------------------------------------------------


class AlreadyRuns(Exception):
    """A timer runs at this moment, and never twice at once."""


class _TimerMemory:
    """When each timer was to run next, over restarts. Azure keeps the same in blobs under ``timers/``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

    async def next_due(self, name: str) -> datetime | None:
        async with self._lock:
            text = (await asyncio.to_thread(self._read)).get(name)
        return datetime.fromisoformat(text) if text else None

    async def remember(self, name: str, due: datetime) -> None:
        async with self._lock:
            await asyncio.to_thread(self._write, name, due)

    def _read(self) -> dict[str, str]:
        try:
            content: dict[str, str] = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:  # half a file after a power cut: as at a first start, nothing is past due
            log.warning("%s could not be read; no timer is past due", self._path)
            return {}
        return content

    def _write(self, name: str, due: datetime) -> None:
        content = self._read() | {name: due.isoformat()}
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(content), "utf-8")
        draft.replace(self._path)


@dataclass(slots=True)
class _Timer:
    """One timer: waits, runs, waits again."""

    function: _Function
    schedule: Schedule
    memory: _TimerMemory
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    last: datetime | None = None
    _running: bool = False
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _by_hand: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def of(cls, function: _Function, memory: _TimerMemory) -> _Timer:
        try:
            schedule = Schedule.parse(_resolved(str(function.trigger["schedule"])))
            schedule.next_after(datetime.now(UTC))
        except ValueError as error:
            raise CannotHost(f"{function.name}: {error}") from error
        return cls(function, schedule, memory)

    async def run_for_ever(self) -> None:
        """Run at each occurrence until stopped. An occurrence that passes while it runs is skipped."""
        monitored = self._monitored()
        missed = await self.memory.next_due(self.function.name) if monitored else None
        if missed is not None and missed <= self.now():
            await self._run_logged(past_due=True)
        elif self.function.trigger.get("runOnStartup"):
            await self._run_logged(past_due=False)
        while not self._stopping.is_set():
            due = self.schedule.next_after(self.now())
            if monitored:
                await self.memory.remember(self.function.name, due)
            if await self._stopped_before(due):
                return
            await self._run_logged(past_due=False)

    def stop(self) -> list[asyncio.Task[None]]:
        """Run no more. What runs goes on to its end; gives the runs that were started by hand."""
        self._stopping.set()
        return list(self._by_hand)

    def start_by_hand(self) -> None:
        """Run now, in the background. Raises: AlreadyRuns."""
        if self._running:
            raise AlreadyRuns(self.function.name)
        task = asyncio.create_task(self._run_logged(past_due=False))
        self._by_hand.add(task)  # the loop itself keeps no strong reference to a task
        task.add_done_callback(self._by_hand.discard)

    async def run(self, *, past_due: bool) -> None:
        """Run now. Raises: AlreadyRuns; what the function raises."""
        if self._running:
            raise AlreadyRuns(self.function.name)
        self._running = True
        started = self.now()
        try:
            await self.function.run(self._request(started, past_due=past_due))
        finally:
            self._running = False
            self.last = started

    def _request(self, started: datetime, *, past_due: bool) -> TimerRequest:
        last = self.last or datetime.min.replace(tzinfo=UTC)  # .NET's "never"
        status = {
            "Last": last.isoformat(),
            "Next": self.schedule.next_after(started).isoformat(),
            "LastUpdated": last.isoformat(),
        }
        return TimerRequest(past_due=past_due, schedule_status=status, schedule={"AdjustForDST": True})

    async def _run_logged(self, *, past_due: bool) -> None:
        """Run at the outermost edge: a failure is logged, and the next occurrence comes all the same."""
        try:
            await self.run(past_due=past_due)
        except AlreadyRuns:
            log.info("timer %s still runs, this occurrence is skipped", self.function.name)
        except Exception:
            log.exception("timer %s failed", self.function.name)

    async def _stopped_before(self, due: datetime) -> bool:
        while (wait := (due - self.now()).total_seconds()) > 0:
            # In steps, because a laptop that slept wakes with a clock that jumped and a sleep that did not.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(wait, 30))
                return True
        return self._stopping.is_set()

    def _monitored(self) -> bool:
        if self.function.trigger.get("useMonitor") is False:
            return False
        first = self.schedule.next_after(self.now())
        return self.schedule.next_after(first) - first >= _MONITORED


def _report_if_broken(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled() and (error := loop.exception()) is not None:
        log.critical("timer %s runs no more", loop.get_name(), exc_info=error)


def _resolved(schedule: str) -> str:
    """Put settings in the place of ``%NAME%``. Raises: ValueError naming a setting that is missing."""

    def setting(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise ValueError(f"its schedule is in the setting {found[1]}, which is not set")
        return value

    return re.sub("%([^%]+)%", setting, schedule)


# --- command line ---------------------------------------------------------------------------------


def _local_settings(app_dir: Path) -> dict[str, str]:
    """Read ``Values`` of local.settings.json. As with Core Tools, the environment goes first."""
    path = app_dir / "local.settings.json"
    values = json.loads(path.read_text("utf-8-sig")).get("Values", {}) if path.is_file() else {}
    return {name: str(value) for name, value in values.items() if name not in os.environ}


async def _host(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    host = FunctionsHost(
        options.app_dir,
        state_dir=options.state_dir,
        port=options.port,
        keys=options.keys,
        timers=options.timers,
    )
    async with host:
        print("LOCAL FUNCTIONS HOST: for a desk only. Keys stand in for Entra sign-in.")
        print(f"Functions: {', '.join(host.names)}")
        print(f"Keys: {host.keys_path}")
        print(f"Listening on {host.base_url}", flush=True)
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host until interrupted. Exit code 1 and one line when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m simtenant.functions_host", description="Host a function app locally."
    )
    parser.add_argument("--port", type=int, default=7071, help="0 takes a free one")
    parser.add_argument("--app-dir", type=Path, default=Path(), help="folder of function_app.py")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".state"), help="where keys and timers are remembered"
    )
    parser.add_argument("--keys", type=Path, help="keys file, in place of the one in the state folder")
    parser.add_argument("--no-timers", dest="timers", action="store_false", help="timers run by hand only")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("azure", "httpx", "aiohttp.access"):  # at INFO they write whole URLs, thus ids and names
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        os.environ.update(_local_settings(options.app_dir))
        asyncio.run(_host(options))
    except (CannotHost, RuntimeError, ValueError, OSError) as error:
        print(f"The functions host cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
