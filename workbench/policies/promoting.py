"""Turning a policy on, once it is known whom that hits; and taking back what we wrote."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from workbench.policies import bodies, catalog, evidence, writing
from workbench.policies.book import read_saved
from workbench.policies.catalog import Filling
from workbench.policies.refusal import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.policies.bodies import Json
    from workbench.policies.evidence import Evidence, Hit, Logs
    from workbench.policies.writing import Desk


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the person accepts: object ids that will be refused, or that many; a history shorter than 14 days."""

    ids: frozenset[str] = frozenset()
    count: int | None = None
    short_history: int | None = None
    no_break_glass: bool = False


def _ours(desk: Desk, name: str) -> None:
    if name not in desk.book.entries:
        raise RefusedError(
            f"{bodies.printable(name)}: not one of the policies we created. Apply it first, or make one ours with apply --policy-id"
        )


async def promote(desk: Desk, logs: Logs, name: str, accepted: Accepted) -> None:
    """
    Enable a policy that only reports.

    Raises: RefusedError (edited; not report-only; whom it hits is not known, or neither excluded nor accepted); ClientError.
    """
    _ours(desk, name)
    before = await writing.current(desk, name)
    writing.unedited(desk, name, before)
    if before.get("state") == bodies.ENABLED:
        desk.say(f"{name}: is enabled already")
        return
    _as_its_file_says(desk, name, before)
    if before.get("state") != bodies.REPORT_ONLY:
        raise RefusedError(
            f"{name}: is {bodies.printable(before.get('state'))}, so the log says nothing about it; let it report first"
        )
    people = bodies.is_for_people(before)
    if people and not bodies.has_break_glass(before) and not accepted.no_break_glass:
        raise RefusedError(
            f"{name}: excludes nobody. Exclude your emergency access accounts (apply {name} --exclude-user ID), or say"
            " --accept no-break-glass"
        )
    found = await evidence.gather(
        logs, desk.book.entries[name].id, _since(desk, name, before), desk.now(), people=people
    )
    _show(desk, name, found, before, accepted)
    _judge(name, found, before, accepted)
    wanted = {**before, "state": bodies.ENABLED}
    await writing.change(desk, name, before, {"state": bodies.ENABLED}, wanted)
    desk.say(
        f"{name}: enabled. New token requests meet it from now on; what honours continuous access evaluation may learn of"
        f" it up to a day later. To take it back: python -m workbench policies rollback {name} --report-only"
    )


def _as_its_file_says(desk: Desk, name: str, before: Json) -> None:
    """Only what the folder's file says is enabled, with its exclusions: a policy made ours by its id may be any policy."""
    filling = Filling.from_body(desk.book.entries[name].filling)
    wanted = catalog.filled(catalog.load(name, desk.folder), filling) | {"state": before.get("state")}
    if bodies.fingerprint(wanted) != bodies.fingerprint(before):
        lines = "\n".join(f"    {line}" for line in bodies.differences(before, wanted))
        raise RefusedError(
            f"{name}: is not what its file says:\n{lines}\n  Nothing was changed. Make it so with apply {name}, and let it"
            " report; or change the file"
        )


def _since(desk: Desk, name: str, found: Json) -> datetime:
    try:
        since = datetime.fromisoformat(writing.covers_since(desk.book.entries[name], found))
    except ValueError:
        since = desk.now()
    return since if since.tzinfo else desk.now()


def _show(desk: Desk, name: str, found: Evidence, body: Json, accepted: Accepted) -> None:
    out = bodies.excluded(body)
    uncovered = _uncovered(found, body, accepted)
    days = evidence.WINDOW.days
    desk.say(f"{name}: in the last {days} days it would have refused {len(found.hits)} principals")
    for hit in found.hits:
        if hit.id in out:
            mark = "excluded meanwhile"
        elif hit.id in accepted.ids:
            mark = "accepted"
        else:
            mark = "NOT COVERED" if hit in uncovered else "accepted with all"
        resources = ", ".join(bodies.printable(one) for one in hit.resources[:5])
        desk.say(
            f"  {hit.id}  {bodies.printable(hit.name) or '(no name)'}  {hit.times} times,"
            f" {hit.first:%Y-%m-%d %H:%M} to {hit.last:%Y-%m-%d %H:%M} UTC, to {resources or 'no named resource'}  [{mark}]"
        )
    desk.say(f"  the log speaks about it for {found.history.days:.1f} days: {found.history.why}")


