"""
Bindings only: each function is one call into handlers/.

Nothing heavy is imported here. The worker has to index this file before the first call can be answered;
the SDKs are loaded by a thread shortly after.
"""

import threading

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

# Long enough for the worker to finish indexing, which this would slow down; short against any first call.
_WARM_AFTER_SECONDS = 0.3


@app.function_name("incidents")
@app.route(route="incidents", methods=["POST"])
async def incidents(req: func.HttpRequest) -> func.HttpResponse:
    """A Sentinel playbook hands over an incident."""
    return await _answer("incidents", req)


@app.function_name("signals")
@app.route(route="signals", methods=["POST"])
async def signals(req: func.HttpRequest) -> func.HttpResponse:
    """Another system says what it thinks of a principal."""
    return await _answer("signals", req)


@app.function_name("compromise")
@app.route(route="principals/{principalId}/compromise", methods=["POST"])
async def compromise(req: func.HttpRequest) -> func.HttpResponse:
    """An analyst contains a principal."""
    return await _answer("compromise", req)


@app.function_name("containments")
@app.route(route="containments/{id?}", methods=["GET"])
async def containments(req: func.HttpRequest) -> func.HttpResponse:
    """List containments, or read one."""
    return await _answer("containments", req)


@app.function_name("approval")
@app.route(route="containments/{id}/approval", methods=["POST"])
async def approval(req: func.HttpRequest) -> func.HttpResponse:
    """Somebody approves or rejects a containment that waits for people."""
    return await _answer("approval", req)


@app.function_name("undo")
@app.route(route="containments/{id}/undo", methods=["POST"])
async def undo(req: func.HttpRequest) -> func.HttpResponse:
    """An analyst takes a containment back."""
    return await _answer("undo", req)


@app.function_name("principal")
@app.route(route="principals/{principalId}", methods=["GET"])
async def principal(req: func.HttpRequest) -> func.HttpResponse:
    """Read the dossier of one principal."""
    return await _answer("principal", req)


@app.function_name("killswitch")
@app.route(route="killswitch", methods=["PUT"])
async def killswitch(req: func.HttpRequest) -> func.HttpResponse:
    """Stop every lever, or let them work again."""
    return await _answer("killswitch", req)


@app.function_name("notifications")
@app.route(route="notifications", methods=["GET"])
async def notifications(req: func.HttpRequest) -> func.HttpResponse:
    """List what the webhook did not take."""
    return await _answer("notifications", req)


@app.function_name("retry_notifications")
@app.route(route="notifications/retry", methods=["POST"])
async def retry_notifications(req: func.HttpRequest) -> func.HttpResponse:
    """Send again what the webhook did not take."""
    return await _answer("retry_notifications", req)


@app.function_name("openapi")
@app.route(route="openapi.json", methods=["GET"])
async def openapi(req: func.HttpRequest) -> func.HttpResponse:
    """Describe this API."""
    return await _answer("openapi", req)


@app.function_name("health")
@app.route(route="health", methods=["GET"])
async def health(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001  # the binding wants the parameter
    """Say that the app lives, and nothing else: anybody may ask."""
    return func.HttpResponse('{"status":"alive"}', mimetype="application/json")


@app.function_name("readiness")
@app.route(route="readiness", methods=["GET"])
async def readiness(req: func.HttpRequest) -> func.HttpResponse:
    """Say what is missing before containment can work."""
    return await _answer("readiness", req)


@app.function_name("dormant")
@app.route(route="dormant", methods=["GET"])
async def dormant(req: func.HttpRequest) -> func.HttpResponse:
    """Read the report on principals that nobody uses and that could still act."""
    return await _answer("dormant", req)


@app.function_name("sweep_fast")
@app.timer_trigger(arg_name="timer", schedule="%AGENTBREAKER_SWEEP_FAST_SCHEDULE%", run_on_startup=False)
async def sweep_fast(timer: func.TimerRequest) -> None:  # noqa: ARG001  # the binding wants the parameter
    """Run the rules that need no history."""
    await _tick("sweep_fast")


@app.function_name("sweep")
@app.timer_trigger(arg_name="timer", schedule="%AGENTBREAKER_SWEEP_SCHEDULE%", run_on_startup=False)
async def sweep(timer: func.TimerRequest) -> None:  # noqa: ARG001  # the binding wants the parameter
    """Run the rules that judge a window."""
    await _tick("sweep")


@app.function_name("sweep_baseline")
@app.timer_trigger(arg_name="timer", schedule="%AGENTBREAKER_SWEEP_BASELINE_SCHEDULE%", run_on_startup=False)
async def sweep_baseline(timer: func.TimerRequest) -> None:  # noqa: ARG001  # the binding wants the parameter
    """Run the rules that compare amounts with a principal's own past."""
    await _tick("sweep_baseline")


@app.function_name("sweep_dormant")
@app.timer_trigger(arg_name="timer", schedule="%AGENTBREAKER_SWEEP_DORMANT_SCHEDULE%", run_on_startup=False)
async def sweep_dormant(timer: func.TimerRequest) -> None:  # noqa: ARG001  # the binding wants the parameter
    """Look for principals that nobody uses and that could still act."""
    await _tick("sweep_dormant")


@app.function_name("settle")
@app.timer_trigger(arg_name="timer", schedule="%AGENTBREAKER_SETTLE_SCHEDULE%", run_on_startup=False)
async def settle(timer: func.TimerRequest) -> None:  # noqa: ARG001  # the binding wants the parameter
    """Go on with what is pending."""
    await _tick("settle")


async def _answer(name: str, req: func.HttpRequest) -> func.HttpResponse:
    from handlers.edge import answer
    from handlers.http import Request

    request = Request(
        method=req.method or "",
        route=dict(req.route_params),
        query=dict(req.params),
        headers={key.lower(): value for key, value in req.headers.items()},
        body=req.get_body() or b"",
    )
    response = await answer(name, request)
    return func.HttpResponse(
        response.text(),
        status_code=response.status,
        headers=dict(response.headers),
        mimetype="application/json",
    )


async def _tick(name: str) -> None:
    from handlers.edge import tick

    await tick(name)


def _warm() -> None:
    from handlers.process import warm

    warm()


_warming = threading.Timer(_WARM_AFTER_SECONDS, _warm)
_warming.daemon = True
_warming.start()
