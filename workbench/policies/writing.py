"""
One write, and what became of it: saved first, compared right before, looked at afterwards.

Graph has no conditional write of a policy, so between the comparison and the write lie some hundred milliseconds in which
another's edit would be lost; the saved body then still shows what was there before the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError, NotFound, OutcomeUnknown
from workbench.policies import bodies
from workbench.policies.book import Entry
from workbench.policies.refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from workbench.policies.bodies import Json
    from workbench.policies.book import Book
    from workbench.policies.graph import PolicyGraph

_LOOKS: Final = 5  # readings, a pace apart: a policy may read as before for a moment after a write


@dataclass(frozen=True, slots=True)
class Desk:
    """The outside things of one run, with the folder of our policies."""

    graph: PolicyGraph
    book: Book
    folder: Path
    now: Callable[[], datetime]
    say: Callable[[str], None]


async def current(desk: Desk, name: str) -> Json:
    """Read a policy of ours as it is now. Raises: RefusedError where it is gone."""
    entry = desk.book.entries[name]
    try:
        return await desk.graph.read(entry.id, beta=bodies.needs_beta(entry.body))
    except NotFound as error:
        raise RefusedError(
            f"{name}: policy {entry.id} is gone: someone deleted it, or it is in the deleted items. Restore it there, or"
            " let apply create it again with --recreate"
        ) from error


def unedited(desk: Desk, name: str, found: Mapping[str, Any]) -> None:
    """Refuse a policy that is not as we wrote it. Raises: RefusedError with the difference."""
    entry = desk.book.entries[name]
    if bodies.fingerprint(found) != entry.seen:
        raise RefusedError(edited(name, entry.body, found))


def edited(name: str, ours: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say what someone else changed."""
    lines = "\n".join(f"    {line}" for line in bodies.differences(ours, found))
    return (
        f"{name}: someone else edited the policy since we wrote it:\n{lines}\n  Nothing was changed. Look at it with plan;"
        f" then take it over as it is (apply {name} --policy-id ID, which writes nothing to the tenant), or apply"
        " --overwrite-edits to write ours again"
    )


def covers_since(entry: Entry, found: Mapping[str, Any]) -> str:
    """
    Give the ISO time since which a policy covers what it covers, as far as ``found`` shows.

    A change by another and its undoing leave the same body behind and another ``modifiedDateTime``: what happened in between
    is not known, so the time starts again there. Empty where the tenant does not say when.
    """
    modified = str(found.get("modifiedDateTime") or "")
    return entry.since if modified == entry.modified else modified


async def change(
    desk: Desk,
    name: str,
    before: Json,
    body: Mapping[str, Any],
    wanted: Json,
    notes: Mapping[str, Any] | None = None,
) -> Json:
    """
    Send ``body`` to a policy that reads ``before`` and shall read ``wanted``; give how it reads afterwards.

    ``notes`` are further changes of its entry; without ``since`` among them, what it covers is taken to stay as it was.
    Raises: RefusedError (edited meanwhile; not done; not shown); ClientError.
    """
    entry = desk.book.entries[name]
    # Our own write moves modifiedDateTime on, so another's change is noted now or forgotten.
    notes = {"since": covers_since(entry, before), **(notes or {})}
    # An agent condition that goes away is still one that only beta declares.
    beta = bodies.needs_beta(before) or bodies.needs_beta(wanted)
    saved = desk.book.save(name, before, desk.now())
    again = await desk.graph.read(entry.id, beta=beta)
    if bodies.fingerprint(again) != bodies.fingerprint(before):
        lines = "\n".join(f"    {line}" for line in bodies.differences(before, again))
        raise RefusedError(
            f"{name}: someone edited the policy a moment ago:\n{lines}\n  Nothing was changed. Run plan again"
        )
    desk.book.put(name, replace(entry, saved=(*entry.saved, saved)))
    try:
        await desk.graph.patch(entry.id, body, beta=beta)
    except OutcomeUnknown as error:
        return await _looked_after(desk, name, before, wanted, notes, error)
    except ClientError:
        desk.book.put(name, entry)  # it was refused or never sent: there is nothing to roll back
        raise
    found = await _shown(desk, entry.id, wanted, beta=beta)
    _note(desk, name, found, wanted, notes)
    if bodies.fingerprint(found) != bodies.fingerprint(wanted):
        lines = "\n".join(f"    {line}" for line in bodies.differences(wanted, found))
        raise RefusedError(
            f"{name}: Graph accepted the change and the policy does not read as written:\n{lines}\n  The body from before is"
            f" in {saved}. Run plan in a minute: it shows whether this stays so; rollback restores the body from before"
        )
    return found


