"""
Log files of a folder, one table each: ``<Table>.jsonl``, ``<Table>.parquet`` or ``<Table>.csv``, Log Analytics names.

Exports are seldom clean. What cannot be read is told with file and line and left out, and how much was left out is
counted; nothing is dropped silently and one bad line costs one line. The rows themselves never pass through Python:
DuckDB reads the file as it streams, three times (what is in it, what does not fit, the rows), so that memory stays
flat however long the file is. CSV is the exception, because only a CSV reader knows on which line a record begins.
"""

import codecs
import csv
import functools
import json
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import duckdb

from workbench.engine import INGESTED_AT, LogEngine, UnknownColumnError

SUFFIXES: Final = (".jsonl", ".parquet", ".csv")
_LONGEST_LINE: Final = 16 * 1024 * 1024  # what DuckDB's JSON reader takes without being given larger buffers
_NO_KEY: Final = "\n"  # before what stands in for the keys of a line that has none
_LONGEST_RECORD: Final = 1000  # lines of one CSV record; a quote that is open for longer was never closed
_LINES_NAMED: Final = 5  # of one kind, in one file; the rest is a number
_PORTAL_ENDINGS: Final = (" [UTC]", "_dynamic", "_string")
"""What the portal's CSV export and older connectors hang on a column's name."""
_PORTAL_TIMES: Final = "['%m/%d/%Y, %I:%M:%S.%g %p', '%m/%d/%Y, %I:%M:%S %p', '%m/%d/%Y %I:%M:%S %p']"
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNDECODED: Final = "\0"  # stands for bytes that are no text; JSON and CSV have no such character
_MARKING: Final = "agentbreaker-mark"
codecs.register_error(_MARKING, lambda error: (_UNDECODED, getattr(error, "end", 0)))
_CASTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "datetime": "coalesce(CAST(TRY_CAST({text} AS TIMESTAMPTZ) AS TIMESTAMP), "
        f"try_strptime({{text}}, {_PORTAL_TIMES}))",
        "long": "TRY_CAST({text} AS BIGINT)",
        "int": "TRY_CAST({text} AS INTEGER)",
        "real": "TRY_CAST({text} AS DOUBLE)",
        "bool": "TRY_CAST({text} AS BOOLEAN)",
        "guid": "TRY_CAST({text} AS UUID)",
        "timespan": "TRY_CAST({text} AS INTERVAL)",
        "decimal": "TRY_CAST({text} AS DECIMAL(38, 12))",
    }
)


class LogFileError(Exception):
    """A folder of logs cannot be used at all; the message says why."""


