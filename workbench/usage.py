"""What the desk's commands share about being used: the error of misuse, times, and the inventory file."""

import json
from datetime import UTC, datetime
from pathlib import Path


class UsageError(Exception):
    """The command was asked for something that does not exist or cannot be; exit code 2."""


def moment(text: str) -> datetime:
    """Read a time as people write it: ISO 8601, UTC if without zone. Raises: ValueError."""
    read = datetime.fromisoformat(text)
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def inventory(file: Path) -> list[dict[str, str]]:
    """Read rows of the watchlist ``AgentInventory``: a JSON list of objects. Raises: UsageError."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{file}: expected a JSON list of objects with SearchKey, Role, DeclaredResources, ExpiresOn"
        )
    return [{str(name): str(value) for name, value in row.items()} for row in rows]
