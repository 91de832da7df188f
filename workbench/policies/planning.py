"""What would be done to each policy, from what the tenant shows and what the book says; and doing it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from clients.errors import ClientError, NotFound
from clients.terms import is_guid
from workbench.policies import bodies, catalog, writing
from workbench.policies.book import Entry
from workbench.policies.catalog import Filling
from workbench.policies.refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workbench.policies.bodies import Json
    from workbench.policies.writing import Desk


class Do(StrEnum):
    """What a policy needs."""

    CREATE = "create"
    CHANGE = "change"
    NOTHING = "nothing"
    REFUSE = "refuse"
    LEAVE_OUT = "leave out"


@dataclass(frozen=True, slots=True)
class Step:
    """One policy: what to do, in words for a person; how it reads (``before``) and shall read (``wanted``)."""

    name: str
    do: Do
    words: str
    before: Json
    wanted: Json
    filling: Filling


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person asked for. ``named``: policies were named, so that one left out is a refusal."""

    names: tuple[str, ...]
    named: bool
    filling: Filling
    without: tuple[str, ...] = ()
    no_break_glass: bool = False
    overwrite_edits: bool = False
    recreate: bool = False


_REPORTS: Final = "would be created: it only reports and blocks nobody"


async def steps(desk: Desk, asked: Asked) -> list[Step]:
    """Judge every policy asked for. Reads only. Raises: ClientError."""
    templates = {name: catalog.load(name, desk.folder) for name in asked.names}
    beta = any(bodies.needs_beta(body) for body in templates.values())
    there = await desk.graph.list(beta=beta)
    found = [await _step(desk, asked, name, templates[name], there) for name in asked.names]
    await _check_locations(desk, found)
    return found


async def _step(desk: Desk, asked: Asked, name: str, template: Json, there: Sequence[Json]) -> Step:
    entry = desk.book.entries.get(name)
    remembered = Filling.from_body(entry.filling) if entry else Filling()
    filling = catalog.has_place_for(template, remembered.joined(asked.filling, asked.without))

    def step(do: Do, words: str, before: Json | None = None, wanted: Json | None = None) -> Step:
        return Step(name, do, words, before or {}, wanted or {}, filling)

    same_name = [
        str(one["id"]).lower()
        for one in there
        if one.get("displayName") == name and (entry is None or str(one["id"]).lower() != entry.id)
    ]
    if same_name:
        begun = desk.book.creating.get(name)
        hint = (
            f" A request of ours to create it was sent at {begun} and its end is not known." if begun else ""
        )
        return step(
            Do.REFUSE,
            f"a policy of this name exists that we did not create ({', '.join(map(bodies.printable, same_name))}).{hint}"
            f" It is not touched. If it is yours, make it ours with apply {name} --policy-id ID; else rename or delete it",
        )
    try:
        wanted = catalog.filled(template, filling)
    except RefusedError as error:
        return step(Do.REFUSE if asked.named else Do.LEAVE_OUT, str(error))
    if bodies.is_for_people(wanted) and not bodies.has_break_glass(wanted) and not asked.no_break_glass:
        return step(
            Do.REFUSE,
            "is for users and excludes nobody: a mistake would lock out everybody, your emergency access accounts"
            " included. Name those with --exclude-user ID or --exclude-group ID, or say --accept no-break-glass",
        )
    if entry is None:
        return step(Do.CREATE, _REPORTS, {}, wanted)
    try:
        before = await desk.graph.read(
            entry.id, beta=bodies.needs_beta(entry.body) or bodies.needs_beta(wanted)
        )
    except NotFound:
        if asked.recreate:
            return step(Do.CREATE, f"was deleted ({entry.id}) and {_REPORTS}", {}, wanted)
        return step(
            Do.REFUSE,
            f"policy {entry.id} was deleted by someone. Restore it, or create it again with --recreate",
        )
    wanted["state"] = before.get("state")  # never changed by apply
    return _compared(asked, name, step, before, wanted, entry)


def _compared(
    asked: Asked, name: str, make: Callable[..., Step], before: Json, wanted: Json, entry: Entry
) -> Step:
    now = bodies.fingerprint(before)
    if now != entry.seen:
        shown = now == entry.planned
        if not (asked.overwrite_edits and shown):
            how = (
                "To write ours again: apply --overwrite-edits"
                if shown
                else "Look at it with plan first: only what plan showed is overwritten"
            )
            lines = _indented(bodies.differences(entry.body, before))
            return make(
                Do.REFUSE,
                f"someone else edited it since we wrote it:\n{lines}\n  {how}; to take it over as it is, which writes nothing"
                f" to the tenant: apply {name} --policy-id {entry.id}",
                before,
                wanted,
            )
    if bodies.fingerprint(wanted) == now:
        return make(
            Do.NOTHING, f"is as written, state {bodies.printable(before.get('state'))}", before, wanted
        )
    lines = _indented(bodies.differences(before, wanted))
    if before.get("state") == bodies.ENABLED and not bodies.only_excludes_more(before, wanted):
        return make(
            Do.REFUSE,
            f"is enabled, and this would be enforced at once:\n{lines}\n  An enabled policy only gets further exclusions."
            " Let it report first: rollback --report-only, then apply, then promote",
            before,
            wanted,
        )
    return make(
        Do.CHANGE,
        f"would be changed, its state stays {bodies.printable(before.get('state'))}:\n{lines}",
        before,
        wanted,
    )