@dataclass(frozen=True, slots=True)
class LogFault:
    """Something in a log file that could not be read: where it begins, what it is, and how many times."""

    file: str
    line: int | None
    what: str
    times: int = 1

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.what}" + (f" ({self.times} times)" if self.times > 1 else "")


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    What a folder held: rows a table, the first and last event time of all (None: no rows), and what was left out.

    ``files_skipped`` are files of no table or unreadable ones, ``lines_skipped`` lines that gave no row,
    ``values_skipped`` values that do not fit their column (the row stays, the value is empty there), and
    ``columns_skipped`` columns that the table does not have.
    """

    rows: Mapping[str, int]
    earliest: datetime | None
    latest: datetime | None
    faults: tuple[LogFault, ...]
    files_skipped: int
    lines_skipped: int
    values_skipped: int
    columns_skipped: int

    @property
    def skipped(self) -> str:
        """Say how much was left out, in words; empty when nothing was."""
        counted = (
            (self.files_skipped, "file"),
            (self.lines_skipped, "line"),
            (self.values_skipped, "value"),
            (self.columns_skipped, "column"),
        )
        return ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counted if n)


def to_stderr(line: str) -> None:
    """Tell a person."""
    print(line, file=sys.stderr)


def log_files(folder: Path) -> list[Path]:
    """Give the log files of a folder, sorted. Raises: LogFileError when there is none."""
    found = sorted(
        path for path in (folder.iterdir() if folder.is_dir() else ()) if path.suffix.lower() in SUFFIXES
    )
    if not found:
        raise LogFileError(f"{folder}: no <Table>.jsonl in it, nor .parquet or .csv; export tables there")
    return found


def load_folder(
    engine: LogEngine,
    folder: Path,
    *,
    report: Callable[[str], None] = to_stderr,
    progress: Callable[[Path, int], None] | None = None,
    by_time: bool = False,
) -> Loaded:
    """
    Load every ``<Table>.jsonl``, ``.parquet`` and ``.csv`` of a folder.

    JSONL is one JSON object a line; CSV has a header, as the portal writes it (``TimeGenerated [UTC]``). Text is UTF-8
    or UTF-16 with or without a byte order mark. JSON held in a text goes parsed into a dynamic column. What cannot be
    read goes to ``report``, one line each, and ends in the counts of the answer. ``progress`` is told each file and its
    rows. ``by_time`` stores rows in the order of their time: whoever asks for many short windows reads less then.
    Raises: LogFileError when no file could be read.
    """
    files = log_files(folder)
    known = engine.tables()
    reading = _Reading()
    for file in files:
        if file.stem not in known:
            reading.skip_file(file, f"{file.stem}: no such table; workbench/schemas has those that exist")
            continue
        _load(engine, file, dict(known[file.stem]), reading, by_time=by_time)
        if progress is not None:
            progress(file, reading.rows.get(file.stem, 0))
    for fault in reading.faults:
        report(str(fault))
    if not reading.rows:
        why = f"; {reading.faults[0]}" if reading.faults else ""
        raise LogFileError(f"{folder}: none of its {len(files)} files could be read{why}")
    earliest, latest = _span(engine, reading.rows)
    return Loaded(
        rows=MappingProxyType(dict(reading.rows)),
        earliest=earliest,
        latest=latest,
        faults=tuple(reading.faults),
        files_skipped=reading.files,
        lines_skipped=reading.lines,
        values_skipped=reading.values,
        columns_skipped=reading.columns,
    )


class _Reading:
    """Faults and counts of one reading of a folder."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.faults: list[LogFault] = []
        self.files = self.lines = self.values = self.columns = 0

    def skip_file(self, file: Path, why: str) -> None:
        self.files += 1
        self.faults.append(LogFault(file.name, None, why))

    def skip_lines(self, file: Path, lines: Sequence[int], total: int, why: str) -> None:
        """Note lines that gave no row: the first ones by number, the rest as a count."""
        self.lines += total
        named = lines[:_LINES_NAMED]
        self.faults += [LogFault(file.name, line, why) for line in named]
        if total > len(named):
            self.faults.append(LogFault(file.name, None, f"{why}: {total - len(named)} more lines"))


@dataclass(frozen=True, slots=True)
class _Source:
    """
    How DuckDB reads a file.

    ``rows`` is SQL that gives ``doc``, a JSON object a row, or the columns of a Parquet file; NULL for a line that is
    no JSON. ``numbered`` gives ``n`` (1, 2, …) beside it, which DuckDB can only do on one thread: it is asked only
    where there is a fault to be placed. ``line_of`` finds the lines of such numbers.
    """

    rows: str
    numbered: str
    file: str
    line_of: Callable[[Iterable[int]], Mapping[int, int]]
    columnar: Mapping[str, str] | None = None
    """DuckDB's types of the columns of a Parquet file."""

    def lines(self, connection: duckdb.DuckDBPyConnection, which: str) -> list[int]:
        """Find the first lines for which a condition holds."""
        found = connection.execute(
            f"SELECT min(n, {_LINES_NAMED}) FROM ({self.numbered}) WHERE {which}",  # noqa: S608
            [self.file],
        ).fetchone()
        numbers = list(found[0] or []) if found else []
        lines = self.line_of(numbers)
        return [lines[n] for n in numbers]


