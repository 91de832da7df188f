"""
A Log Analytics workspace in the process: KQL over DuckDB.

``duckdb-kql`` translates the portable subset of KQL to DuckDB SQL and refuses the rest; this module adds what a
workspace has and a database has not: the documented columns of every table, strings that are never null, rows that
become visible some time after they happened, a clock that the caller sets, and watchlists. The traps of the
translation are described in ``docs/rules.md`` and held fast by ``tests/workbench/test_engine_contract.py``.
"""

import contextlib
import dataclasses
import functools
import json
import re
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import duckdb
import duckdb_kql
from duckdb_kql import ir
from duckdb_kql import schema as translator
from duckdb_kql.params import ParameterDeclaration, bind
from duckdb_kql.translate import CLOCK_SLOT
from duckdb_kql.types import kusto_type

from workbench import kinds, schemas

PINNED_DUCKDB_KQL: Final = "1.1.2"
INGESTED_AT: Final = "_IngestedAt"

_DUCKDB_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "string": "VARCHAR",
        "dynamic": "JSON",
        "datetime": "TIMESTAMP",
        "long": "BIGINT",
        "int": "INTEGER",
        "real": "DOUBLE",
        "bool": "BOOLEAN",
        "guid": "UUID",
        "timespan": "INTERVAL",
        "decimal": "DECIMAL(38, 12)",
    }
)
_WATCHLIST_COLUMNS: Final = ("_DTItemId", "LastUpdatedTimeUTC", "SearchKey")
_ROWS_PER_STATEMENT = 5_000  # measured: 100,000 rows in one statement take twice as long as in twenty
_TRANSLATIONS_KEPT = 512
_GATES_AFTER = 12  # answers without a row; a query that is asked a few times does not repay its gates
_GATE_TRIALS = 4
_GATE_SHARE = 0.75  # one nearly as long as the whole saves too little
_FOREVER = "infinity"
# A translation is kept under this clock and run under the caller's.
_ANY_MOMENT: Final = datetime(2001, 1, 1)  # noqa: DTZ001  # the translator binds naive UTC
_VISIBLE_AT: Final = "visible_at"

if duckdb_kql.__version__ != PINNED_DUCKDB_KQL:
    raise ImportError(
        f"duckdb-kql {duckdb_kql.__version__} is installed, {PINNED_DUCKDB_KQL} is what the engine's contract was "
        "measured with: pip install -r requirements-dev.txt, or run tests/workbench and change the pin"
    )

_resolve_let_refs = translator.resolve_let_refs


def _resolve_names(operator: ir.Operator, columns: list[str] | None) -> ir.Operator:
    """
    Decide ``column_ifexists("name", default)`` where the translator decides ``let`` names: both need the input columns.

    The package has no place for extensions; the pinned version is what makes this safe.
    """
    return _resolve_let_refs(_decided(operator, columns), columns)


def _decided(node: Any, columns: list[str] | None) -> Any:
    """Give the node with each ``column_ifexists`` in it replaced by the column, or by the default."""
    if isinstance(node, tuple):
        return tuple(_decided(part, columns) for part in node)
    if not isinstance(node, ir.Node) or isinstance(node, ir.Query):
        return node  # a nested query has an input of its own
    if isinstance(node, ir.FunctionCall) and node.name == "column_ifexists":
        match node.args:
            case (ir.Literal(kind="string", value=name), default) if columns is not None:
                return ir.ColumnRef(str(name)) if name in columns else default
        raise duckdb_kql.KqlUnsupportedError(
            "column_ifexists needs a literal name and an input of known columns"
        )
    whole: Any = node  # every kind of node is a dataclass, the base class is not
    parts = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole) if field.init}
    decided = {name: _decided(part, columns) for name, part in parts.items()}
    return node if decided == parts else dataclasses.replace(whole, **decided)


setattr(translator, "resolve_let_refs", _resolve_names)  # noqa: B010  # mypy refuses the plain assignment


class EngineError(Exception):
    """
    Something the engine could not do.

    ├── UnknownTableError     no such table
    ├── UnknownColumnError    the table has no such column
    ├── InvalidRowError       a value does not fit its column
    └── QueryError            a query was refused or failed; ``code`` says in which way
    """


