"""
The simulated tenant on localhost: one application, one http and one https port.

Nothing here is deployed, and it refuses to start where Azure says it runs in
Azure: a stand-in that answers "contained" must never be mistaken for a tenant.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from simtenant import entra, faults, graph, graph_wire
from simtenant.clock import iso
from simtenant.faults import APP_ID, CHANGED, NAMED, TEMPLATE, Fault, FaultKind, SeenRequest
from simtenant.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from simtenant.tenant import Tenant

_log = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"
_SETTLE_EVERY_SECONDS: Final = 0.1
_LEAVE_AFTER_SECONDS: Final = 0.5
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
# Set by App Service, Functions and Container Apps for the code they run.
_AZURE_VARIABLES: Final = (
    "WEBSITE_SITE_NAME",
    "WEBSITE_INSTANCE_ID",
    "WEBSITE_RESOURCE_GROUP",
    "WEBSITE_POD_NAME",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
    "CONTAINER_APP_NAME",
)


class RunsInAzure(RuntimeError):
    """The environment says that this process runs in Azure, where no simulation may answer."""


def refuse_in_azure(environment: Mapping[str, str] | None = None) -> None:
    """
    Refuse to go on when the environment says "Azure".

    Raises: RunsInAzure naming the variables that say so.
    """
    found = os.environ if environment is None else environment
    said = [name for name in _AZURE_VARIABLES if found.get(name)]
    # Core Tools set this one on a desk too, to localhost and a port.
    if found.get("WEBSITE_HOSTNAME", "localhost").partition(":")[0] not in {"localhost", "127.0.0.1"}:
        said.append("WEBSITE_HOSTNAME")
    if found.get("AZURE_FUNCTIONS_ENVIRONMENT", "Development").lower() != "development":
        said.append("AZURE_FUNCTIONS_ENVIRONMENT")
    if said:
        raise RunsInAzure(
            f"The simulated tenant does not start here: {', '.join(said)} {'say' if len(said) > 1 else 'says'} that this is Azure."
            " It is for a desk only; unset them if this is one."
        )


class TenantServer:
    """
    Serve one tenant on localhost, over http and https; an async context manager.

    Inside the ``async with``: ``base_url`` (``http://127.0.0.1:PORT``) for Graph
    and the other APIs, ``tls_url`` (``https://localhost:PORT``) as azure-identity's
    authority, ``ca_file`` the certificate to trust. Port 0 takes a free one.
    ``extra_routes`` are those of the tenant's other services. The certificate is
    written into ``directory``. Beside the services it offers ``/_sim/faults``
    (POST, GET, DELETE) and ``/_sim/requests`` (GET, DELETE), to whoever reaches localhost.

    Raises: RunsInAzure on construction.
    """

    def __init__(
        self,
        tenant: Tenant,
        *,
        directory: Path,
        port: int = 0,
        tls_port: int = 0,
        extra_routes: Sequence[web.AbstractRouteDef] = (),
    ) -> None:
        refuse_in_azure()
        self.tenant = tenant
        self._certificate = make_certificate(directory)
        self.ca_file = self._certificate.ca_file
        self._ports = port, tls_port
        self._extra_routes = extra_routes
        self._runner: web.AppRunner | None = None
        self._settling: asyncio.Task[None] | None = None
        self._urls = "", ""

    @property
    def base_url(self) -> str:
        """Root of all services over http, without a trailing slash. Empty before the start."""
        return self._urls[0]

    @property
    def tls_url(self) -> str:
        """Root of all services over https, without a trailing slash. Empty before the start."""
        return self._urls[1]

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[self._around], client_max_size=_MAX_BODY_BYTES)
        application.add_routes(self._control_routes())
        application.add_routes(self._extra_routes)
        application.add_routes(entra.routes(self.tenant))
        application.add_routes(graph.routes(self.tenant))
        # A fault may hold a request for minutes; leaving does not wait for it.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_LEAVE_AFTER_SECONDS)
        await self._runner.setup()
        port, tls_port = self._ports
        try:
            plain = web.TCPSite(self._runner, _HOST, port)
            await plain.start()
            secure = web.TCPSite(
                self._runner, _HOST, tls_port, ssl_context=self._certificate.server_context()
            )
            await secure.start()
        except OSError:
            await self._runner.cleanup()
            raise
        bound = [address[1] for address in self._runner.addresses]
        self._urls = f"http://{_HOST}:{bound[0]}", f"https://localhost:{bound[1]}"
        self._settling = asyncio.create_task(self._settle(), name="risk takes effect")
        print(
            f"*** SIMULATED TENANT on {self.base_url} and {self.tls_url}: nothing here is Microsoft Entra,"
            " and nothing it says about a block is true. ***",
            file=sys.stderr,
            flush=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_EVERY_SECONDS)
            self.tenant.risk.settle()

    @web.middleware
    async def _around(self, request: web.Request, handler: faults.Handler) -> web.StreamResponse:
        """Apply an armed fault, turn an unhandled error into Graph's 500, and remember the request."""
        if request.path.startswith("/_sim/"):
            return await handler(request)
        began = time.monotonic()
        status = 0
        try:
            fault = self.tenant.faults.take(request.method, request.path)
            answer = self._answer(request, handler)
            if fault is None:
                response = await answer(request)
            else:
                response = await faults.apply(fault, request, answer)
            dropped = request.transport is None or request.transport.is_closing()
            status = 0 if dropped else response.status
            return response
        finally:
            self._remember(request, status, time.monotonic() - began)

    def _answer(self, request: web.Request, handler: faults.Handler) -> faults.Handler:
        async def answer(_: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPException as error:
                # An unknown path, a method that is not allowed, a body that is too large.
                return self._error(error.status, "BadRequest", error.reason)
            except Exception:  # noqa: BLE001 (the outermost edge: the caller gets no traceback, the desk does)
                _log.exception("%s %s failed", request.method, request.path)
                return self._error(500, "InternalServerError", "The simulated tenant failed; see its log.")

        return answer

    def _error(self, status: int, code: str, message: str) -> web.Response:
        body = graph_wire.error_body(
            code, message, date=iso(self.tenant.clock.now()), request_id=self.tenant.new_id()
        )
        return web.json_response(body, status=status)

    def _remember(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        named = request.get(TEMPLATE) or (resource.canonical if resource is not None else "{unknown}")
        self.tenant.requests.add(
            SeenRequest(
                at=self.tenant.clock.now(),
                method=request.method,
                template=named,
                path=request.path,
                status=status,
                app_id=request.get(APP_ID),
                seconds=seconds,
                named=request.get(NAMED, ()),
                changed=request.get(CHANGED, ()),
            )
        )

    def _control_routes(self) -> list[web.RouteDef]:
        return [
            web.post("/_sim/faults", self._arm),
            web.get("/_sim/faults", self._armed),
            web.delete("/_sim/faults", self._disarm),
            web.get("/_sim/requests", self._seen),
            web.delete("/_sim/requests", self._forget),
        ]

    async def _arm(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            fault = Fault.from_json(body if isinstance(body, dict) else {})
        except ValueError as error:
            return self._error(400, "BadRequest", str(error))
        self.tenant.faults.arm(fault)
        return web.json_response(_fault(fault), status=201)

    async def _armed(self, _request: web.Request) -> web.Response:
        return web.json_response({"value": [_fault(fault) for fault in self.tenant.faults]})

    async def _disarm(self, _request: web.Request) -> web.Response:
        self.tenant.faults.clear()
        return web.Response(status=204)

    async def _seen(self, _request: web.Request) -> web.Response:
        requests = self.tenant.requests
        return web.json_response(
            {
                "total": requests.total,
                "counts": requests.counts(),
                "throttle": {
                    "accepted": self.tenant.throttle.accepted,
                    "refused": self.tenant.throttle.refused,
                },
                "requests": [_seen(seen) for seen in requests],
            }
        )

    async def _forget(self, _request: web.Request) -> web.Response:
        self.tenant.requests.clear()
        return web.Response(status=204)


def _fault(fault: Fault) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "path_pattern": fault.pattern.pattern,
        "kind": fault.kind.value,
        "times": fault.times,
        "hits": fault.hits,
    }
    if fault.kind is FaultKind.STATUS:
        shown |= {"status": fault.status, "retry_after": fault.retry_after, "html": fault.html}
    else:
        shown["seconds"] = fault.seconds
    return shown


def _seen(seen: SeenRequest) -> dict[str, Any]:
    return {
        "at": iso(seen.at),
        "method": seen.method,
        "template": seen.template,
        "path": seen.path,
        "status": seen.status,
        "appId": seen.app_id,
        "seconds": round(seen.seconds, 4),
        "named": list(seen.named),
        "changed": list(seen.changed),
    }
