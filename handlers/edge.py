"""The outermost edge: find the handler, run it, and turn whatever it raises into an answer without a traceback."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

from clients import telemetry
from clients.errors import ClientError, NotSent, OutcomeUnknown, Refused, Throttled, Unavailable
from clients.stores import StoreError
from clients.telemetry.words import REFUSED_CALLS, SpanName
from handlers.http import Problem, Request, Response
from handlers.process import Once
from response.containment import UnreadableContainment
from settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handlers.process import Process

log = logging.getLogger("agentbreaker.edge")
ONCE: Final = Once()
_HANDLERS: Final = {
    "incidents": "handlers.incidents",
    "compromise": "handlers.analyst",
    "containments": "handlers.analyst",
    "principal": "handlers.analyst",
    "approval": "handlers.decisions",
    "undo": "handlers.decisions",
    "killswitch": "handlers.analyst",
    "signals": "handlers.signals",
    "notifications": "handlers.notifications",
    "retry_notifications": "handlers.notifications",
    "openapi": "handlers.openapi",
    "readiness": "handlers.health",
    "dormant": "handlers.dormant",
    "sweep_fast": "handlers.sweeps",
    "sweep": "handlers.sweeps",
    "sweep_baseline": "handlers.sweeps",
    "sweep_dormant": "handlers.sweeps",
    "settle": "handlers.sweeps",
}


async def answer(name: str, request: Request, once: Once = ONCE) -> Response:
    """Run the HTTP handler ``name``. Every failure becomes ``{"error": {code, message, details}}``."""
    try:
        process = await once.get()
    except Exception as error:  # noqa: BLE001  # the edge: recorded here, and the caller gets an answer
        return _failed(name, error)
    with telemetry.span(SpanName.TRIGGER, trigger=name) as span:
        response = await _answered(name, request, process)
        span.set(status=response.status)
    return response


async def _answered(name: str, request: Request, process: Process) -> Response:
    try:
        handler: Callable[[Request, Process], Awaitable[Response]] = _find(name)
        return await handler(request, process)
    except Problem as problem:
        if problem.status in (401, 403):
            telemetry.measure(REFUSED_CALLS, trigger=name, code=problem.code)
        return problem.response()
    except Exception as error:  # noqa: BLE001  # the edge: recorded here, and the caller gets an answer
        return _failed(name, error)


async def tick(name: str, once: Once = ONCE) -> None:
    """Run the timer ``name``. Raises what it raises, so that the platform counts the failure."""
    try:
        process = await once.get()
    except SettingsError as error:
        log.error("%s failed: %s", name, error)  # noqa: TRY400  # it names every fault; a traceback adds nothing
        raise
    run: Callable[[Process], Awaitable[None]] = _find(name)
    with telemetry.span(SpanName.TRIGGER, trigger=name):
        try:
            await run(process)
        except Exception as error:
            # The platform counts it under its own name; here it reaches whoever watches the app's log.
            log.error("%s failed: %s", name, type(error).__name__)  # noqa: TRY400  # the platform logs the traceback
            raise


def _find(name: str) -> Any:
    return getattr(importlib.import_module(_HANDLERS[name]), name)


def _failed(name: str, error: Exception) -> Response:
    """Map a failure to what the caller can do about it. Types decide, texts are for people."""
    problem = _problem(error)
    if problem.status == 500:
        log.error("%s failed: %s", name, type(error).__name__, exc_info=error)
    else:
        log.warning("%s failed: %s", name, error)
    return problem.response()


def _problem(error: Exception) -> Problem:
    match error:
        case SettingsError():
            # Nobody can be authenticated without settings, so what is wrong with them is for the log only.
            return Problem(
                503,
                "settings_unreadable",
                "The app's settings cannot be read, so it does nothing. Its log says which.",
            )
        case UnreadableContainment():
            # Never "not there": it may be a principal that is blocked.
            return Problem(
                503,
                "record_unreadable",
                f"{error}, so nothing was done about it. A newer version wrote it, or it is"
                ' damaged: go forward to that version, or see docs/operate.md, "A record is unreadable".',
            )
        case StoreError():
            return Problem(
                503,
                "store_unavailable",
                "State could not be read or written, so nothing more was done. Send it again.",
                cause=type(error).__name__,
            )
        case Throttled(retry_after=wait):
            seconds = None if wait is None else int(wait.total_seconds())
            return Problem(
                503,
                "throttled",
                f"{error.service} is throttling. Send it again later.",
                retryAfterSeconds=seconds,
            )
        case Refused():
            return Problem(
                502,
                "permission_missing",
                f"{error}. A permission or licence of this app is missing; see /api/readiness.",
            )
        case Unavailable() | NotSent():
            return Problem(503, "service_unavailable", f"{error}. Send it again later.")
        case OutcomeUnknown():
            return Problem(
                503,
                "outcome_unknown",
                f"{error}. It may have taken effect; the settle timer looks before acting again.",
            )
        case ClientError():
            return Problem(502, "service_error", f"{error}.")
        case _:
            return Problem(500, "internal", "The app failed; the cause is in its log.")