class UnknownTableError(EngineError):
    """Rows were offered to a table that is in no schema file."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"{table}: no such table; workbench/schemas has one file for each table that exists")


class UnknownColumnError(EngineError):
    """Rows carry a column that the table's documented schema lacks."""

    def __init__(self, table: str, column: str) -> None:
        self.table, self.column = table, column
        kept = schemas.LEFT_OUT.get((table, column))
        why = (
            f"differs only in case from {kept}, use that" if kept else "not a documented column of the table"
        )
        super().__init__(f"{table}.{column}: {why}")


class InvalidRowError(EngineError):
    """A value cannot be stored in its column; nothing of its batch of rows was stored."""

    def __init__(self, table: str, why: str) -> None:
        self.table = table
        super().__init__(f"{table}: {why}")


class QueryFault(StrEnum):
    """In which way a query is wrong."""

    SYNTAX = "syntax"
    UNKNOWN_TABLE = "unknown-table"
    UNKNOWN_COLUMN = "unknown-column"
    UNSUPPORTED = "unsupported"  # valid KQL perhaps, but outside the portable subset
    TYPE = "type"
    FAILED = "failed"  # while running


class QueryError(EngineError):
    """A query was refused or failed."""

    def __init__(self, code: QueryFault, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True, slots=True)
