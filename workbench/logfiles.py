"""Log files of a folder, one table each: ``<Table>.jsonl``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.engine import EngineError, LogEngine, UnknownTableError

_ROWS_AT_ONCE = 10_000


class LogFileError(Exception):
    """A log file cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder held: rows a table, and the last event time of all (None: no rows)."""

    rows: Mapping[str, int]
    latest: datetime | None


def load_folder(engine: LogEngine, folder: Path) -> Loaded:
    """
    Load every ``<Table>.jsonl`` of a folder: Log Analytics column names, one JSON object a line, UTF-8.

    Raises: LogFileError for a folder without logs and, with file and line, for a broken line, an unknown column and a
    value that does not fit; UnknownTableError for a file that is no table.
    """
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise LogFileError(f"{folder}: no <Table>.jsonl in it")
    known = engine.tables()
    for file in files:
        if file.stem not in known:
            raise UnknownTableError(file.stem)
    rows: dict[str, int] = {}
    latest: datetime | None = None
    for file in files:
        batch: list[tuple[int, Mapping[str, Any]]] = []
        rows[file.stem] = 0
        for number, row in _lines(file):
            batch.append((number, row))
            rows[file.stem] += 1
            moment = _event_time(row)
            latest = moment if latest is None or (moment is not None and moment > latest) else latest
            if len(batch) == _ROWS_AT_ONCE:
                _insert(engine, file, batch)
                batch = []
        _insert(engine, file, batch)
    return Loaded(rows, latest)


def _insert(engine: LogEngine, file: Path, batch: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    try:
        engine.insert(file.stem, [row for _, row in batch])
    except EngineError:
        # Nothing of the batch was stored. One by one, the row at fault says its line.
        for number, row in batch:
            try:
                engine.insert(file.stem, [row])
            except EngineError as error:
                raise LogFileError(f"{file}:{number}: {error}") from error
        raise


def _lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _row(file, number, line)
    except UnicodeDecodeError as error:
        raise LogFileError(f"{file}: no UTF-8: {error}") from error


def _row(file: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise LogFileError(f"{file}:{number}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise LogFileError(f"{file}:{number}: not an object")
    return row


def _event_time(row: Mapping[str, Any]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(row.get("TimeGenerated")))
    except ValueError:
        return None  # the engine names the row's fault when it stores it
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
