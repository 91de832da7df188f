"""
The baselines: what is usual for each principal, as small tables, so that a rule never reads two weeks of raw rows.

``baselines.yaml`` says which query fills which table and when; infrastructure makes Azure summary rules of it, the
local workspace runs the same text.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import yaml

from detections.catalog import CatalogError, Fault, duration, parse_yaml

FOLDER: Final = Path(__file__).resolve().parent
_FIELDS: Final = {"table", "query", "bin", "delay", "reads"}


@dataclass(frozen=True, slots=True)
class Baseline:
    """One summary table: the query that fills it from ``reads``, once a ``bin``, ``delay`` after the bin's end."""

    table: str
    query: str
    bin: timedelta
    delay: timedelta
    reads: tuple[str, ...]

    def floor(self, moment: datetime) -> datetime:
        """Give the start of the bin that holds a moment; bins count from midnight UTC."""
        midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight + (moment - midnight) // self.bin * self.bin


def load(folder: Path = FOLDER) -> tuple[Baseline, ...]:
    """Read ``baselines.yaml`` and the queries it names. Raises: CatalogError with every fault."""
    file = folder / "baselines.yaml"
    try:
        entries = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CatalogError([Fault(str(file), "file", str(error), "a list of baselines")]) from error
    faults: list[Fault] = []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            faults.append(
                Fault(file.name, "entry", f"{entry!r}", f"exactly the fields {', '.join(sorted(_FIELDS))}")
            )
            continue
        try:
            found.append(
                Baseline(
                    table=str(entry["table"]),
                    query=(folder / str(entry["query"])).read_text(encoding="utf-8"),
                    bin=duration(str(entry["bin"])),
                    delay=duration(str(entry["delay"])),
                    reads=tuple(map(str, entry["reads"])),
                )
            )
        except (OSError, ValueError) as error:
            faults.append(Fault(file.name, str(entry["table"]), str(error), "a file and durations as 1h"))
    if faults:
        raise CatalogError(faults)
    return tuple(found)