def _load(
    engine: LogEngine, file: Path, types: Mapping[str, str], reading: _Reading, *, by_time: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="agentbreaker-logs-") as folder, engine.writing() as connection:
        try:
            source = _source(connection, file, Path(folder), reading)
            rows = _copy(connection, file, types, source, reading, by_time=by_time)
        except (duckdb.Error, OSError, csv.Error, UnicodeError) as error:
            reading.skip_file(file, f"unreadable: {str(error).splitlines()[0]}")
            return
    reading.rows[file.stem] = reading.rows.get(file.stem, 0) + rows


def _source(connection: duckdb.DuckDBPyConnection, file: Path, folder: Path, reading: _Reading) -> _Source:
    match file.suffix.lower():
        case ".parquet":
            found = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(file)]).fetchall()
            return _Source(
                rows="SELECT * FROM read_parquet(?)",
                numbered="SELECT row_number() OVER () AS n, * FROM read_parquet(?)",
                file=str(file),
                line_of=lambda numbers: {n: n for n in numbers},
                columnar=MappingProxyType({str(name): str(kind) for name, kind, *_ in found}),
            )
        case ".csv":
            lines = _from_csv(file, folder / "rows.jsonl", reading)
            return _of_lines(lines, lambda numbers: _lines_of_csv(file, set(numbers)))
        case _:
            lines = _readable(file, folder / "rows.jsonl", reading)
            return _of_lines(lines, lambda numbers: _lines_of(lines, set(numbers)))


def _of_lines(file: Path, line_of: Callable[[Iterable[int]], Mapping[int, int]]) -> _Source:
    # Blank lines are passed over and broken ones come as NULL, so n counts the lines that are not blank.
    read = "json AS doc FROM read_json_objects(?, format = 'newline_delimited', ignore_errors = true)"
    return _Source(f"SELECT {read}", f"SELECT row_number() OVER () AS n, {read}", str(file), line_of)


def _copy(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    types: Mapping[str, str],
    source: _Source,
    reading: _Reading,
    *,
    by_time: bool,
) -> int:
    """Copy the rows of one file into its table; give how many there were."""
    if source.columnar is None:
        fields = _fields(_keys(connection, file, source, reading), file, types, reading)
        keys = list(dict.fromkeys(key for names in fields.values() for key in names))
        paths = ", ".join(_text(f'$."{key}"') for key in keys)
        place = {key: f"v[{number}]" for number, key in enumerate(keys, start=1)}
        objects = "WHERE json_type(doc) = 'OBJECT'"
        read = f"SELECT json_extract(doc, [{paths}]) AS v FROM ({source.rows}) {objects}"  # noqa: S608
        numbered = f"SELECT n, json_extract(doc, [{paths}]) AS v FROM ({source.numbered}) {objects}"  # noqa: S608
        source = replace(source, rows=read, numbered=numbered)

        def value(kind: str, key: str) -> tuple[str, str]:
            return _of_json(kind, place[key])
    else:
        held = source.columnar
        fields = _fields([(name, 1, None) for name in held], file, types, reading)

        def value(kind: str, key: str) -> tuple[str, str]:
            return _of_column(kind, _quoted(key), held[key])

    kinds = {**types, INGESTED_AT: "datetime"}
    values = {name: _first([value(kinds[name], key) for key in keys_of]) for name, keys_of in fields.items()}
    timeless = _note_misfits(connection, file, kinds, values, source, reading)
    happened = values.get("TimeGenerated", ("NULL", "NULL"))[0]
    arrived = values.get(INGESTED_AT, ("NULL", "NULL"))[0]
    columns = [name for name in fields if name not in ("TimeGenerated", INGESTED_AT)]
    chosen = [
        *(values[name][0] for name in columns),
        f"coalesce({happened}, {arrived})",
        f"coalesce({arrived}, {happened})",
    ]
    ordered = f"ORDER BY coalesce({happened}, {arrived})" if by_time else ""
    written = ", ".join(_quoted(name) for name in (*columns, "TimeGenerated", INGESTED_AT))
    found = connection.execute(
        f"INSERT INTO raw.{_quoted(file.stem)} ({written}) SELECT {', '.join(chosen)} FROM ({source.rows}) "  # noqa: S608
        f"WHERE NOT ({timeless}) {ordered}",
        [source.file],
    ).fetchone()
    return int(found[0]) if found else 0