def _uncovered(found: Evidence, body: Json, accepted: Accepted) -> list[Hit]:
    covered = bodies.excluded(body) | accepted.ids
    return [hit for hit in found.hits if hit.id not in covered] if accepted.count is None else []


def _judge(name: str, found: Evidence, body: Json, accepted: Accepted) -> None:
    faults = []
    days, enough = found.history.days, evidence.WINDOW.days
    # A minute of grace: the window ends at "now", and now has gone on since the oldest row was asked for.
    if timedelta(days=days) < evidence.WINDOW - timedelta(minutes=1) and (
        accepted.short_history is None or days < accepted.short_history
    ):
        faults.append(
            f"the log speaks about the policy for {days:.1f} days and {enough} are needed ({found.history.why}). Wait, or"
            f" accept it with --accept-short-history {int(days)}"
        )
    open_hits = [hit for hit in found.hits if hit.id not in bodies.excluded(body) | accepted.ids]
    if accepted.count is not None and accepted.count != len(open_hits):
        faults.append(
            f"--accept-all {accepted.count}: {len(open_hits)} principals are neither excluded nor accepted. Look at the list,"
            " then type that number"
        )
    elif accepted.count is None and open_hits:
        ids = " ".join(f"--accept {hit.id}" for hit in open_hits[:20])
        faults.append(
            f"{len(open_hits)} principals would be refused and are neither excluded nor accepted. Exclude who must go on"
            f" (apply {name} with --exclude, --exclude-agent or --exclude-user ID), accept the others ({ids}), or all with"
            f" --accept-all {len(open_hits)}"
        )
    if faults:
        raise RefusedError("\n".join(f"{name}: {fault}" for fault in faults) + "\nNothing was changed")


async def rollback(
    desk: Desk, name: str, saved_in: Path, *, report_only: bool, overwrite_edits: bool
) -> None:
    """
    Restore the body from before our last write, or with ``report_only`` set the state and leave the rest.

    Never turns a policy on, and never lets an enabled one block more: that is for ``promote``.
    Raises: RefusedError; ClientError.
    """
    _ours(desk, name)
    entry = desk.book.entries[name]
    before = await writing.current(desk, name)
    if report_only:
        # Stopping a block must not wait for anybody's edit to be understood.
        if before.get("state") == bodies.REPORT_ONLY:
            desk.say(f"{name}: only reports already")
            return
        wanted = {**before, "state": bodies.REPORT_ONLY}
        notes: dict[str, Any] = {}
        if bodies.fingerprint(before) != entry.seen:
            # The edit stays what it is, somebody else's: promote must not take it for ours.
            ours = {**entry.body, "state": bodies.REPORT_ONLY}
            notes = {"seen": bodies.fingerprint(ours), "body": ours}
        await writing.change(desk, name, before, {"state": bodies.REPORT_ONLY}, wanted, notes)
        desk.say(f"{name}: only reports from now on; it blocks nobody")
        return
    if not overwrite_edits:
        writing.unedited(desk, name, before)
    if not entry.saved:
        raise RefusedError(
            f"{name}: nothing was there before we created it, so there is no body to restore. It only blocks where it is"
            " enabled (rollback --report-only); delete it in the portal"
        )
    wanted = {**read_saved(entry.saved[-1], saved_in)}
    if wanted.get("state") == bodies.ENABLED and not (
        before.get("state") == bodies.ENABLED and bodies.only_excludes_more(before, wanted)
    ):
        raise RefusedError(
            f"{name}: the body from before is enabled, and restoring it would block more than now. Only promote does that:"
            " rollback --report-only, apply, promote"
        )
    body = {**bodies.patch(before, wanted), "state": wanted["state"]}
    restored: dict[str, Any] = {"saved": entry.saved[:-1]}
    if bodies.content(before) != bodies.content(wanted):
        restored["since"] = desk.now().isoformat()
    await writing.change(desk, name, before, body, wanted, restored)
    desk.say(f"{name}: restored as it was before our last write, state {bodies.printable(wanted['state'])}")