class Result:
    """
    The answer to a query, with Kusto's types.

    ``columns`` are (name, KQL type). In ``rows`` a datetime is aware and UTC, a dynamic is parsed (list, dict, str,
    number, None), a string is never None, a timespan is a timedelta, a guid a ``uuid.UUID``.
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[Any, ...]]

    def records(self) -> list[dict[str, Any]]:
        """Give the rows as dictionaries."""
        names = [name for name, _ in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


@dataclass(slots=True)
class _Gate:
    """
    A part of a query without a row of which the answer has none, asked as long as that saves more than it costs.

    What it costs is reckoned by the length of its SQL, ``share`` of the whole's: a statement over few rows is bound and
    planned for longer than it runs. Two threads may miss a count of each other's, which changes no answer.
    """

    statement: duckdb.Statement
    slots: frozenset[str]
    share: float
    asked: int = 0
    closed: int = 0

    def is_worth_it(self) -> bool:
        return self.asked < _GATE_TRIALS or self.closed > self.share * self.asked


@dataclass(slots=True)
class _Past:
    """What the runs of a statement have shown: the columns of its answers, how many were empty; and then its gates."""

    columns: list[tuple[str, str]]
    empty: int = 0
    gates: tuple[_Gate, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Translation:
    """
    A statement for any values of its parameters, any clock and any ``visible_at``, parsed.

    ``pinned`` is a clock that the query itself sets, ``tables`` are those it reads. ``needs``, where there is one, asks
    whether any row passes the query's first filters: without one it has no answer, which it takes a tenth of the time
    to learn. ``gates``, which are made once they are worth it, are longer parts of which the same is true, each alone.
    """

    statement: duckdb.Statement
    needs: duckdb.Statement | None
    needs_slots: frozenset[str]
    tables: tuple[str, ...]
    slots: frozenset[str]
    declared: tuple[ParameterDeclaration, ...]
    reads_clock: bool
    pinned: datetime | None
    make_gates: Callable[[], tuple[_Gate, ...]]

    def values(self, parameters: Mapping[str, object], now: datetime) -> dict[str, Any]:
        bound, missing = bind(list(self.declared), dict(parameters))
        if missing:
            raise QueryError(QueryFault.TYPE, f"no value given for {', '.join(missing)}")
        used = {slot: value for slot, value in bound.items() if slot in self.slots}
        return {**used, CLOCK_SLOT: self.pinned or now} if self.reads_clock else used


class LogEngine:
    """
    Tables of a workspace, and KQL over them.

    Rows live in schema ``raw`` with their ingestion time, in tables that are made when they are first needed. What a
    query sees of them are the columns it mentions, strings without NULL, and only rows ingested by ``visible_at``. Safe
    to use from several threads: each query runs on its own cursor, inserts take turns.

    ``path`` is a DuckDB file, or ``:memory:``. Raises: duckdb.Error when the file cannot be opened.
    """

    def __init__(self, path: str = ":memory:") -> None:
        self._tables = schemas.tables()
        self._types = {table: dict(columns) for table, columns in self._tables.items()}
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._connection = duckdb.connect(path)
        self._idle: list[duckdb.DuckDBPyConnection] = []
        self._lent: list[duckdb.DuckDBPyConnection] = []
        self._closed = False
        self._watchlists: dict[str, list[dict[str, str]]] = {}
        self._connection.execute("SET TimeZone='UTC'")
        self._connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
        self._made: set[str] = set()
        self._watchlist_columns = self._store_watchlists()

    @contextlib.contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """
        Lend the connection that writes, for bulk SQL into schema ``raw``; inserts of other threads wait meanwhile.

        DuckDB refuses, rather than queues, a call on a connection that another thread is using.
        """
        with self._lock:
            self._make(self._tables)
            yield self._connection

    def close(self) -> None:
        """Close the database once the running queries have ended, which it hurries; later calls fail."""
        with self._lock:
            self._closed = True
            for cursor in self._lent:
                cursor.interrupt()
            self._returned.wait_for(lambda: not self._lent)
            for cursor in self._idle:
                cursor.close()
            self._idle.clear()
            self._connection.close()

    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Give the columns of every table as (name, KQL type)."""
        return {table: list(columns) for table, columns in self._tables.items()}

    def count(self, table: str) -> int:
        """Count the stored rows of a table, visible or not. Raises: UnknownTableError."""
        if table not in self._tables:
            raise UnknownTableError(table)
        with self._lock:
            self._make([table])
            found = self._connection.execute(f"SELECT count(*) FROM raw.{_quoted(table)}").fetchone()  # noqa: S608
        return int(found[0]) if found else 0

    def insert(
        self,
        table: str,
        rows: Sequence[Mapping[str, object]],
        *,
        ingested_at: datetime | Sequence[datetime] | None = None,
    ) -> None:
        """
        Store rows; they are seen by queries whose ``visible_at`` is not before their ingestion time.

        A datetime is aware or ISO 8601 text (without zone: UTC); a dynamic is a Python object or JSON text (text that
        is no JSON stays text). Columns that a row lacks are null, strings empty. ``ingested_at`` is one moment for
        all, or one a row; without it a row's own ``_IngestedAt`` counts, else its ``TimeGenerated``. A row without
        ``TimeGenerated`` gets its ingestion time, as Log Analytics does.

        All rows of a call are stored, or none.
        Raises: UnknownTableError, UnknownColumnError, InvalidRowError.
        """
        if table not in self._types:
            raise UnknownTableError(table)
        if not rows:
            return
        types = self._types[table]
        names = list(dict.fromkeys(name for row in rows for name in row))
        for name in names:
            if name not in types and name != INGESTED_AT:
                raise UnknownColumnError(table, name)
        moments = _ingestion_times(table, rows, ingested_at)
        prepared = [
            {
                **{name: _stored(table, name, types[name], row.get(name)) for name in names if name in types},
                INGESTED_AT: moment.isoformat(),
            }
            for row, moment in zip(rows, moments, strict=True)
        ]
        for row in prepared:
            if row.get("TimeGenerated") is None:
                row["TimeGenerated"] = row[INGESTED_AT]
        self._write(table, prepared)

    def query(
        self,
        kql: str,
        *,
        now: datetime,
        visible_at: datetime | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> Result:
        """
        Answer a KQL query.

        ``now`` is what ``now()`` and ``ago()`` mean. Rows ingested after ``visible_at`` are not there; without it all
        are. ``parameters`` are values for ``declare query_parameters``.

        Raises: QueryError, whose ``code`` tells a syntax error from an unknown name, from KQL outside the portable
        subset, from values of the wrong type.
        """
        with _told_as_query_errors():
            translation, values = self._prepared(kql, now, visible_at, parameters)
            return self._run(translation, values)

    def rows_read(self, kql: str, *, now: datetime, visible_at: datetime | None = None) -> dict[str, int]:
        """
        Run a KQL query and give how many rows DuckDB's scans read, a table: what filters dropped afterwards included.

        A scan reads whole row groups, 122,880 rows each, and leaves out those whose least and greatest values tell that
        no row can pass. Raises: QueryError.
        """
        with _told_as_query_errors():
            translation, values = self._prepared(kql, now, visible_at, None)
            cursor = self._borrow(translation.tables)
            try:
                explained = cursor.execute(
                    f"EXPLAIN (ANALYZE, FORMAT json) {translation.statement.query}", values or None
                ).fetchone()
            finally:
                self._give_back(cursor)
        read: dict[str, int] = {}
        for operator in _operators(json.loads(explained[1])["operator"]) if explained else ():
            _, _, table = str(operator["extra_info"].get("Table", "")).rpartition(".")
            if table in self._tables:
                read[table] = read.get(table, 0) + int(operator.get("rows_scanned", 0))
        return read

    def _prepared(
        self,
        kql: str,
        now: datetime,
        visible_at: datetime | None,
        parameters: Mapping[str, object] | None,
    ) -> tuple[_Translation, dict[str, Any]]:
        """Give the query's statement and the values it is run with."""
        text, window = _lift_datetimes(kql)
        translation = _translate(text, self._watchlist_columns)
        values = translation.values({**window, **(parameters or {})}, _naive(now))
        if translation.tables:
            values[_VISIBLE_AT] = _FOREVER if visible_at is None else _naive(visible_at)
        return translation, values

    def set_watchlist(self, alias: str, rows: Sequence[Mapping[str, str]]) -> None:
        """
        Replace a watchlist; ``_GetWatchlist('alias')`` in a query gives its rows.

        Every column is text. ``SearchKey`` is a row's own, else its first value. Unlike in Sentinel the columns of
        *all* watchlists exist in the answer, empty where a watchlist lacks them; as in Sentinel a column that no row
        has does not exist, so a query must bring its own (``union isfuzzy=true (datatable(...)[]), ...``).

        Raises: InvalidRowError when two columns of all watchlists differ only in case.
        """
        with self._lock:
            before = self._watchlists.get(alias)
            self._watchlists[alias] = [{name: str(value) for name, value in row.items()} for row in rows]
            try:
                self._watchlist_columns = self._store_watchlists()
            except InvalidRowError:
                self._watchlists.pop(alias)
                if before is not None:
                    self._watchlists[alias] = before
                raise

    def _make(self, tables: Iterable[str]) -> None:
        """Make those tables that are not there yet; the caller holds the lock. A table costs 2 ms, and most are never used."""
        for table in tables:
            if table in self._made:
                continue
            declared = ", ".join(
                f"{_quoted(name)} {_DUCKDB_TYPES[kind]}" for name, kind in self._tables[table]
            )
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS raw.{_quoted(table)} ({declared}, {_quoted(INGESTED_AT)} TIMESTAMP NOT NULL)"
            )
            self._made.add(table)

    def _store_watchlists(self) -> tuple[str, ...]:
        """Store all watchlists in the table for their columns, and give the columns."""
        columns = list(_WATCHLIST_COLUMNS)
        for row in (row for rows in self._watchlists.values() for row in rows):
            columns += [column for column in row if column not in columns]
        folded: dict[str, str] = {}
        for column in columns:
            if folded.setdefault(column.lower(), column) != column:
                raise InvalidRowError(
                    "watchlist", f"{column} and {folded[column.lower()]} differ only in case"
                )
        # The table of other columns stays: a query that was translated for it may still be running.
        table = _watchlist_table(tuple(columns))
        declared = ", ".join(f"{_quoted(column)} VARCHAR" for column in ["_Alias", *columns])
        marks = ", ".join("?" for _ in range(len(columns) + 1))
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS main.{table} ({declared})")
        self._connection.execute("BEGIN")
        self._connection.execute(f"DELETE FROM main.{table}")  # noqa: S608
        for alias, rows in self._watchlists.items():
            for number, row in enumerate(rows):
                filled = {"_DTItemId": f"{alias}-{number}", "SearchKey": next(iter(row.values()), ""), **row}
                self._connection.execute(
                    f"INSERT INTO main.{table} VALUES ({marks})",  # noqa: S608
                    [alias, *(filled.get(column, "") for column in columns)],
                )
        self._connection.execute("COMMIT")
        return tuple(columns)

    def _write(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        # One JSON text a statement, cast by DuckDB: ~5 µs a row; executemany takes a hundred times as long.
        kinds = {**self._types[table], INGESTED_AT: "datetime"}
        names = list(rows[0])
        structure = json.dumps([{name: _DUCKDB_TYPES[kinds[name]] for name in names}]).replace("'", "''")
        statement = (
            f"INSERT INTO raw.{_quoted(table)} ({', '.join(map(_quoted, names))}) "
            f"SELECT unnest(from_json_strict($1, '{structure}'), max_depth := 2)"
        )
        with self._lock:
            self._make([table])
            self._connection.execute("BEGIN")
            try:
                for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                    batch = rows[start : start + _ROWS_PER_STATEMENT]
                    self._connection.execute(statement, [json.dumps(batch, default=str)])
                self._connection.execute("COMMIT")
            except duckdb.Error as error:
                self._connection.execute("ROLLBACK")
                raise InvalidRowError(table, str(error)) from error

    def _run(self, translation: _Translation, values: Mapping[str, Any]) -> Result:
        cursor = self._borrow(translation.tables)
        try:
            past = _pasts.get(translation.statement)
            if past is not None and _has_no_answer(cursor, translation, past, values):
                return Result(list(past.columns), [])
            cursor.execute(translation.statement, dict(values) or None)
            columns = [(str(name), kusto_type(kind)) for name, kind, *_ in cursor.description or []]
            rows = cursor.fetchall()
            past = _pasts.setdefault(translation.statement, _Past(columns))
            past.empty += not rows
            if past.gates is None and past.empty > _GATES_AFTER:
                past.gates = translation.make_gates()
        finally:
            self._give_back(cursor)
        readers = [_READERS.get(kind) for _, kind in columns]
        return Result(
            columns,
            [
                tuple(read(value) if read else value for read, value in zip(readers, row, strict=True))
                for row in rows
            ],
        )

    def _borrow(self, tables: Iterable[str] = ()) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._closed:
                raise QueryError(QueryFault.FAILED, "the engine is closed")
            self._make(tables)
            if self._idle:
                cursor = self._idle.pop()
            else:
                cursor = self._connection.cursor()
                cursor.execute("SET TimeZone='UTC'")
            self._lent.append(cursor)
        return cursor

    def _give_back(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            self._lent.remove(cursor)
            self._idle.append(cursor)
            self._returned.notify_all()


def _has_no_answer(
    cursor: duckdb.DuckDBPyConnection, translation: _Translation, past: _Past, values: Mapping[str, Any]
) -> bool:
    """Whether parts of the query that must have a row have none; it may have no answer also where they do."""
    if translation.needs is not None:
        needed = {name: values[name] for name in translation.needs_slots}
        if cursor.execute(translation.needs, needed).fetchone() == (False,):
            return True
    for gate in past.gates or ():
        if gate.is_worth_it():
            gate.asked += 1
            row = cursor.execute(
                gate.statement, {name: values[name] for name in gate.slots} or None
            ).fetchone()
            if row is None:
                gate.closed += 1
                return True
    return False


def _watchlist_table(columns: tuple[str, ...]) -> str:
    return f"_Watchlists_{zlib.crc32(json.dumps(columns).encode()):08x}"


@functools.lru_cache(maxsize=_TRANSLATIONS_KEPT)
def _translate(kql: str, watchlist_columns: tuple[str, ...]) -> _Translation:
    """Translate and parse once: the statement depends on the text and on what is known about tables, not on rows or clocks."""
    known = schemas.tables()
    read = {table: columns for table, columns in known.items() if re.search(rf"\b{table}\b", kql)}
    # Each column of each subquery is bound on each run. Sixty of a table's columns are never mentioned.
    few = {table: kinds.mentioned(kql, columns) for table, columns in read.items()}
    result, found = _to_sql(kql, {**known, **few}, watchlist_columns)
    if not found.names_its_columns:
        few = read
        result, found = _to_sql(kql, known, watchlist_columns)
    needs = _any_of(few, found.needs)
    clock = result.parameters.get(CLOCK_SLOT)
    whole = _over(few, str(result))
    slots = frozenset({*result.slots, CLOCK_SLOT, _VISIBLE_AT})
    return _Translation(
        statement=_parsed(whole),
        needs=_parsed(needs) if needs else None,
        needs_slots=frozenset(re.findall(r"\$(\w+)", needs)) & slots,
        tables=tuple(read),
        slots=result.slots,
        declared=tuple(result.declarations),
        reads_clock=clock is not None,
        pinned=None if clock == _ANY_MOMENT else clock,
        make_gates=functools.partial(_made_gates, kql, watchlist_columns, few, slots, len(whole)),
    )


def _made_gates(
    kql: str,
    watchlist_columns: tuple[str, ...],
    few: Mapping[str, Sequence[tuple[str, str]]],
    slots: frozenset[str],
    length: int,
) -> tuple[_Gate, ...]:
    """Translate a query again, with the parts of it that must have a row; those nearly as long as the whole save nothing."""
    _, found = _to_sql(kql, {**schemas.tables(), **few}, watchlist_columns, wants_gates=True)
    return tuple(
        _Gate(_parsed(sql), frozenset(re.findall(r"\$(\w+)", sql)) & slots, len(sql) / length)
        for sql in (_over(_named_in(few, gate), gate) for gate in found.gates)
        if len(sql) < _GATE_SHARE * length
    )


def _to_sql(
    kql: str,
    tables: Mapping[str, Sequence[tuple[str, str]]],
    watchlist_columns: tuple[str, ...],
    *,
    wants_gates: bool = False,
) -> tuple[Any, kinds.Reading]:
    """Give the SQL, and what was understood of the query."""
    watchlists = _watchlist_table(watchlist_columns)
    named = ", ".join(f"['{column}']" for column in watchlist_columns)
    get_watchlist = (
        f"function _GetWatchlist(watchlistAlias:string)"
        f"{{ {watchlists} | where _Alias == watchlistAlias | project {named} }}"
    )
    every = {**tables, watchlists: [(column, "string") for column in ("_Alias", *watchlist_columns)]}
    with kinds.reading(every, wants_gates=wants_gates) as read:
        result = duckdb_kql.to_sql(
            kql,
            {table: [column for column, _ in columns] for table, columns in every.items()},
            allow_write=False,
            query_now=_ANY_MOMENT,
            functions=[get_watchlist],
        )
    return result, read


def _any_of(tables: Mapping[str, Sequence[tuple[str, str]]], needs: Sequence[str] | None) -> str:
    """Give the SQL that asks whether any of these has a row; nothing where that says nothing about the answer."""
    if not needs:
        return ""
    read = _named_in(tables, *needs)
    return _over(read, f"SELECT {' OR '.join(f'EXISTS ({need})' for need in dict.fromkeys(needs))}")


def _named_in(
    tables: Mapping[str, Sequence[tuple[str, str]]], *texts: str
) -> dict[str, Sequence[tuple[str, str]]]:
    """Give those tables that SQL reads."""
    return {
        table: columns for table, columns in tables.items() if any(_quoted(table) in text for text in texts)
    }


def _over(tables: Mapping[str, Sequence[tuple[str, str]]], sql: str) -> str:
    """Put what the query sees of its tables in front of it: these columns, strings never NULL, rows ingested by then."""
    seen = []
    for table, columns in tables.items():
        # A table of which no column is mentioned still has rows to count.
        shown = [_shown(name, kind) for name, kind in columns] or [_quoted(INGESTED_AT)]
        seen.append(
            f"{_quoted(table)} AS NOT MATERIALIZED (SELECT {', '.join(shown)} FROM raw.{_quoted(table)} "  # noqa: S608  # names of schemas
            f"WHERE {_quoted(INGESTED_AT)} <= CAST(${_VISIBLE_AT} AS TIMESTAMP))"
        )
    if not seen:
        return sql
    rest = f", {sql.removeprefix('WITH ')}" if sql.startswith("WITH ") else f" {sql}"
    return f"WITH {', '.join(seen)}{rest}"


def _shown(name: str, kind: str) -> str:
    return f"coalesce({_quoted(name)}, '') AS {_quoted(name)}" if kind == "string" else _quoted(name)


# Of each statement that has run; it outlives no translation.
_pasts: weakref.WeakKeyDictionary[duckdb.Statement, _Past] = weakref.WeakKeyDictionary()
_parser = duckdb.connect()
_parsing = threading.Lock()


def _parsed(sql: str) -> duckdb.Statement:
    """Parse SQL; a statement belongs to no connection. Parsing takes a third of the time of a rule over few rows."""
    with _parsing:
        (statement,) = _parser.extract_statements(sql)
    return statement


_LET_DATETIME = re.compile(r"let\s+(?P<name>\w+)\s*=\s*datetime\((?P<moment>[^()]+)\)\s*;[ \t]*\n?")


def _lift_datetimes(kql: str) -> tuple[str, dict[str, object]]:
    """
    Turn ``let name = datetime(...);`` at the head of a query into parameters.

    The runner writes a rule's window there, another one each time. As parameters the windows of a rule share one
    translation, which costs up to 100 ms. Lines keep their numbers.
    """
    lifted: dict[str, object] = {}
    rest = kql
    while found := _LET_DATETIME.match(rest):
        try:
            lifted[found["name"]] = datetime.fromisoformat(found["moment"].strip())
        except ValueError:
            break  # a form that only Kusto reads; the translator decides about it
        rest = rest[found.end() :]
    if not lifted or rest.lstrip().startswith("declare"):
        return kql, {}
    declared = ", ".join(f"{name}:datetime" for name in lifted)
    return f"declare query_parameters({declared});{chr(10) * len(lifted)}{rest}", lifted


@contextlib.contextmanager
def _told_as_query_errors() -> Iterator[None]:
    """Let whatever translator and DuckDB object to be a QueryError."""
    try:
        yield
    except duckdb_kql.KqlSyntaxError as error:
        raise QueryError(QueryFault.SYNTAX, str(error)) from error
    except duckdb_kql.KqlUnsupportedError as error:
        raise QueryError(QueryFault.UNSUPPORTED, str(error)) from error
    except duckdb_kql.KqlSchemaError as error:
        raise QueryError(_schema_fault(error), str(error)) from error
    except (duckdb_kql.KqlError, duckdb.Error) as error:
        raise QueryError(_run_fault(error), str(error)) from error


def _operators(plan: Iterable[Any]) -> Iterator[Any]:
    """Give every operator of a profile."""
    for operator in plan:
        yield operator
        yield from _operators(operator.get("children", ()))


def _schema_fault(error: duckdb_kql.KqlSchemaError) -> QueryFault:
    return QueryFault.UNKNOWN_COLUMN if error.name in schemas.tables() else QueryFault.UNKNOWN_TABLE


def _run_fault(error: Exception) -> QueryFault:
    """
    Sort DuckDB's errors by class.

    Its one class for a name it cannot bind and a type it cannot use is split by text: DuckDB gives nothing else.
    """
    match error:
        case duckdb.CatalogException():
            return QueryFault.UNKNOWN_TABLE if "Table with name" in str(error) else QueryFault.UNSUPPORTED
        case duckdb.BinderException():
            return QueryFault.UNKNOWN_COLUMN if "not found" in str(error) else QueryFault.TYPE
        case duckdb.ConversionException() | duckdb.InvalidInputException() | duckdb.OutOfRangeException():
            return QueryFault.TYPE
        case _:
            return QueryFault.FAILED


def _ingestion_times(
    table: str, rows: Sequence[Mapping[str, object]], given: datetime | Sequence[datetime] | None
) -> Iterable[datetime]:
    if isinstance(given, datetime):
        return [_naive(given)] * len(rows)
    if given is not None:
        if len(given) != len(rows):
            raise InvalidRowError(table, f"{len(rows)} rows but {len(given)} ingestion times")
        return map(_naive, given)
    return [_own_ingestion_time(table, row) for row in rows]


def _own_ingestion_time(table: str, row: Mapping[str, object]) -> datetime:
    for name in (INGESTED_AT, "TimeGenerated"):
        if row.get(name) is not None:
            return datetime.fromisoformat(str(_moment(table, name, row[name])))
    raise InvalidRowError(table, f"a row has neither TimeGenerated nor {INGESTED_AT}, and no time was given")


def _stored(table: str, name: str, kind: str, value: object) -> object:
    """Give a value the form in which DuckDB's JSON reader casts it to the column's type."""
    if value is None:
        return None
    match kind:
        case "datetime":
            return _moment(table, name, value)
        case "dynamic":
            return _dynamic(value)
        case "string" if isinstance(value, (dict, list)):
            return json.dumps(value, default=str)  # JSON held as string, as the sign-in tables do
        case "string" if isinstance(value, bool):
            return str(value).lower()
        case "string":
            return str(value)
        case _:
            return value


def _moment(table: str, name: str, value: object) -> str:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidRowError(table, f"{name}: {value!r} is no ISO 8601 time") from error
    return _naive(moment).isoformat()


def _dynamic(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _naive(moment: datetime) -> datetime:
    """Give a moment as DuckDB's TIMESTAMP holds it: UTC, without zone. A moment without zone is UTC already."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _read_datetime(value: object) -> object:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _read_dynamic(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _read_string(value: object) -> object:
    return "" if value is None else value


_READERS: Final[Mapping[str, Callable[[object], object]]] = MappingProxyType(
    {"datetime": _read_datetime, "dynamic": _read_dynamic, "string": _read_string}
)
