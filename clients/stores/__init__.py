"""
State and ledger of one tenant behind one small interface. ``interface.py`` is read first.

Importing this package is cheap: neither sqlite3 nor an Azure SDK is loaded before ``open_store``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients.stores.errors import (
    Conflict,
    CorruptRecord,
    StoreError,
    StoreOutcomeUnknown,
    StoreRefused,
    StoreUnreachable,
)
from clients.stores.interface import Delete, Insert, Put, Record, Replace, Store, Write

if TYPE_CHECKING:
    from azure.core.credentials import AzureNamedKeyCredential
    from azure.core.credentials_async import AsyncTokenCredential

__all__ = [
    "Conflict",
    "CorruptRecord",
    "Delete",
    "Insert",
    "Put",
    "Record",
    "Replace",
    "Store",
    "StoreError",
    "StoreOutcomeUnknown",
    "StoreRefused",
    "StoreUnreachable",
    "Write",
    "open_store",
]

_SQLITE: Final = "sqlite:///"
_LOCAL: Final = frozenset({"localhost", "127.0.0.1"})
# Public, US Government and China clouds (azure.data.tables takes any host; we hand our token to these only).
_CLOUDS: Final = (".table.core.windows.net", ".table.core.usgovcloudapi.net", ".table.core.chinacloudapi.cn")


def open_store(url: str, partition: str, credential: AsyncTokenCredential | None = None) -> Store:
    """
    Open the store that ``url`` names. Nothing is read or written before its first method is awaited.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``https://ACCOUNT.table.core.windows.net/TABLE``
    with a token credential, or ``http://127.0.0.1:PORT/devstoreaccount1/TABLE`` for Azurite, which is opened
    with its published development key, whatever the credential: a token never travels in the clear.

    Raises: ValueError when the URL is none of these, or the credential is missing.
    """
    if url.startswith(_SQLITE):
        from clients.stores.sqlite import SqliteStore

        if not (path := url.removeprefix(_SQLITE)):
            raise ValueError("the store's URL names no file: sqlite:///PATH")
        return SqliteStore(path, partition)
    endpoint, table = _table_url(url)
    from clients.stores.azure_tables import AzureTablesStore, emulator_credential

    chosen: AsyncTokenCredential | AzureNamedKeyCredential | None = credential
    if endpoint.startswith("http://"):
        chosen = emulator_credential()
    if chosen is None:
        raise ValueError("a store in Azure is opened with a token credential")
    return AzureTablesStore(endpoint, table, partition, chosen)


def _table_url(url: str) -> tuple[str, str]:
    parts: Any = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
        raise ValueError("the store's URL is sqlite:///PATH or https://ACCOUNT.table.core.windows.net/TABLE")
    if parts.scheme == "http" and host not in _LOCAL:
        raise ValueError("plain http is for localhost only")
    if host not in _LOCAL and not host.endswith(_CLOUDS):
        raise ValueError(f"{host} is no Azure Table host ({', '.join('*' + cloud for cloud in _CLOUDS)})")
    account, _, table = parts.path.strip("/").rpartition("/")
    if not table.isalnum() or not table.isascii() or not 3 <= len(table) <= 63 or table[0].isdigit():
        raise ValueError("the store's URL ends in a table name: 3 to 63 letters and digits, a letter first")
    return f"{parts.scheme}://{parts.netloc}" + (f"/{account}" if account else ""), table
