"""
The production store: one partition of an Azure table, whose entity group transactions are the atomic batches.

A transaction holds at most 100 entities of one partition and 4 MiB, and is all or nothing; reads see what was
written (learn.microsoft.com/rest/api/storageservices/performing-entity-group-transactions). A string property
holds 32 Ki characters, so a body's JSON text is spread over ``Body0``, ``Body1``, … of its entity.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from azure.core.credentials import AzureNamedKeyCredential
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.data.tables.aio import TableClient

    from clients.stores.interface import Write

_T = TypeVar("_T")
_PART: Final = 32 * 1024  # characters of one string property: 64 KiB of UTF-16
# learn.microsoft.com/rest/api/storageservices/table-service-error-codes
_ABSENT: Final = frozenset({"ResourceNotFound", "EntityNotFound"})
_CONDITION_FAILED: Final = _ABSENT | {"EntityAlreadyExists", "UpdateConditionNotSatisfied", "ConditionNotMet"}
_PAGE: Final = 1000  # the service's own maximum
_GETS_AT_ONCE: Final = 16
_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 10  # of silence on the socket
_WHOLE_SECONDS: Final = 20  # one request from start to end, however slowly bytes drip
_READ_TRIES: Final = 3
_READ_PAUSE: Final = 0.15  # seconds, doubled after each try
# Azurite's account and key are published constants, not secrets (learn.microsoft.com/azure/storage/common/storage-use-azurite).
_EMULATOR_ACCOUNT: Final = "devstoreaccount1"
_EMULATOR_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class AzureTablesStore:
    """
    One partition of an Azure table. Implements ``Store``.

    The SDK retries nothing. Reads are asked again here, three times in all, because that is harmless; a
    commit is sent once. The table is created when it is missing and we may; who may not and has no table
    gets StoreRefused.
    """

    def __init__(
        self,
        endpoint: str,
        table: str,
        partition: str,
        credential: AsyncTokenCredential | AzureNamedKeyCredential,
    ) -> None:
        self._endpoint, self._table, self._credential = endpoint, table, credential
        self._partition = encoding.encode_key(partition)
        self._opened: TableClient | None = None
        self._closed = False

    async def get(self, key: str) -> Record | None:
        """See ``Store.get``."""
        encoded = encoding.encode_key(key)
        client = self._client()

        async def read() -> Record | None:
            from azure.core.exceptions import ResourceNotFoundError

            try:
                entity = await client.get_entity(self._partition, encoded)
            except ResourceNotFoundError as error:
                # A 404 of anything else, a proxy or a wrong host, must not read as "not there".
                if _error_code(error) in _ABSENT:
                    return None
                raise
            return _record(entity)

        return await self._read(read)

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        """See ``Store.get_many``. A request a key, some at a time: the service reads no list of keys."""
        gate = asyncio.Semaphore(_GETS_AT_ONCE)

        async def one(key: str) -> Record | None:
            async with gate:
                return await self.get(key)

        for key in keys:
            encoding.encode_key(key)  # a key that no store takes is refused before anything is sent
        return list(await asyncio.gather(*map(one, keys)))

    async def scan(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Record]:
        """See ``Store.scan``. Pages of 1000; each is read anew from the table as it is then."""
        start, below, beyond = encoding.key_range(prefix, after)
        condition = "PartitionKey eq @partition and RowKey ge @start and RowKey lt @below"
        values = {"partition": self._partition, "start": start, "below": below}
        if beyond:
            condition += " and RowKey gt @beyond"
            values["beyond"] = beyond
        found: list[Record] = []
        if limit is not None and limit <= 0:
            return found
        pages = None

        async def next_page() -> list[Record] | None:
            nonlocal pages
            if pages is None:
                query = self._client().query_entities(
                    condition, results_per_page=min(limit or _PAGE, _PAGE), parameters=values
                )
                pages = query.by_page()
            try:
                page = await anext(pages)
            except StopAsyncIteration:
                return None
            return [_record(entity) async for entity in page]

        while (page := await self._read(next_page)) is not None:
            found += page
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    async def commit(self, writes: Sequence[Write]) -> Mapping[str, str]:
        """See ``Store.commit``."""
        batch = encoding.encode_batch(writes)
        if not batch:
            return {}
        client = self._client()
        operations = [self._operation(*each) for each in batch]

        async def send() -> Mapping[str, str]:
            answers = zip(writes, await client.submit_transaction(operations), strict=True)
            return {write.key: answer["etag"] for write, answer in answers if not isinstance(write, Delete)}

        return await self._call(send, writes)

    async def close(self) -> None:
        """See ``Store.close``. May be called again. The credential stays open: it is the caller's."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    def _client(self) -> TableClient:
        if self._closed:
            raise RuntimeError("this store was closed")
        if self._opened is None:
            from azure.data.tables.aio import TableClient

            self._opened = TableClient(
                self._endpoint,
                self._table,
                credential=self._credential,
                retry_total=0,
                permit_redirects=False,
                connection_timeout=_CONNECT_SECONDS,
                read_timeout=_ANSWER_SECONDS,
            )
        return self._opened

    def _operation(self, write: Write, key: str, text: str) -> Any:
        from azure.core import MatchConditions
        from azure.data.tables import UpdateMode

        entity: dict[str, Any] = {"PartitionKey": self._partition, "RowKey": key}
        parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
        entity |= {f"Body{number}": part for number, part in enumerate(parts)}
        match write:
            case Insert():
                return "create", entity
            case Put():
                return "upsert", entity, {"mode": UpdateMode.REPLACE}
            case Replace(etag=etag):
                condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
                return "update", entity, condition | {"mode": UpdateMode.REPLACE}
            case Delete(etag=etag):
                return "delete", entity, {"etag": etag, "match_condition": MatchConditions.IfNotModified}

    async def _read(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        for tried in range(1, _READ_TRIES):
            try:
                return await self._call(ask)
            except StoreUnreachable:
                await asyncio.sleep(_READ_PAUSE * 2**tried)
        return await self._call(ask)

    async def _call(self, ask: Callable[[], Awaitable[_T]], writes: Sequence[Write] = ()) -> _T:
        try:
            return await _within(ask, writes)
        except _TableMissing:
            await self._create_table()
        return await _within(ask, writes)

    async def _create_table(self) -> None:
        from azure.core.exceptions import ResourceExistsError

        async def create() -> None:
            try:
                await self._client().create_table()
            except ResourceExistsError:
                return  # another process was first

        await _within(create, ())


class _TableMissing(StoreRefused):
    """The table is not there, so certainly nothing was written."""


async def _within(ask: Callable[[], Awaitable[_T]], writes: Sequence[Write]) -> _T:
    """Ask once and translate what goes wrong. ``writes`` is what a commit asks for, empty for reads."""
    from azure.core.exceptions import AzureError

    try:
        async with asyncio.timeout(_WHOLE_SECONDS):
            return await ask()
    except AzureError as error:
        raise _translated(error, writes) from error
    except TimeoutError as error:
        raise _no_answer("in time", writes) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # What the SDK raises when an answer is not what the service sends, a proxy's page for example.
        raise _no_answer("readably", writes) from error


def _translated(error: Exception, writes: Sequence[Write]) -> StoreError:
    import aiohttp
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceRequestTimeoutError,
    )

    # azure.core's aiohttp transport makes a ServiceRequestError, documented as "never sent", of a connection
    # that broke while we waited for the answer, too. Only an unopened connection is certain.
    if isinstance(error, ServiceRequestTimeoutError) or (
        isinstance(error, ServiceRequestError)
        and isinstance(error.inner_exception, aiohttp.ClientConnectorError)
    ):
        return StoreUnreachable("the table service cannot be reached")
    if not isinstance(error, HttpResponseError) or error.status_code is None:
        if isinstance(error, ClientAuthenticationError):  # azure-identity got no token, so nothing was sent
            return StoreRefused("no token for the table service could be had")
        return _no_answer("readably", writes)
    status, code = error.status_code, _error_code(error)
    if code == "TableNotFound":
        return _TableMissing("the table does not exist and could not be created")
    if status in (401, 403):
        return StoreRefused(
            f"the table service refuses us (HTTP {status}, {code}): a role or network rule is missing"
        )
    if writes and code in _CONDITION_FAILED:
        return Conflict(_culprit(error, writes))
    if status in (408, 429) or not 400 <= status < 500:
        return _no_answer(f"but HTTP {status} ({code})", writes)
    return StoreError(f"the table service does not take the request (HTTP {status}, {code})")


def _no_answer(how: str, writes: Sequence[Write]) -> StoreError:
    message = f"the table service did not answer {how}"
    return StoreOutcomeUnknown(message) if writes else StoreUnreachable(message)


def _culprit(error: Exception, writes: Sequence[Write]) -> str:
    """The key that failed. The service names the operation's place in the batch, the SDK parses it out."""
    index = getattr(error, "index", 0)
    return writes[index if index < len(writes) else 0].key


def _error_code(error: Exception) -> str:
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def _record(entity: Any) -> Record:
    key = encoding.decode_key(entity["RowKey"])
    parts: list[str] = []
    while isinstance(part := entity.get(f"Body{len(parts)}"), str):
        parts.append(part)
    if not parts:
        raise CorruptRecord(f"{key} holds no body")
    return Record(key, encoding.load(key, "".join(parts)), entity.metadata["etag"])


def emulator_credential() -> AzureNamedKeyCredential:
    """Give the credential that every Azurite accepts. It opens nothing in Azure."""
    from azure.core.credentials import AzureNamedKeyCredential

    return AzureNamedKeyCredential(_EMULATOR_ACCOUNT, _EMULATOR_KEY)