def _keys(
    connection: duckdb.DuckDBPyConnection, file: Path, source: _Source, reading: _Reading
) -> list[tuple[str, int, Callable[[], int] | None]]:
    """Give the keys of a file's objects, how often each occurs, and how to find the first; note what is no object."""
    broken = {"no JSON": "doc IS NULL", "not an object": "doc IS NOT NULL AND json_type(doc) <> 'OBJECT'"}
    cases = " ".join(f"WHEN {which} THEN ['{_NO_KEY}{why}']" for why, which in broken.items())
    found = connection.execute(
        f"SELECT key, count(*) FROM (SELECT unnest(CASE {cases} ELSE json_keys(doc) END) AS key "  # noqa: S608
        f"FROM ({source.rows})) GROUP BY key ORDER BY key",
        [source.file],
    ).fetchall()
    keys: list[tuple[str, int, Callable[[], int] | None]] = []
    for key, times in found:
        if (why := key.removeprefix(_NO_KEY)) in broken and why != key:
            reading.skip_lines(file, source.lines(connection, broken[why]), int(times), why)
            continue
        held = f"list_contains(json_keys(doc), {_text(key)})"
        keys.append((key, int(times), functools.partial(_first_line, connection, source, held)))
    return keys


def _first_line(connection: duckdb.DuckDBPyConnection, source: _Source, which: str) -> int:
    return next(iter(source.lines(connection, f"json_type(doc) = 'OBJECT' AND {which}")), 1)


def _fields(
    keys: Iterable[tuple[str, int, Callable[[], int] | None]],
    file: Path,
    types: Mapping[str, str],
    reading: _Reading,
) -> dict[str, list[str]]:
    """Say for each column of the table which keys of the file fill it, the first that has a value counting."""
    fields: dict[str, list[str]] = {}
    for key, times, first in keys:
        column = _column(key, types)
        if column is None or '"' in key or "\\" in key:
            reading.columns += 1
            why = f"{UnknownColumnError(file.stem, key[:80])}; left out"
            reading.faults.append(LogFault(file.name, first() if first else None, why, times))
        elif key == column:
            fields.setdefault(column, []).insert(0, key)
        else:
            fields.setdefault(column, []).append(key)
    return fields


def _column(key: str, types: Mapping[str, str]) -> str | None:
    if key in types or key == INGESTED_AT:
        return key
    for ending in _PORTAL_ENDINGS:
        name = key.removesuffix(ending)
        if name != key and (name in types or name == INGESTED_AT):
            return name
    return None


def _note_misfits(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    kinds: Mapping[str, str],
    values: Mapping[str, tuple[str, str]],
    source: _Source,
    reading: _Reading,
) -> str:
    """Note values that do not fit their column, and rows without a time. Gives the SQL that holds for such rows."""
    happened, text = values.get("TimeGenerated", ("NULL", "NULL"))
    arrived = values.get(INGESTED_AT, ("NULL", "NULL"))[0]
    wrong = {
        name: (value, f"{given} IS NOT NULL AND {value} IS NULL", given)
        for name, (value, given) in values.items()
        if kinds[name] in _CASTS and name != "TimeGenerated" and value != given
    }
    # A time that is there and unreadable places the row nowhere; the time of its arrival would be a guess.
    unreadable = f"{text} IS NOT NULL AND {happened} IS NULL"
    absent = f"{text} IS NULL AND {arrived} IS NULL"
    asked = [(unreadable, text), (absent, text), *((which, given) for _, which, given in wrong.values())]
    counted = ", ".join(f"count(*) FILTER ({which}), min({given}) FILTER ({which})" for which, given in asked)
    found = connection.execute(f"SELECT {counted} FROM ({source.rows})", [source.file]).fetchone() or ()  # noqa: S608
    answers = [
        (int(times), str(example), which)
        for times, example, (which, _) in zip(found[::2], found[1::2], asked, strict=True)
    ]
    for (times, example, which), form in zip(
        answers,
        ("TimeGenerated: {} is no ISO 8601 time", f"no TimeGenerated and no {INGESTED_AT}"),
        strict=False,
    ):
        if times:
            reading.skip_lines(file, source.lines(connection, which), times, form.format(_short(example)))
    for name, (times, example, which) in zip(wrong, answers[2:], strict=True):
        if times:
            reading.values += times
            what = f"{file.stem}.{name}: {_short(example)} is no {kinds[name]}; left empty"
            first = next(iter(source.lines(connection, which)), None)
            reading.faults.append(LogFault(file.name, first, what, times))
    return f"({unreadable}) OR ({absent})"


