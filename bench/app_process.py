"""
The app in a process of its own, asked over a pipe: the same handlers, clients and store as deployed.

    python -m bench.app_process [--paced]

One line of JSON in, one out (``bench/app.py`` is the other end). Apart from the simulated tenant's process,
so that the tenant's work does not share our interpreter lock and is not counted as ours; and without an HTTP
host before it, so that time begins where the handler is entered. The marks around the steps of the flow cost
some microseconds each.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import os
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from clients.errors import Throttled
from clients.stores import Put
from clients.terms import object_id
from handlers import edge
from handlers.http import Request
from handlers.process import build, warm
from response import flow, gathering, turns
from settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.figures import Json
    from clients.terms import ObjectId
    from handlers.process import Process

_STEPS: Final = (
    ("read", "handlers.incidents", "_incident"),
    ("read", "handlers.incidents", "_alerts_and_accounts"),
    ("evidence", "response.flow", "judge"),
    ("open", "response.flow", "open_or_join"),
    ("pull", "response.pulling", "pull_until_done"),
    ("tell", "response.telling", "tell"),
)
_CLIENTS: Final = (
    ("httpx", "AsyncClient"),
    ("msgraph.graph_service_client", "GraphServiceClient"),
    ("msgraph.graph_request_adapter", "GraphRequestAdapter"),
    ("azure.monitor.query.aio", "LogsQueryClient"),
    ("azure.identity.aio", "ClientSecretCredential"),
    ("clients.graph", "GraphClient"),
    ("clients.logs", "LogsClient"),
    ("clients.sentinel", "SentinelClient"),
    ("clients.stores.sqlite", "SqliteStore"),
)


class _Ready:
    """A process that is already built, for ``edge.answer``."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def get(self) -> Process:
        return self._process


class _App:
    """Does what the bench asks for."""

    def __init__(self, process: Process, steps: list[tuple[str, float, float]], made: Counter[str]) -> None:
        self._process, self._steps, self._made = process, steps, made
        self._once: Any = _Ready(process)

    async def incident(self, asked: Json) -> Json:
        """Handle one incident body. Gives when it was entered and answered, the steps between, the answer."""
        body = json.dumps(asked["body"]).encode()
        headers = _easy_auth("Incident.Submit")
        self._steps.clear()
        began = time.time()
        status, answer = await self._call("incidents", {}, body, headers)
        return {"began": began, "status": status, "answer": answer, "steps": list(self._steps)}

    async def incidents(self, asked: Json) -> Json:
        """Handle many incident bodies at once. Gives when they were entered and what became of each principal."""
        headers = _easy_auth("Incident.Submit")
        bodies = [json.dumps(body).encode() for body in asked["bodies"]]
        began = time.time()
        answers = await asyncio.gather(*(self._call("incidents", {}, body, headers) for body in bodies))
        became = [
            {"status": status, **{name: result[name] for name in ("principalId", "containmentId", "state")}}
            for status, answer in answers
            for result in answer.get("results") or [{"principalId": "", "containmentId": "", "state": ""}]
        ]
        return {"began": began, "ended": time.time(), "became": became}

    async def undos(self, asked: Json) -> Json:
        """Take many containments back at once, beyond the handler: what it reads first costs paced calls for each."""
        began = time.time()
        undone = await asyncio.gather(
            *(flow.undo(one, "bench", "measured", (), self._process.world) for one in asked["containments"])
        )
        became = [{"principalId": c.principal, "containmentId": c.id, "state": c.state} for c in undone]
        return {"began": began, "ended": time.time(), "became": became}

    async def naive(self, asked: Json) -> Json:
        """
        Confirm, or dismiss, each principal with a call of its own, all at once, as if there were no group commit.

        The same client and connections. What is throttled is tried again with exponential backoff and jitter, as
        Graph asks where it names no Retry-After, until it is accepted.
        """
        graph = self._process.world.graph
        send = graph.dismiss if asked["undo"] else graph.confirm_compromised
        began = time.time()

        async def one(principal: ObjectId) -> None:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Throttled),
                wait=wait_random_exponential(multiplier=1, min=1, max=10),
                reraise=True,
            ):
                with attempt:
                    await send([principal])

        await asyncio.gather(*(one(object_id(principal)) for principal in asked["principals"]))
        return {"began": began, "ended": time.time()}

    async def settle(self, _asked: Json) -> Json:
        """Run what the ``settle`` timer runs, once."""
        began = time.time()
        await flow.settle(self._process.world)
        return {"began": began, "ended": time.time()}

    async def waiting(self, _asked: Json) -> Json:
        """Count what is claimed, or being taken back, and not done."""
        store = self._process.world.store
        found = [*await store.scan("claimed:"), *await store.scan("undoing:")]
        return {"waiting": len(found)}

    async def hold(self, asked: Json) -> Json:
        """
        From now on stop at the request of a batch, before it is sent or after it took effect, and say so.

        The batch is gathered for as long as it may be, as if one more run were always on its way.
        """
        self._process.world.crowd.arriving += 1
        name = "dismiss" if asked["undo"] else "confirm_compromised"
        real = getattr(self._process.world.graph, name)

        async def held(principals: list[ObjectId]) -> None:
            if asked["where"] == "after":
                await real(principals)
            print(json.dumps({"held": asked["where"], "principals": list(principals)}), flush=True)
            await asyncio.Event().wait()

        setattr(self._process.world.graph, name, held)
        return {}

    async def orders(self, asked: Json) -> Json:
        """Handle one order a principal, all at once. Gives when they were entered and what became of each."""
        body, headers = json.dumps({"reason": "measured"}).encode(), _easy_auth("Containment.Execute")
        began = time.time()
        answers = await asyncio.gather(
            *(self._call("compromise", {"principalId": one}, body, headers) for one in asked["principals"])
        )
        states = Counter(f"{status} {answer.get('state')}" for status, answer in answers)
        return {"began": began, "ended": time.time(), "states": dict(states)}

    async def policies(self, asked: Json) -> Json:
        """Make the last reading of policies young (read it now unless it is) or too old."""
        world = self._process.world
        await gathering.current_policies(world, refresh_after=world.policies_max_age / 2)
        record = await world.store.get(gathering.POLICIES)
        if asked["stale"] and record is not None:
            old = (world.now() - 2 * world.policies_max_age).isoformat()
            await world.store.commit([Put(gathering.POLICIES, dict(record.body) | {"read_at": old})])
        return {}

    async def instances(self, _asked: Json) -> Json:
        """Tell how many clients of each kind this process has made since it started."""
        return dict(self._made)

    async def _call(
        self, name: str, route: Mapping[str, str], body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Json]:
        request = Request(method="POST", route=dict(route), query={}, headers=dict(headers), body=body)
        response = await edge.answer(name, request, self._once)
        return response.status, json.loads(response.text())


