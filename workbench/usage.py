"""What the desk's commands share about being used: the error of misuse, times, and the inventory file."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

INVENTORY_COLUMNS: Final = (
    "SearchKey",
    "DisplayName",
    "Role",
    "DeclaredResources",
    "AgentId",
    "ChangeWindowStart",
    "ChangeWindowEnd",
    "ExpiresOn",
)
_OF_SENTINEL: Final = ("_", "TenantId", "LastUpdatedTimeUTC", "CreatedTimeUTC", "CorrelationId", "Watchlist")


class UsageError(Exception):
    """The command was asked for something that does not exist or cannot be; exit code 2."""


def moment(text: str) -> datetime:
    """Read a time as people write it: ISO 8601, UTC if without zone. Raises: ValueError."""
    read = datetime.fromisoformat(text)
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def inventory(file: Path) -> list[dict[str, str]]:
    """
    Read rows of the watchlist ``AgentInventory``: a JSON list of objects whose values are text or null.

    A column that no rule reads is told and left out; those that Sentinel adds to a watchlist are left out silently.
    Raises: UsageError.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{file}: expected a JSON list of objects with SearchKey, Role, DeclaredResources, ExpiresOn"
        )
    return [_row(f"{file}: row {number}", row) for number, row in enumerate(rows, start=1)]


def _row(where: str, row: dict[str, Any]) -> dict[str, str]:
    read = {}
    for name, value in row.items():
        if name not in INVENTORY_COLUMNS:
            if not name.startswith(_OF_SENTINEL):
                print(f"{where}: {name}: no rule reads it; ignored", file=sys.stderr)
        elif value is None or isinstance(value, str):
            read[name] = value or ""
        else:
            raise UsageError(
                f"{where}: {name}: {json.dumps(value)} is no text; write it as Sentinel holds it"
            )
    return read
