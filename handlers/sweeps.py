"""The timers: four sweeps find, ``settle`` goes on with what is pending."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from detections import dormant
from detections.catalog import SweepGroup
from detections.sweep import sweep_rules
from response import flow

if TYPE_CHECKING:
    from handlers.process import Process

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
    swept = await sweep_rules(process.rules, process.world, group)
    log.info("sweep group=%s failed=%d findings=%d", group, len(swept.failed), swept.findings)


async def sweep_dormant(process: Process) -> None:
    """Write today's report on principals that nobody uses. Raises: ClientError when Graph lists no principals; StoreError."""
    settings = process.settings
    options = dormant.Options(settings.dormant_after, settings.sign_in_activity_report)
    report = await dormant.look(process.world, options)
    await dormant.write(report, process.world.store)
    log.info("sweep dormant=%d unread=%d", report.found, len(report.unread))


async def settle(process: Process) -> None:
    """Pull what is claimed, look after unknown outcomes, prove what is pulled."""
    changed = await flow.settle(process.world)
    if changed:
        log.info("settle changed=%d", len(changed))
