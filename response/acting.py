"""
What each lever does through Graph: pull, look whether it took effect, take back, look whether that took effect.

``response/levers.py`` says it in words; here are the calls. Nothing here decides or records.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from clients.errors import BadRequest, ClientError, OutcomeUnknown
from clients.graph.removals import AssignmentSnapshot, CredentialSnapshot, GrantSnapshot
from clients.stores import Put
from clients.terms import AppId, Kind, ServicePrincipal
from response.batches import Seen
from response.containment import State
from response.ledger import ACTOR, Draft, EntryKind, commit_with_entries
from response.levers import (
    CONFIRM_AGENT_COMPROMISED,
    CONFIRM_COMPROMISED,
    DISABLE_PRINCIPAL,
    REMOVE_APP_ROLES,
    REMOVE_CREDENTIALS,
    REMOVE_GRANTS,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from clients.graph import GraphClient
    from clients.stores import Write
    from clients.terms import ObjectId, Risk
    from response.containment import Containment
    from response.world import World


def as_principal(c: Containment) -> ServicePrincipal:
    """Give what the record knows of its principal; owner and state are not in it."""
    return ServicePrincipal(
        c.principal, AppId(c.app_id), c.principal_name, Kind(c.kind or Kind.OTHER), None, None
    )


@dataclass(frozen=True, slots=True)
class _Risk:
    """A lever of ID Protection: many in one call, read back as risk."""

    confirm: Callable[[GraphClient, Sequence[ObjectId]], Awaitable[datetime]]
    dismiss: Callable[[GraphClient, Sequence[ObjectId]], Awaitable[datetime]]
    read: Callable[[GraphClient, ObjectId], Awaitable[Risk | None]]
    read_all: Callable[[GraphClient], Awaitable[dict[ObjectId, Risk]]]

    async def pull(self, batch: Sequence[Containment], world: World) -> datetime:
        return await self.confirm(world.graph, [c.principal for c in batch])

    async def undo(self, batch: Sequence[Containment], world: World) -> datetime:
        return await self.dismiss(world.graph, [c.principal for c in batch])

    async def pulled(self, c: Containment, world: World) -> Seen:
        return _confirmed(await self.read(world.graph, c.principal))

    async def undone(self, c: Containment, world: World) -> Seen:
        return dismissed(await self.read(world.graph, c.principal))

    async def pulled_all(self, batch: Sequence[Containment], world: World) -> list[Seen]:
        found = await self.read_all(world.graph)
        return [_confirmed(found.get(c.principal)) for c in batch]

    async def undone_all(self, batch: Sequence[Containment], world: World) -> list[Seen]:
        found = await self.read_all(world.graph)
        return [dismissed(found.get(c.principal)) for c in batch]


def _confirmed(risk: Risk | None) -> Seen:
    if risk is not None and risk.state == "confirmedCompromised":
        return Seen.DONE
    return Seen.PROCESSING if risk is not None and risk.is_processing else Seen.NO_SIGN


def dismissed(risk: Risk | None) -> Seen:
    """Say whether the risk of a principal was taken back."""
    if risk is None or risk.state in ("dismissed", "none"):
        return Seen.DONE
    return Seen.PROCESSING if risk.is_processing else Seen.NO_SIGN


class _Disable:
    """
    Disabling: one by one, read back as accountEnabled.

    Whether it was enabled before is written down first: what somebody else had disabled is not enabled by our undo.
    """

    async def prepare(self, c: Containment, world: World) -> None:
        """Write whether it is enabled now, once."""
        found = await world.graph.service_principal(c.principal)
        await _snapshot(c, DISABLE_PRINCIPAL.id, {"enabled": found.account_enabled}, world)

    async def pull(self, batch: Sequence[Containment], world: World) -> datetime:
        (c,) = batch
        await world.graph.set_enabled(as_principal(c), False)
        return datetime.now(UTC)

    async def undo(self, batch: Sequence[Containment], world: World) -> datetime:
        (c,) = batch
        if await self._was_enabled(c, world):
            await world.graph.set_enabled(as_principal(c), True)
        else:
            left = ["it was disabled before this containment, or that is not known: it stays disabled"]
            await world.store.commit([Put(f"{snapshot_key(c, DISABLE_PRINCIPAL.id)}:left", {"left": left})])
        return datetime.now(UTC)

    async def _was_enabled(self, c: Containment, world: World) -> bool:
        record = await world.store.get(snapshot_key(c, DISABLE_PRINCIPAL.id))
        return record is not None and record.body.get("enabled") is True

    async def pulled(self, c: Containment, world: World) -> Seen:
        return await self._reads(c, world, enabled=False)

    async def undone(self, c: Containment, world: World) -> Seen:
        if not await self._was_enabled(c, world):
            return Seen.DONE
        return await self._reads(c, world, enabled=True)

    async def _reads(self, c: Containment, world: World, *, enabled: bool) -> Seen:
        found = await world.graph.service_principal(c.principal)
        return Seen.DONE if found.account_enabled is enabled else Seen.NO_SIGN


async def _snapshot(c: Containment, lever: str, body: dict[str, Any], world: World) -> None:
    """Keep what there was before a lever, once: after a half-done pull the first snapshot is what to restore."""
    key = snapshot_key(c, lever)
    if await world.store.get(key) is not None:
        return

    async def build() -> tuple[list[Write], list[Draft]]:
        draft = Draft(EntryKind.SNAPSHOT, ACTOR, c.principal, c.id, {"lever": lever, "record": key})
        return [Put(key, body)], [draft]

    await commit_with_entries(world.store, build)


@dataclass(frozen=True, slots=True)
class _Removal:
    """Taking something away: what is there is written down first, because undo needs it."""

    lever: str
    read: Callable[[GraphClient, ServicePrincipal], Awaitable[Any]]
    remove: Callable[[GraphClient, Any], Awaitable[None]]
    restore: Callable[[GraphClient, Any], Awaitable[tuple[str, ...]]]
    parse: Callable[[Any], Any]

    async def prepare(self, c: Containment, world: World) -> None:
        """Write the snapshot, once."""
        if await world.store.get(snapshot_key(c, self.lever)) is None:
            held = await self.read(world.graph, as_principal(c))
            await _snapshot(c, self.lever, held.to_body(), world)

    async def pull(self, batch: Sequence[Containment], world: World) -> datetime:
        """
        Remove what the snapshot lists.

        It takes several requests. Whatever stops it half way, something may be gone: that is an outcome nobody knows
        until the tenant is read, not "surely not done".
        """
        (c,) = batch
        try:
            await self.remove(world.graph, await self._snapshot(c, world))
        except OutcomeUnknown:
            raise
        except ClientError as error:
            raise OutcomeUnknown(error.service, f"stopped, perhaps half way, to {self.lever}") from error
        return datetime.now(UTC)

    async def undo(self, batch: Sequence[Containment], world: World) -> datetime:
        (c,) = batch
        left = await self.restore(world.graph, await self._snapshot(c, world))
        await world.store.commit([Put(f"{snapshot_key(c, self.lever)}:left", {"left": list(left)})])
        return datetime.now(UTC)

    async def _snapshot(self, c: Containment, world: World) -> Any:
        record = await world.store.get(snapshot_key(c, self.lever))
        if record is None:
            raise BadRequest("Agentbreaker", "the record of what was taken away is gone")
        return self.parse(record.body)

    async def pulled(self, c: Containment, world: World) -> Seen:
        held = await self.read(world.graph, as_principal(c))
        return Seen.DONE if held.is_empty else Seen.NO_SIGN

    async def undone(self, _c: Containment, _world: World) -> Seen:
        # Restoring reads what is there first and makes nothing twice: doing it again is how one looks.
        return Seen.NO_SIGN


def snapshot_key(c: Containment, lever: str) -> str:
    """
    Give the key under which a lever keeps what there was before its last pull.

    One for each time it was pulled and taken back: what somebody has given or taken since belongs to the next one.
    """
    of_it = [pulled for pulled in c.pulled_levers if pulled.lever == lever]
    before = sum(pulled.undone_at is not None for pulled in of_it)
    over = bool(of_it) and before == len(of_it) and c.state in (State.HALF_OPEN, State.CLOSED)
    times = before - 1 if over else before
    return f"snapshot:{c.id}:{lever}" + (f":{times}" if times else "")


async def not_restored(c: Containment, world: World) -> tuple[str, ...]:
    """Say what undo could not bring back, in words. Raises: StoreError."""
    levers = dict.fromkeys(pulled.lever for pulled in c.pulled_levers)
    records = [await world.store.get(f"{snapshot_key(c, lever)}:left") for lever in levers]
    return tuple(str(item) for record in records if record is not None for item in record.body["left"])


_RISK: Final = _Risk(
    lambda graph, ids: graph.confirm_compromised(ids),
    lambda graph, ids: graph.dismiss(ids),
    lambda graph, principal: graph.risk(principal),
    lambda graph: graph.risks(),
)
_AGENT_RISK: Final = _Risk(
    lambda graph, ids: graph.confirm_agents_compromised(ids),
    lambda graph, ids: graph.dismiss_agents(ids),
    lambda graph, principal: graph.agent_risk(principal),
    lambda graph: graph.agent_risks(),
)
ACTIONS: Final[dict[str, _Risk | _Disable | _Removal]] = {
    CONFIRM_COMPROMISED.id: _RISK,
    CONFIRM_AGENT_COMPROMISED.id: _AGENT_RISK,
    DISABLE_PRINCIPAL.id: _Disable(),
    REMOVE_CREDENTIALS.id: _Removal(
        REMOVE_CREDENTIALS.id,
        lambda graph, principal: graph.credentials(principal),
        lambda graph, held: graph.remove_credentials(held),
        lambda graph, held: graph.restore_credentials(held),
        CredentialSnapshot.from_body,
    ),
    REMOVE_APP_ROLES.id: _Removal(
        REMOVE_APP_ROLES.id,
        lambda graph, principal: graph.app_role_assignments(principal),
        lambda graph, held: graph.remove_app_role_assignments(held),
        lambda graph, held: graph.restore_app_role_assignments(held),
        AssignmentSnapshot.from_body,
    ),
    REMOVE_GRANTS.id: _Removal(
        REMOVE_GRANTS.id,
        lambda graph, principal: graph.delegated_grants(principal),
        lambda graph, held: graph.remove_delegated_grants(held),
        lambda graph, held: graph.restore_delegated_grants(held),
        GrantSnapshot.from_body,
    ),
}


async def prepare(lever: str, batch: Sequence[Containment], world: World) -> None:
    """Write down what a removal lever will take away. Raises: ClientError; StoreError. Nothing was taken then."""
    match ACTIONS[lever]:
        case _Removal() | _Disable() as action:
            for c in batch:
                await action.prepare(c, world)
        case _:
            return


async def pulled(lever: str, batch: Sequence[Containment], world: World) -> list[Seen]:
    """Look whether a lever took effect on each. Many risks are read as one list. Raises: ClientError."""
    action = ACTIONS[lever]
    if isinstance(action, _Risk) and len(batch) > 1:
        return await action.pulled_all(batch, world)
    return [await action.pulled(c, world) for c in batch]


async def undone(lever: str, batch: Sequence[Containment], world: World) -> list[Seen]:
    """Look whether taking a lever back took effect on each. As ``pulled``."""
    action = ACTIONS[lever]
    if isinstance(action, _Risk) and len(batch) > 1:
        return await action.undone_all(batch, world)
    return [await action.undone(c, world) for c in batch]