def _easy_auth(role: str) -> dict[str, str]:
    """Give the header in which Easy Auth presents a caller."""
    claims = [
        {"typ": "roles", "val": role},
        {
            "typ": "http://schemas.microsoft.com/identity/claims/objectidentifier",
            "val": "bbbbbbbb-0000-4000-8000-000000000009",
        },
    ]
    principal = json.dumps({"auth_typ": "aad", "claims": claims, "name_typ": "name", "role_typ": "roles"})
    return {"x-ms-client-principal": base64.b64encode(principal.encode()).decode()}


def _marked(call: Callable[..., Any], step: str, steps: list[tuple[str, float, float]]) -> Callable[..., Any]:
    async def marked(*arguments: Any, **named: Any) -> Any:
        began = time.time()
        try:
            return await call(*arguments, **named)
        finally:
            steps.append((step, began, time.time()))

    return marked


def _counted(init: Callable[..., None], name: str, made: Counter[str]) -> Callable[..., None]:
    def counted(self: Any, *arguments: Any, **named: Any) -> None:
        made[name] += 1
        init(self, *arguments, **named)

    return counted


async def _serve(*, paced: bool) -> None:
    if not paced:
        turns.INTERVAL = timedelta(0)  # type: ignore[misc]  # the wait is the tenant's, not the app's own
    await asyncio.to_thread(warm)
    made: Counter[str] = Counter()
    steps: list[tuple[str, float, float]] = []
    for module_name, name in _CLIENTS:
        kind = getattr(importlib.import_module(module_name), name)
        made[name] = 0
        kind.__init__ = _counted(kind.__init__, name, made)
    for step, module_name, name in _STEPS:
        module = importlib.import_module(module_name)
        setattr(module, name, _marked(getattr(module, name), step, steps))
    process = await build(Settings.from_env(os.environ))
    app = _App(process, steps, made)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            print(json.dumps(await getattr(app, asked["what"])(asked)), flush=True)
    finally:
        await process.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.app_process")
    parser.add_argument("--paced", action="store_true")
    asyncio.run(_serve(paced=parser.parse_args().paced))
