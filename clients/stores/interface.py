"""
The state store: small JSON records under sorted keys, written in atomic batches of conditional writes.

Two stores offer it, ``SqliteStore`` for a laptop and ``AzureTablesStore`` for production, and both pass
``tests/clients/stores/test_contract.py``. A store object is one *partition*: one tenant's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Record:
    """What is stored under a key. ``etag`` is new after each write and never comes back."""

    key: str
    body: Mapping[str, Any]
    etag: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Write a key that must not exist yet. This is how things are claimed."""

    key: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replace:
    """Write a key that must exist unchanged, as ``etag`` says."""

    key: str
    body: Mapping[str, Any]
    etag: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key whatever is there."""

    key: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key that must exist unchanged, as ``etag`` says."""

    key: str
    etag: str


Write: TypeAlias = Insert | Replace | Put | Delete


class Store(Protocol):
    """
    One partition of state. Safe to share between tasks of one event loop.

    Every method raises ``StoreError`` (see ``errors.py``), and ``ValueError`` for keys and bodies that no
    store takes (see ``encoding.py``). A cancelled ``commit`` may still be carried out.
    """

    async def get(self, key: str) -> Record | None:
        """Read one record; None when the key is not there."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        """
        Read several records, in the order of ``keys``; None where a key is not there.

        No snapshot: each is read as it is at some moment of the call.
        """
        ...

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        """
        Read all records whose key begins with ``prefix`` and is greater than ``after``, sorted by key.

        Keys sort by code point. Complete up to ``limit``; every page is fetched or an error raised. Over
        several pages it is no snapshot: what is written meanwhile may or may not be seen.
        """
        ...

    async def commit(self, writes: Sequence[Write]) -> Mapping[str, str]:
        """
        Carry out all writes or none: at most 100, each key once. Returns the new etag of each key written.

        Raises: Conflict with the first key in the order given whose condition does not hold, and then
        nothing was written; StoreOutcomeUnknown when no clear answer came.
        """
        ...

    async def close(self) -> None:
        """Give back connections and threads. The store cannot be used afterwards."""
        ...