async def _looked_after(
    desk: Desk, name: str, before: Json, wanted: Json, notes: Mapping[str, Any], error: OutcomeUnknown
) -> Json:
    """No answer came to a write. Say what the tenant shows, and nothing that it does not."""
    entry = desk.book.entries[name]
    beta = bodies.needs_beta(before) or bodies.needs_beta(wanted)
    try:
        found = await _shown(desk, entry.id, wanted, beta=beta)
    except ClientError as unread:
        raise RefusedError(
            f"{name}: whether the change was made is NOT KNOWN ({error}), and the policy could not be read ({unread})."
            f" The body from before is in {entry.saved[-1]}. Run plan as soon as Graph answers"
        ) from error
    if bodies.fingerprint(found) == bodies.fingerprint(wanted):
        desk.say(f"{name}: no answer came to the change; the tenant shows that it was made")
        _note(desk, name, found, wanted, notes)
        return found
    if bodies.fingerprint(found) == bodies.fingerprint(before):
        raise RefusedError(
            f"{name}: no answer came to the change ({error}), and the policy reads as before, {_LOOKS} times. A late effect"
            " is possible: run plan in a minute, then the command again"
        ) from error
    lines = "\n".join(f"    {line}" for line in bodies.differences(wanted, found))
    raise RefusedError(
        f"{name}: no answer came to the change ({error}), and the policy reads neither as before nor as wanted:\n{lines}\n"
        f"  The body from before is in {entry.saved[-1]}. Run plan and decide"
    ) from error


async def _shown(desk: Desk, policy_id: str, wanted: Json, *, beta: bool) -> Json:
    found: Json = {}
    for _ in range(_LOOKS):
        found = await desk.graph.read(policy_id, beta=beta)
        if bodies.fingerprint(found) == bodies.fingerprint(wanted):
            break
    return found


def _note(desk: Desk, name: str, found: Json, wanted: Json, notes: Mapping[str, Any]) -> None:
    # What we wrote is what we stand for: where the tenant shows something else, the next plan calls it an edit.
    as_wanted = bodies.fingerprint(found) == bodies.fingerprint(wanted)
    values: dict[str, Any] = {
        "seen": bodies.fingerprint(wanted),
        "body": found if as_wanted else wanted,
        "modified": str(found.get("modifiedDateTime") or ""),
        "planned": "",
    }
    entry = replace(desk.book.entries[name], **values | dict(notes))
    desk.book.put(name, entry)


async def create(desk: Desk, name: str, wanted: Json, filling: Json) -> Json:
    """
    Create a report-only policy and note its id; give how it reads.

    Raises: RefusedError (one of that name appeared; the answer was lost and the tenant does not show it); ClientError.
    """
    beta = bodies.needs_beta(wanted)
    if there := await named(desk, name, beta=beta):
        raise RefusedError(
            f"{name}: a policy of this name appeared a moment ago ({there[0]['id']}). Nothing was created"
        )
    desk.book.begin_creating(name, desk.now())
    try:
        made = await desk.graph.create(wanted, beta=beta)
    except OutcomeUnknown as error:
        made = await _look_for(desk, name, wanted, error, beta=beta)
    except ClientError:
        desk.book.put(name, None)
        raise
    found = {**made}
    entry = Entry(
        id=str(made["id"]).lower(),
        seen=bodies.fingerprint(found),
        body=found,
        modified=str(found.get("modifiedDateTime") or ""),
        since=desk.now().isoformat(),
        filling=filling,
    )
    desk.book.put(name, entry)
    if bodies.fingerprint(found) != bodies.fingerprint(wanted):
        lines = "\n".join(f"    {line}" for line in bodies.differences(wanted, found))
        raise RefusedError(
            f"{name}: created as {entry.id}, and Graph made something else of it:\n{lines}\n  Look at it with plan"
        )
    return found


async def _look_for(desk: Desk, name: str, wanted: Json, error: OutcomeUnknown, *, beta: bool) -> Json:
    for _ in range(_LOOKS):
        try:
            there = await named(desk, name, beta=beta)
        except ClientError as unread:
            raise RefusedError(
                f"{name}: whether it was created is NOT KNOWN ({error}), and the policies could not be read ({unread})."
                " Run plan as soon as Graph answers"
            ) from error
        # None of that name was there a moment ago, so one that reads as ours is ours.
        if len(there) == 1 and bodies.fingerprint(there[0]) == bodies.fingerprint(wanted):
            desk.say(f"{name}: no answer came to the request; the tenant shows that it was created")
            return there[0]
        if there:
            raise RefusedError(
                f"{name}: no answer came to the request ({error}), and what has this name now"
                f" ({', '.join(str(one['id']) for one in there)}) does not read as ours. Look at it; if it is yours, name it"
                " with --policy-id"
            ) from error
    raise RefusedError(
        f"{name}: no answer came to the request ({error}), and the tenant shows no policy of this name, {_LOOKS} times. A"
        " late effect is possible: run plan in a minute before you apply again"
    ) from error


async def named(desk: Desk, name: str, *, beta: bool) -> list[Json]:
    """Give the policies with this display name."""
    return [one for one in await desk.graph.list(beta=beta) if one.get("displayName") == name]