def _first(values: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Of several places for one column, the first that has a value counts."""
    if len(values) == 1:
        return values[0]
    return (
        f"coalesce({', '.join(value for value, _ in values)})",
        f"coalesce({', '.join(text for _, text in values)})",
    )


def _of_json(kind: str, value: str) -> tuple[str, str]:
    """Give two SQL expressions for a JSON value: what its column holds, and its text (NULL where there is none)."""
    text = f"nullif(trim({value} ->> '$'), '')"
    if kind == "string":
        return f"nullif({value} ->> '$', '')", text
    if kind == "dynamic":
        held = _held_json(f"({value} ->> '$')")
        return (
            f"CASE json_type({value}) WHEN 'VARCHAR' THEN {held} WHEN 'NULL' THEN NULL ELSE {value} END",
            text,
        )
    return _CASTS[kind].format(text=text), text


def _of_column(kind: str, column: str, held: str) -> tuple[str, str]:
    """Give the same two expressions for a column of a Parquet file, which DuckDB holds as ``held``."""
    nested = held.endswith(("]", ")")) and not held.startswith("DECIMAL")
    whole = f"CAST(to_json({column}) AS VARCHAR)" if nested else f"CAST({column} AS VARCHAR)"
    text = f"nullif(trim({whole}), '')"
    if kind == "string":
        return f"nullif({whole}, '')", text
    if kind == "dynamic":
        return (f"to_json({column})" if nested else _held_json(whole)), text
    if kind == "datetime" and held.startswith("TIMESTAMP"):
        return f"CAST({column} AS TIMESTAMP)", f"CAST({column} AS TIMESTAMP)"
    return _CASTS[kind].format(text=text), text


def _held_json(text: str) -> str:
    """JSON held in a text is what it says; a text that is no JSON stays a text."""
    return (
        f"CASE WHEN {text} IS NULL OR {text} = '' THEN NULL "
        f"WHEN json_valid({text}) THEN CAST({text} AS JSON) ELSE to_json({text}) END"
    )


def _readable(file: Path, copy: Path, reading: _Reading) -> Path:
    """Give a file of UTF-8 lines with the same line numbers: the file itself, or a copy where it is something else."""
    encoding = _encoding(file)
    bad = _bad_lines(file) if encoding.startswith("utf-8") else []
    if encoding == "utf-8" and not bad:
        return file
    if encoding.startswith("utf-8"):
        skipped = set(bad)
        with file.open("rb") as lines, copy.open("wb") as write:
            for number, line in enumerate(lines, start=1):
                whole = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                write.write(b"\n" if number in skipped else whole)
    else:
        with (
            file.open(encoding=encoding, errors=_MARKING, newline="\n") as read,
            copy.open("w", encoding="utf-8", newline="") as write_text,
        ):
            for number, text in enumerate(read, start=1):
                if _UNDECODED in text or len(text) > _LONGEST_LINE:
                    bad.append(number)
                whole_text = text.removeprefix("\ufeff") if number == 1 else text
                write_text.write("\n" if bad and bad[-1] == number else whole_text)
    why = f"no {_named(encoding)}, or longer than {_LONGEST_LINE // 1024 // 1024} MB"
    reading.skip_lines(file, bad, len(bad), why)
    return copy


def _named(encoding: str) -> str:
    return encoding.upper()[: len("UTF-16")].rstrip("-")


def _encoding(file: Path) -> str:
    with file.open("rb") as start:
        head = start.read(4)
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    # PowerShell 5 and .NET also write UTF-16 without a mark; a JSON line or a header begins with ASCII.
    if len(head) >= 2 and head[1] == 0 and head[0] != 0:
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 2 and head[0] == 0 and head[1] != 0 else "utf-8"


def _bad_lines(file: Path) -> list[int]:
    bad = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if len(line) > _LONGEST_LINE:
                bad.append(number)
            elif not line.isascii():
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    bad.append(number)
    return bad


def _lines_of(file: Path, numbers: set[int]) -> dict[int, int]:
    """Find the line of the n-th line that is not blank."""
    found, n = {}, 0
    with file.open("rb") as lines:
        for line, text in enumerate(lines, start=1):
            if text.strip():
                n += 1
                if n in numbers:
                    found[n] = line
    return {n: found.get(n, n) for n in numbers}


def _from_csv(file: Path, copy: Path, reading: _Reading) -> Path:
    """Write the records of a CSV file as JSON lines, all values text. An empty cell is no value."""
    wrong: dict[str, list[int]] = {}
    lost: Counter[str] = Counter()
    with copy.open("w", encoding="utf-8") as write:
        for record in _records(file):
            if record.why:
                lost[record.why] += record.lines
                wrong.setdefault(record.why, []).append(record.line)
                continue
            row = {name: cell for name, cell in zip(record.header, record.cells, strict=True) if cell != ""}
            write.write(json.dumps(row, ensure_ascii=False) + "\n")
    for why, lines in wrong.items():
        reading.skip_lines(file, lines, lost[why], why)
    return copy


def _lines_of_csv(file: Path, numbers: set[int]) -> dict[int, int]:
    good = (record for record in _records(file) if not record.why)
    found = {n: record.line for n, record in enumerate(good, start=1) if n in numbers}
    return {n: found.get(n, n) for n in numbers}


@dataclass(frozen=True, slots=True)
class _Record:
    """A record of a CSV file: where it begins, how many lines it takes, and why it gives no row (empty: it gives one)."""

    line: int
    lines: int
    header: Sequence[str]
    cells: Sequence[str]
    why: str


class _Lines:
    """Lines of a text, of which those taken last can be given back: a quote that nobody closed takes too many."""

    def __init__(self, text: Iterator[str]) -> None:
        self._text = text
        self._back: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= _LONGEST_RECORD:
            raise StopIteration
        line = self._back.popleft() if self._back else next(self._text)
        self.taken.append(line)
        return line

    def keep(self, number: int) -> None:
        """Give back all but the first lines."""
        self._back.extendleft(reversed(self.taken[number:]))
        del self.taken[number:]


def _records(file: Path) -> Iterator[_Record]:
    encoding = _encoding(file)
    csv.field_size_limit(_LONGEST_LINE)
    with file.open(encoding=encoding, errors=_MARKING, newline="") as text:
        first = text.readline().lstrip("\ufeff")
        delimiter = max(",;\t", key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        lines, begins = _Lines(text), 2
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            why = ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                # The lines behind the first are records of their own, as far as anybody can tell.
                cells, why = [], "a quote that is not closed, or text behind one"
                lines.keep(1)
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            taken = len(lines.taken)
            if any(_UNDECODED in line for line in lines.taken):
                why = f"no {_named(encoding)}"
            elif not why and len(cells) != len(header):
                why = "not as many cells as the header has"
            if cells or why:
                yield _Record(begins, taken, header, cells, why)
            begins += taken
            lines.taken.clear()


def _span(engine: LogEngine, tables: Iterable[str]) -> tuple[datetime | None, datetime | None]:
    moments: list[datetime] = []
    with engine.writing() as connection:
        for table in tables:
            found = connection.execute(
                f"SELECT min(TimeGenerated), max(TimeGenerated) FROM raw.{_quoted(table)}"  # noqa: S608
            ).fetchone()
            moments += [moment.replace(tzinfo=UTC) for moment in found or () if moment is not None]
    return min(moments, default=None), max(moments, default=None)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
