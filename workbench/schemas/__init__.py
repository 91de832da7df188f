"""
The columns of the Log Analytics tables that rules and the simulated tenant use, and of our own baseline tables (``_CL``).

One file a table: ``[[name, KQL type], …]`` in the documented order. Names and types come from Microsoft's published
table reference (MicrosoftDocs/azure-monitor-docs ``articles/azure-monitor/reference/tables``). They drive three
things at once, so that these cannot disagree: the tables of the local engine, the symbols of Microsoft's parser, and
the check of log files.

Of Application Insights, ``AppDependencies`` and ``AppTraces`` are as published (pages of 2026-07-27). The stored page of
``AppMetrics`` names its columns in an include that was not at hand: ``Name``, ``Sum``, ``Min``, ``Max`` and ``ItemCount``
are from memory, the rest are the columns that the two others share. Our queries use no column of it but those five,
``Properties``, ``AppRoleName`` and ``TimeGenerated``. ``StorageTableLogs`` is the page of 2023-03-23 (MicrosoftDocs/
azure-reference-other).

One column is left out: ``AzureDiagnostics.clientIp_s``. It differs only in case from ``clientIP_s``, and DuckDB, which
folds the case of identifiers, cannot hold both. A rule that names it is refused by the parser.
"""

import functools
import json
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

KQL_TYPES: Final = frozenset(
    {"string", "dynamic", "datetime", "long", "int", "real", "bool", "guid", "timespan", "decimal"}
)

# Left out and why: (table, column) → the column that is kept in its place.
LEFT_OUT: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {("AzureDiagnostics", "clientIp_s"): "clientIP_s"}
)


class SchemaFileError(ValueError):
    """A schema file is not a list of [name, KQL type] pairs, or two of its columns differ only in case."""


@functools.cache
def _parsed() -> Mapping[str, tuple[tuple[str, str], ...]]:
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".json"): parse(file.name, file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".json")
    }


def tables() -> dict[str, list[tuple[str, str]]]:
    """
    Give every table's columns as (name, KQL type), in the documented order.

    The answer is the caller's own to change. Raises: SchemaFileError.
    """
    return {table: list(columns) for table, columns in _parsed().items()}


def parse(name: str, text: str) -> tuple[tuple[str, str], ...]:
    """Read one schema file. Raises: SchemaFileError naming the file and what is wrong."""
    pairs = json.loads(text)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in pairs
    ):
        raise SchemaFileError(f'{name}: expected a list of ["Column", "kql type"] pairs')
    unknown = sorted({kind for _, kind in pairs} - KQL_TYPES)
    if unknown:
        raise SchemaFileError(
            f"{name}: {', '.join(unknown)} is no KQL type; use one of {', '.join(sorted(KQL_TYPES))}"
        )
    seen: dict[str, str] = {}
    for column, _ in pairs:
        other = seen.setdefault(column.lower(), column)
        if other is not column:
            raise SchemaFileError(
                f"{name}: {other} and {column} differ only in case; DuckDB cannot hold both"
            )
    return tuple((column, kind) for column, kind in pairs)
