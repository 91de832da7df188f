"""HTTP without any framework's types: what a handler is given, what it gives back, what it raises."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY_LIMIT: Final = 1_000_000  # bytes; a playbook body of 150 alerts is well below


@dataclass(frozen=True, slots=True)
class Request:
    """One call. Header names are lower-cased."""

    method: str
    route: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; ``body`` becomes JSON."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Give the body as JSON text."""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"), default=str)


class Problem(Exception):
    """What went wrong, for the caller: HTTP status, a stable code, a sentence, details. Never a traceback."""

    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details

    def response(self) -> Response:
        """Give the error body ``{"error": {"code", "message", "details"}}``; how long to wait goes into a header too."""
        body = {"error": {"code": self.code, "message": self.message, "details": self.details}}
        wait = self.details.get("retryAfterSeconds")
        return Response(self.status, body, {} if wait is None else {"Retry-After": str(wait)})


def json_body(request: Request) -> Any:
    """Parse the body. Raises: Problem 413 or 400."""
    if len(request.body) > BODY_LIMIT:
        raise Problem(413, "body_too_large", f"The body is larger than {BODY_LIMIT} bytes.", limit=BODY_LIMIT)
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError) as error:
        where = (
            f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise Problem(400, "not_json", f"The body is not JSON{where}.") from error
