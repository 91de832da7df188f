"""Fields of foreign JSON, read so that what is missing or of another type never passes for a value."""

from __future__ import annotations

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
