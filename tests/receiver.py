"""A webhook receiver on localhost: says what it is told to say, remembers what it was sent, checks signatures."""

import asyncio
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

SECRET = "shared-with-the-receiver"


@dataclass
class Got:
    id: str
    body: dict[str, Any]
    signed: bool


@dataclass
class Receiver:
    """``answers`` are given in turn, the last for ever: a status, or None for no answer at all."""

    answers: list[int | None] = field(default_factory=lambda: [200])
    headers: dict[str, str] = field(default_factory=dict)
    got: list[Got] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hook/{secret}", self._take)
        app.router.add_route("*", "/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/hook/T0P-S3CRET"
        self.followed = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _elsewhere(self, _: web.Request) -> web.Response:
        self.followed += 1
        return web.Response()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        stamp = request.headers["X-Agentbreaker-Timestamp"].encode()
        wanted = hmac.new(SECRET.encode(), stamp + b"." + content, hashlib.sha256).hexdigest()
        signed = hmac.compare_digest(request.headers["X-Agentbreaker-Signature"], f"sha256={wanted}")
        self.got.append(Got(request.headers["X-Agentbreaker-Id"], json.loads(content), signed))
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status is None:
            await asyncio.sleep(60)
        return web.Response(status=status or 200, headers=self.headers, text="x" * 200_000)

    def events(self) -> list[str]:
        return [one.body["agentbreaker"]["event"] for one in self.got]
