"""Fields of foreign JSON, read so that what is missing or of another type never passes for a value."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def text(found: Mapping[str, Any], name: str) -> str:
    """Give a text; empty for anything else."""
    value = found.get(name)
    return value if isinstance(value, str) else ""


def part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Give an object; an empty one for anything else."""
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def words(found: Mapping[str, Any], name: str) -> frozenset[str]:
    """Give the items of a list as lower-cased texts; none for anything else."""
    value = found.get(name)
    return frozenset(str(item).lower() for item in value) if isinstance(value, list) else frozenset()


def printable(value: object) -> str:
    """Show foreign text with control and formatting characters escaped: they could redraw a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def token_claims(token: str) -> dict[str, Any]:
    """
    Read the claims of a token that is ours, fresh from Entra over TLS: its signature is not checked.

    Raises: ValueError where it is no JSON Web Token.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except IndexError as error:
        raise ValueError("no payload") from error
    if not isinstance(claims, dict):
        raise ValueError("claims are no object")  # noqa: TRY004  # one error for whatever is wrong with it
    return claims
