"""
What every answer of the simulated Graph is made of: the call, the operation, the error body.

Shapes follow contracts/graph-*.subset.yaml and facts/entra.md §1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from simtenant.permissions import Roles
    from simtenant.tenant import Principal
    from simtenant.tokens import Claims

Json = dict[str, Any]

GUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTENT_TYPE: Final = (
    "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"
)
_ENUM_PREFERENCE: Final = "include-unknown-enum-members"
# Members behind unknownFutureValue in riskDetail: a caller that does not send the
# Prefer header reads unknownFutureValue instead (facts/entra.md §1 and §2).
_EVOLVED_RISK_DETAILS: Final = frozenset(
    {
        "adminConfirmedServicePrincipalCompromised",
        "adminDismissedAllRiskForServicePrincipal",
        "adminConfirmedAgentCompromised",
        "adminConfirmedAgentSafe",
        "adminDismissedRiskForAgent",
    }
)
V1: Final = "v1.0"
BETA: Final = "beta"
BOTH: Final = (V1, BETA)


class GraphRefusedError(Exception):
    """The answer to a request is an error; carries the status, Graph's code and extra headers."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass
class Call:
    """One authenticated request: who asks, what for, and the ids in its path."""

    request: web.Request
    version: str
    path: str
    request_id: str
    caller: Principal
    claims: Claims
    payload: bytes | None = None
    """Body of a request that came inside a batch; None: the body of ``request``."""
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def knows_all_enum_members(self) -> bool:
        """Whether the caller asked for enum members newer than its client."""
        return _ENUM_PREFERENCE in ",".join(self.request.headers.getall("Prefer", [])).lower()

    @property
    def wants_eventual_consistency(self) -> bool:
        """Whether the caller allows the directory's advanced queries."""
        return self.request.headers.get("ConsistencyLevel", "").lower() == "eventual"

    async def body(self) -> Json:
        """Read the JSON object in the body. Raises GraphRefusedError (400) for anything else."""
        try:
            read = json.loads(await self.request.read() if self.payload is None else self.payload)
        except ValueError as error:
            raise GraphRefusedError(400, "BadRequest", "Unable to read JSON request payload.") from error
        if not isinstance(read, dict):
            raise GraphRefusedError(400, "BadRequest", "Empty Payload. JSON content expected.")
        return read


Handle = Callable[[Call], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and verb: its permissions and its code."""

    method: str
    template: str
    roles: Roles
    handle: Handle
    versions: tuple[str, ...] = BOTH
    licensed: bool = False

    @property
    def shares_quota(self) -> bool:
        """Whether it counts against the tenant's one request a second."""
        return self.template.startswith(("/identityProtection/", "/identity/conditionalAccess/"))


def path_pattern(template: str) -> str:
    """Turn ``/servicePrincipals(appId='{appId}')`` into a regular expression for whole paths."""
    parts = re.split(r"\{(\w+)\}", template)
    return "".join(
        f"(?P<{part}>[^/()']+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )


def json_answer(body: Json, call: Call | None = None, *, status: int = 200) -> web.Response:
    """Answer with a JSON body and the headers that Graph sends."""
    headers = {"Content-Type": _CONTENT_TYPE, "OData-Version": "4.0", "Cache-Control": "no-cache"}
    if call is not None and call.knows_all_enum_members:
        headers["Preference-Applied"] = _ENUM_PREFERENCE
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def error_body(
    code: str, message: str, *, date: str, request_id: str, client_request_id: str | None = None
) -> Json:
    """Return a Graph error (schema microsoft.graph.ODataErrors.oDataError; facts/entra.md §1)."""
    return {
        "error": {
            "code": code,
            "message": message,
            "innerError": {
                "date": date,
                "request-id": request_id,
                "client-request-id": client_request_id or request_id,
            },
        }
    }


def error_response(
    refused: GraphRefusedError, request: web.Request, request_id: str, now: datetime
) -> web.Response:
    """Answer with an error."""
    body = error_body(
        refused.code,
        refused.message,
        date=f"{now:%Y-%m-%dT%H:%M:%S}",
        request_id=request_id,
        client_request_id=request.headers.get("client-request-id"),
    )
    response = json_answer(body, status=refused.status)
    response.headers.update(refused.headers)
    return response


def not_found(named: str) -> GraphRefusedError:
    """Make the 404 of a directory object."""
    return GraphRefusedError(
        HTTPStatus.NOT_FOUND,
        "Request_ResourceNotFound",
        f"Resource '{named}' does not exist or one of its queried reference-property objects are not present.",
    )


def guid(text: object) -> str:
    """Return a GUID in lower case. Raises GraphRefusedError (400), as Graph does for a malformed id."""
    if not isinstance(text, str) or not GUID.fullmatch(text):
        raise GraphRefusedError(400, "Request_BadRequest", f"Invalid object identifier '{text}'.")
    return text.lower()


def object_in(body: Mapping[str, Any], name: str) -> Json:
    """Return an object of a body. Raises GraphRefusedError (400) where it is none."""
    value = body.get(name)
    if not isinstance(value, dict):
        raise GraphRefusedError(400, "BadRequest", f"'{name}' must be an object.")
    return value


def enum_member(value: str, call: Call) -> str:
    """Show an enumeration member as the caller asked to see it."""
    if value in _EVOLVED_RISK_DETAILS and not call.knows_all_enum_members:
        return "unknownFutureValue"
    return value


def by_id(rows: Sequence[Json], wanted: str) -> Json:
    """Return the row with an id. Raises GraphRefusedError (404)."""
    for row in rows:
        if row["id"].lower() == wanted.lower():
            return row
    raise not_found(wanted)
