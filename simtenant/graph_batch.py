"""
``POST /$batch`` of the simulated Graph.

Twenty requests at most, each with an id of its own, each judged and throttled for itself; the outer answer is 200
whatever the inner ones say. Source: microsoft-graph-docs-contrib concepts/json-batching.md (facts/entra.md §5).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from multidict import CIMultiDict
from yarl import URL

from simtenant.faults import FaultKind, status_response
from simtenant.graph_base import GraphBase
from simtenant.graph_wire import Call, GraphRefusedError, Json, Operation, json_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

_MOST: Final = 20
_METHODS: Final = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE"})
# Headers of the outer request that say something about its body only.
_OF_THE_BODY: Final = ("Content-Length", "Content-Type", "Transfer-Encoding", "Content-Encoding")


class Batches(GraphBase, ABC):
    """Requests inside a request."""

    def _batch_operations(self) -> tuple[Operation, ...]:
        # No permission of its own: each inner request needs its.
        return (Operation("POST", "/$batch", None, self._batch),)

    async def _batch(self, call: Call) -> web.Response:
        """
        Answer each inner request. The order of the answers says nothing, so it is turned round on purpose.

        A fault of kind ``status`` whose pattern matches an inner request hits that one alone.
        """
        # Cloned before its body is read: afterwards aiohttp refuses to.
        unread = call.request.clone()
        requests = _checked((await call.body()).get("requests"))
        statuses: dict[str, int] = {}
        answers: list[Json] = []
        for one in requests:
            if any(statuses.get(needed, 424) >= 400 for needed in one.get("dependsOn") or ()):
                answer: Json = {"id": one["id"], "status": 424, "headers": {}, "body": _failed_dependency()}
            else:
                answer = await self._inner(call, unread, one)
            statuses[one["id"]] = answer["status"]
            answers.append(answer)
        return json_answer({"responses": answers[::-1]}, call)

    async def _inner(self, call: Call, unread: web.Request, one: Mapping[str, Any]) -> Json:
        url = URL(f"/{call.version}/{str(one['url']).lstrip('/')}", encoded=True)
        headers = CIMultiDict(unread.headers)
        for name in _OF_THE_BODY:
            headers.popall(name, None)
        headers.update({str(name): str(value) for name, value in (one.get("headers") or {}).items()})
        request = unread.clone(method=one["method"], rel_url=url, headers=headers)
        path = re.sub("/+", "/", unquote(url.raw_path).removeprefix(f"/{call.version}"))
        fault = self._tenant.faults.take(one["method"], f"/{call.version}{path}", kind=FaultKind.STATUS)
        if fault is not None:
            response = status_response(fault)
        else:
            inner = Call(request, call.version, path, self._tenant.new_id(), call.caller, call.claims)
            inner.payload = b"" if one.get("body") is None else json.dumps(one["body"]).encode()
            response = await self._answered(inner)
        answer: Json = {"id": one["id"], "status": response.status, "headers": dict(response.headers)}
        if isinstance(response.body, bytes) and response.body:
            answer["body"] = json.loads(response.body)
        return answer

    @abstractmethod
    async def _answered(self, call: Call) -> web.Response:
        """Answer one call whose caller is known; ``GraphService`` says how."""


def _checked(requests: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(requests, list) or not requests or not all(isinstance(one, dict) for one in requests):
        raise GraphRefusedError(400, "BadRequest", "Invalid batch payload format.")
    if len(requests) > _MOST:
        raise GraphRefusedError(
            400, "BadRequest", f"Number of batch request steps exceeds the maximum value of {_MOST}."
        )
    ids = [one.get("id") for one in requests]
    if not all(isinstance(one, str) and one for one in ids) or len(set(ids)) < len(ids):
        raise GraphRefusedError(400, "BadRequest", "Each request needs an id of its own.")
    for one in requests:
        named = {str(name).lower() for name in one.get("headers") or {}}
        if one.get("method") not in _METHODS or not isinstance(one.get("url"), str):
            raise GraphRefusedError(400, "BadRequest", f"Request {one['id']} has no method or no url.")
        if one["url"].lstrip("/").startswith("$batch") or "://" in one["url"].partition("?")[0]:
            raise GraphRefusedError(400, "BadRequest", f"The url of request {one['id']} is not relative.")
        if one.get("body") is not None and "content-type" not in named:
            raise GraphRefusedError(400, "BadRequest", f"Request {one['id']} has a body and no Content-Type.")
    return requests


def _failed_dependency() -> Json:
    return {"error": {"code": "FailedDependency", "message": "A request this one depends on failed."}}
