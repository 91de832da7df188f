"""
The app in a process that kills itself (SIGKILL) at a given await point. Not a test: ``test_kill_points.py`` runs it.

One warm parent imports everything once and forks a child for each line on standard input, so that a hundred deaths
cost a hundred forks and not a hundred imports. An await point is a place where a task of ours really gives up the
processor: its name is the last two functions of ``response`` or ``handlers`` on the stack and the client they wait for.
"""

import asyncio
import base64
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from handlers import edge  # noqa: E402  # found by the path above
from handlers.http import Request  # noqa: E402
from handlers.process import build, warm  # noqa: E402
from response import turns  # noqa: E402
from settings import Settings  # noqa: E402


class Watch:
    """Counts suspensions by point, and kills the process at the one that was asked for."""

    def __init__(self, point, occurrence):
        self.point, self.occurrence = point, occurrence
        self.seen = Counter()

    def suspended(self, coroutine):
        name = point_of(coroutine)
        if name is None:
            return
        self.seen[name] += 1
        if name == self.point and self.seen[name] == self.occurrence:
            os.kill(os.getpid(), signal.SIGKILL)


def point_of(coroutine):
    """Name where a suspended coroutine waits; None for a task in which no code of ours does."""
    ours, client = [], ""
    awaited = coroutine
    while awaited is not None:
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        if code is not None and not code.co_name.startswith("<"):  # comprehensions are frames up to 3.11 only
            path = Path(code.co_filename)
            folder = path.relative_to(ROOT).parts[0] if path.is_relative_to(ROOT) else ""
            if folder in ("response", "handlers"):
                ours.append(f"{path.stem}.{code.co_name}")
            elif folder == "clients" and not client:
                client = f"{path.parent.name}.{code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " > ".join([*ours[-2:], *([client] if client else [])]) if ours else None


class Watched(Coroutine):
    """A coroutine that tells where it was suspended."""

    def __init__(self, coroutine, watch):
        self._coroutine, self._watch = coroutine, watch

    def send(self, value):
        given = self._coroutine.send(value)
        self._watch.suspended(self._coroutine)
        return given

    def throw(self, *error):
        given = self._coroutine.throw(*error)
        self._watch.suspended(self._coroutine)
        return given

    def close(self):
        self._coroutine.close()

    def __await__(self):
        return (yield from self._coroutine.__await__())


def identity(*roles, oid):
    claims = [{"typ": "roles", "val": role} for role in roles]
    claims.append({"typ": "oid", "val": oid})
    return {"x-ms-client-principal": base64.b64encode(json.dumps({"claims": claims}).encode()).decode()}


async def run(order, watch):
    turns.INTERVAL = turns.timedelta(milliseconds=5)
    process = await build(Settings.from_env(order["environment"]))

    class Built:
        async def get(self):
            return process

    loop = asyncio.get_running_loop()
    loop.set_task_factory(
        lambda loop, made, **options: asyncio.Task(Watched(made, watch), loop=loop, **options)
    )
    request = Request(
        method="POST",
        route=order["route"],
        query={},
        headers=identity(*order["roles"], oid=order["oid"]),
        body=json.dumps(order["body"]).encode(),
    )
    answer = await loop.create_task(edge.answer(order["name"], request, Built()))
    loop.set_task_factory(None)
    await process.close()
    return answer.status


def main():
    warm()
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                watch = Watch(order.get("point"), order.get("occurrence"))
                status = asyncio.run(run(order, watch))
                Path(order["seen"]).write_text(json.dumps({"status": status, "points": watch.seen}))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        say(json.dumps({"killed": killed, "code": os.waitstatus_to_exitcode(status)}))


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
