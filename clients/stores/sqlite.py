"""
The embedded store: one SQLite file, several processes, no server. The default on a laptop.

Write-ahead logging lets readers go on while one process writes; ``BEGIN IMMEDIATE`` makes writers wait for
each other (busy timeout) instead of failing half-way (sqlite.org/lang_transaction.html). Commits reach the
disk before they return, because a lever is pulled on the strength of what is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from clients.stores import encoding
from clients.stores.errors import (
    Conflict,
    CorruptRecord,
    StoreError,
    StoreOutcomeUnknown,
    StoreRefused,
    StoreUnreachable,
)
from clients.stores.interface import Delete, Insert, Put, Record, Replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from clients.stores.interface import Write

_T = TypeVar("_T")
_BUSY_SECONDS: Final = 15.0  # how long a writer waits for others before it gives up
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    partition TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, etag TEXT NOT NULL,
    PRIMARY KEY (partition, key)
) WITHOUT ROWID
"""
_GET: Final = "SELECT key, body, etag FROM records WHERE partition = ? AND key = ?"
_SCAN_FROM: Final = (
    "SELECT key, body, etag FROM records WHERE partition = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
)
_SCAN_BEYOND: Final = _SCAN_FROM.replace(">=", ">")
_REFUSED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


class SqliteStore:
    """
    One partition of a SQLite file. Implements ``Store``.

    All SQL runs in one thread that this object owns, so the event loop never waits for the disk. The file
    and its folder are created, readable by their owner only, when they are first needed.
    """

    def __init__(self, path: str | Path, partition: str) -> None:
        self._path = Path(path)
        self._partition = encoding.encode_key(partition)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def get(self, key: str) -> Record | None:
        """See ``Store.get``."""
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        """See ``Store.get_many``. One way to the store's thread and back, however many keys."""
        encoded = [(self._partition, encoding.encode_key(key)) for key in keys]
        rows = await self._run(lambda c: [c.execute(_GET, each).fetchone() for each in encoded])
        return [_record(*row) if row else None for row in rows]

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        """See ``Store.scan``. Here it is a snapshot."""
        start, below, beyond = encoding.key_range(prefix, after)
        # One lower bound, not both: given two, SQLite begins at one of them and filters by the other, and a
        # walk in pages would read the pages before it again each time.
        query, bound = (_SCAN_BEYOND, beyond) if beyond >= start else (_SCAN_FROM, start)
        bounds = (self._partition, bound, below, -1 if limit is None else max(limit, 0))
        rows = await self._run(lambda c: c.execute(query, bounds).fetchall())
        return [_record(*row) for row in rows]

    async def commit(self, writes: Sequence[Write]) -> Mapping[str, str]:
        """See ``Store.commit``."""
        batch = encoding.encode_batch(writes)
        return await self._run(lambda c: self._write(c, batch)) if batch else {}

    async def close(self) -> None:
        """See ``Store.close``. May be called again."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=True)

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise RuntimeError("this store was closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_thread, work)

    # --- everything below runs in the store's own thread ---

    def _in_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)
        except sqlite3.Error as error:
            raise _translated(error) from error
        except PermissionError as error:
            raise StoreRefused(f"the store's file may not be opened: {error.strerror}") from error
        except OSError as error:
            raise StoreUnreachable(f"the store's file cannot be opened: {error.strerror}") from error

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(
        self, connection: sqlite3.Connection, batch: Sequence[tuple[Write, str, str]]
    ) -> dict[str, str]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            etags = {write.key: self._apply(connection, write, key, text) for write, key, text in batch}
        except BaseException:
            _roll_back(connection)
            raise
        _seal(connection)
        return {write.key: etags[write.key] for write, _, _ in batch if not isinstance(write, Delete)}

    def _apply(self, connection: sqlite3.Connection, write: Write, key: str, text: str) -> str:
        """Carry out one write and give the new etag. Raises: Conflict when its condition does not hold."""
        etag = secrets.token_hex(8)
        match write:
            case Insert():
                sql = "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
                values: tuple[str, ...] = (self._partition, key, text, etag)
            case Put():
                sql = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)"
                values = (self._partition, key, text, etag)
            case Replace():
                sql = "UPDATE records SET body = ?, etag = ? WHERE partition = ? AND key = ? AND etag = ?"
                values = (text, etag, self._partition, key, write.etag)
            case Delete():
                sql = "DELETE FROM records WHERE partition = ? AND key = ? AND etag = ?"
                values = (self._partition, key, write.etag)
        if connection.execute(sql, values).rowcount != 1:
            raise Conflict(write.key)
        return etag


def _prepare(connection: sqlite3.Connection) -> None:
    """
    Set modes and create the table, whoever else is doing the same at this moment.

    Changing to WAL needs the file alone for an instant and does not wait for the busy timeout
    (sqlite.org/wal.html), so processes that start together must take turns here.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
        except sqlite3.OperationalError as error:
            if (
                _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                or time.monotonic() > deadline
            ):
                raise
            time.sleep(0.01)
        else:
            return


def _seal(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise  # documented to leave the transaction open, so it was rolled back: nothing is written
        raise StoreOutcomeUnknown("the disk failed while a commit was written") from error


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite has already rolled back by itself after some errors (sqlite.org/lang_transaction.html §3), and a
    # failing ROLLBACK must not hide why we are here.
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _record(key: str, body: str, etag: str) -> Record:
    name = encoding.decode_key(key)
    return Record(name, encoding.load(name, body), etag)


def _code(error: sqlite3.Error) -> int:
    """Give the primary result code; the upper bits say more and are not needed here."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _translated(error: sqlite3.Error) -> StoreError:
    code = _code(error)
    if code in _REFUSED:
        return StoreRefused(f"the store's file may not be written: {error}")
    if code in _CORRUPT:
        return CorruptRecord(f"the store's file is damaged or is no SQLite file: {error}")
    return StoreUnreachable(f"the store's file cannot be used: {error}")
