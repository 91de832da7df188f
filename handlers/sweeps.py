"""The timers: four sweeps find, ``settle`` goes on with what is pending."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from clients import telemetry
from clients.errors import ClientError
from clients.stores import StoreError
from clients.telemetry.words import SWEEPS
from detections import dormant
from detections.catalog import SweepGroup
from detections.sweep import sweep_rules
from response import auditing, flow, integrity
from response.ledger import Broken

if TYPE_CHECKING:
    from handlers.process import Process
    from response.world import World

log = logging.getLogger("agentbreaker.sweeps")


async def sweep_fast(process: Process) -> None:
    """Run the rules whose events speak for themselves."""
    await _sweep(SweepGroup.FAST, process)


async def sweep(process: Process) -> None:
    """Run the rules that judge a window, or what is new against a baseline."""
    await _sweep(SweepGroup.WINDOWED, process)


async def sweep_baseline(process: Process) -> None:
    """Run the rules that compare amounts with a principal's own past."""
    await _sweep(SweepGroup.BASELINE, process)


async def _sweep(group: SweepGroup, process: Process) -> None:
    """Run the rules of a group. One broken rule stops no other; what failed is logged and moves no watermark."""
    swept = await sweep_rules(process.swept, process.world, group)
    log.info(
        "sweep group=%s failed=%d findings=%d rejected=%d",
        group, len(swept.failed), swept.findings, swept.rejected,
    )  # fmt: skip


async def sweep_dormant(process: Process) -> None:
    """
    Write today's report on principals that nobody uses, and check the whole ledger.

    Raises: ClientError when Graph lists no principals; StoreError.
    """
    await _check_ledger(process.world)
    settings = process.settings
    options = dormant.Options(settings.dormant_after, settings.sign_in_activity_report)
    report = await dormant.look(process.world, options)
    await dormant.write(report, process.world.store)
    log.info("sweep dormant=%d unread=%d", report.found, len(report.unread))


async def _check_ledger(world: World) -> None:
    """Read the whole chain once a day. A break stops enforcement by what it records; here it stops nothing."""
    try:
        found = await integrity.check_all(world.store, now=world.now)
    except StoreError as error:
        log.error("the ledger could not be checked: %s", type(error).__name__)  # noqa: TRY400  # the type says it
        return
    log.info("ledger intact=%s", not isinstance(found, Broken))


async def settle(process: Process) -> None:
    """Pull what is claimed, look after unknown outcomes, prove what is pulled; then ship the ledger."""
    try:
        changed = await flow.settle(process.world)
        if changed:
            log.info("settle changed=%d", len(changed))
    finally:
        await _ship(process.world)
    # Heard of outside the app: without it a settle that has stopped would silence what tells of containments, too.
    telemetry.measure(SWEEPS, group="settle", outcome="ok")


async def _ship(world: World) -> None:
    """Ship to the audit table. What it does not take now is in the ledger and is shipped later."""
    try:
        sent = await auditing.ship(world)
    except (ClientError, StoreError) as error:
        log.warning("the audit table is behind: %s", error)
        return
    if sent:
        log.info("audit shipped=%d", sent)
