"""
Everything that can go wrong outside, as types. Foreign errors are translated here and nowhere else.

    ClientError                a service did not do what was asked; ``service``, ``status``, ``code``
    ├── NotFound               404: it is not there (or not there yet)
    ├── Refused                401 or 403: waiting does not help, a permission or licence is missing
    ├── BadRequest             any other 4xx: the request itself is wrong
    ├── Conflicting            409 or 412: somebody else changed it first
    ├── Throttled              429: not done; ``retry_after`` if the service named a time
    ├── Unavailable            5xx on a read, or no answer to one: asking again is harmless
    ├── NotSent                the connection could not be opened: nothing happened there
    ├── OutcomeUnknown         a write left us and no clear answer came: it may have taken effect
    ├── Partial                a log query came back incomplete: not a result
    └── Malformed              the answer does not have the documented shape

The errors of the state store are a tree of their own in ``clients/stores/errors.py``.
Decide by type and attribute, never by the text of a message: texts are for people.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx


class ClientError(Exception):
    """A service did not do what was asked. ``str()`` names service, status and code, no ids."""

    def __init__(self, service: str, what: str, *, status: int | None = None, code: str = "") -> None:
        parts = [service, what]
        if status is not None:
            parts.append(f"HTTP {status}")
        if code:
            parts.append(code[:80])
        super().__init__(": ".join(parts[:2]) + (f" ({', '.join(parts[2:])})" if parts[2:] else ""))
        self.service, self.what, self.status, self.code = service, what, status, code


class NotFound(ClientError):
    """404: it is not there, or not there yet."""


class Refused(ClientError):
    """401 or 403. Waiting does not help; a permission or a licence is missing."""


class BadRequest(ClientError):
    """Another 4xx: the request itself is wrong, sending it again is pointless."""


class Conflicting(ClientError):
    """409 or 412: somebody else changed it first; read again."""


class Throttled(ClientError):
    """429: it was not done. ``retry_after`` is None where the service names no time (ID Protection does not)."""

    def __init__(self, service: str, what: str, *, retry_after: timedelta | None, code: str = "") -> None:
        super().__init__(service, what, status=429, code=code)
        self.retry_after = retry_after


class Unavailable(ClientError):
    """A read met a 5xx, a timeout or a broken connection. Asking again is harmless."""


class NotSent(ClientError):
    """The connection could not be opened, so nothing happened on the other side."""


class OutcomeUnknown(ClientError):
    """A write left us and no clear answer came. It may have taken effect: look before acting again."""


class Partial(ClientError):
    """A log query came back incomplete. Not a result: neither a finding nor its absence."""


class Malformed(ClientError):
    """The answer does not have the documented shape."""


def from_status(
    service: str,
    what: str,
    status: int,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    write: bool = False,
) -> ClientError:
    """
    The class for an HTTP status. ``write`` turns every 5xx into OutcomeUnknown.

    A 503 to a write is treated like a 500: no documentation promises that it was not carried out.
    """
    if status == 404:
        return NotFound(service, what, status=status, code=code)
    if status in (401, 403):
        return Refused(service, what, status=status, code=code)
    if status in (409, 412):
        return Conflicting(service, what, status=status, code=code)
    if status == 429:
        return Throttled(service, what, retry_after=retry_after(headers or {}), code=code)
    if write and (status == 408 or 300 <= status < 400):  # no word on whether it was carried out
        return OutcomeUnknown(service, what, status=status, code=code)
    if 400 <= status < 500:
        return BadRequest(service, what, status=status, code=code)
    if 500 <= status < 600:
        return (OutcomeUnknown if write else Unavailable)(service, what, status=status, code=code)
    kind = OutcomeUnknown if write else Malformed
    return kind(service, f"{what}: unexpected status", status=status, code=code)


def error_code(answer: httpx.Response) -> str:
    """Give ``error.code`` of an error body, as Graph and Resource Manager write it; empty when there is none."""
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """``Retry-After`` as a duration: seconds or an HTTP date (RFC 9110 §10.2.3); None when absent or unreadable."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "").strip()
    if text.isdigit():
        return timedelta(seconds=int(text))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(until - datetime.now(UTC), timedelta(0)) if until.tzinfo else None