async def _check_locations(desk: Desk, found: Iterable[Step]) -> None:
    for location in sorted({one for step in found for one in step.filling.locations if is_guid(one)}):
        try:
            await desk.graph.location(location)
        except NotFound as error:
            raise RefusedError(
                f"there is no named location {location}. Its id is in Entra under Conditional Access, Named locations"
            ) from error


async def plan(desk: Desk, asked: Asked) -> bool:
    """Show what apply would do, and remember what was shown. Gives whether nothing would be refused."""
    good = True
    for step in await steps(desk, asked):
        mark = {Do.CREATE: "+", Do.CHANGE: "~", Do.NOTHING: "=", Do.REFUSE: "!", Do.LEAVE_OUT: "-"}[step.do]
        desk.say(f"{mark} {step.name}: {step.words}")
        if step.do is Do.CREATE:
            desk.say(_indented(bodies.differences({}, step.wanted)))
        if step.before:
            desk.book.plan(step.name, bodies.fingerprint(step.before))
        good &= step.do is not Do.REFUSE
    return good


async def apply(desk: Desk, asked: Asked) -> None:
    """Create and change what plan shows; nothing where anything is refused. Raises: RefusedError; ClientError."""
    planned = {name: entry.planned for name, entry in desk.book.entries.items()}
    found = await steps(desk, asked)
    refused = [step for step in found if step.do is Do.REFUSE]
    for step in found:
        if step.before and planned.get(step.name) not in ("", bodies.fingerprint(step.before)):
            desk.say(f"! {step.name}: the policy changed between plan and now")
            refused.append(step)
    if refused:
        words = "\n".join(dict.fromkeys(f"! {step.name}: {step.words}" for step in refused))
        raise RefusedError(f"{words}\nNothing was written")
    for at, step in enumerate(found):
        try:
            await _carry_out(desk, step)
        except (ClientError, RefusedError):
            desk.say(_stopped(step.name, found[:at], found[at + 1 :]))
            raise


async def _carry_out(desk: Desk, step: Step) -> None:
    match step.do:
        case Do.CREATE:
            made = await writing.create(desk, step.name, step.wanted, step.filling.to_body())
            desk.say(f"+ {step.name}: created as {made['id']}, report-only")
        case Do.CHANGE:
            await _change(desk, step)
        case _:
            desk.say(f"{'-' if step.do is Do.LEAVE_OUT else '='} {step.name}: {step.words}")


def _stopped(name: str, before: Iterable[Step], after: Iterable[Step]) -> str:
    def of(steps: Iterable[Step]) -> str:
        return ", ".join(step.name for step in steps if step.do in (Do.CREATE, Do.CHANGE)) or "none"

    return (
        f"! {name}: stopped here, for the reason below. Written before: {of(before)}. Not tried: {of(after)}"
    )


async def _change(desk: Desk, step: Step) -> None:
    notes: dict[str, object] = {"filling": step.filling.to_body()}
    if not bodies.only_excludes_more(step.before, step.wanted):
        notes["since"] = desk.now().isoformat()
    body = bodies.patch(step.before, step.wanted)
    await writing.change(desk, step.name, step.before, body, step.wanted, notes)
    desk.say(f"~ {step.name}: changed; its state stays {bodies.printable(step.before.get('state'))}")


async def adopt(desk: Desk, name: str, policy_id: str) -> None:
    """
    Make a policy ours whose id a person told us, as it is: writes nothing to the tenant.

    What apply would make of it is plan's to show.

    Raises: RefusedError where there is none, and where it has exclusions that a later apply would drop; ClientError.
    """
    template = catalog.load(name, desk.folder)
    try:
        found = await desk.graph.read(policy_id, beta=bodies.needs_beta(template))
    except NotFound as error:
        raise RefusedError(
            f"there is no policy {policy_id}; its id is in its address in the portal"
        ) from error
    if lost := bodies.exclusions_without(
        found, template, {".".join(place) for place in catalog.PLACES.values()}
    ):
        raise RefusedError(
            f"{name}: policy {policy_id} leaves out what the file of this policy has no place for ({'; '.join(lost)}), so a"
            " later apply would take that away. It is not made ours. Name the same principals, users or groups by their ids"
            " in the policy, or give the policy a file with those exclusions (--folder)"
        )
    old = desk.book.entries.get(name)
    modified = str(found.get("modifiedDateTime") or found.get("createdDateTime") or "")
    entry = Entry(
        id=policy_id.lower(),
        seen=bodies.fingerprint(found),
        body=copy.deepcopy(found),
        modified=str(found.get("modifiedDateTime") or ""),
        since=modified or desk.now().isoformat(),
        filling=catalog.held_in(found).to_body(),
        saved=old.saved if old and old.id == policy_id.lower() else (),
    )
    desk.book.put(name, entry)
    desk.say(
        f"{name}: policy {policy_id} ({bodies.printable(found.get('displayName'))}, state"
        f" {bodies.printable(found.get('state'))}) is ours from now on, as it is; nothing was written to the tenant."
        f" What apply would change in it is shown by: plan {name}"
    )


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
