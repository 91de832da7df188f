"""The timers: ``sweep`` runs detections and responds to what they find, ``settle`` goes on with what is pending."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from detections.sweep import sweep_rules
from response import flow

if TYPE_CHECKING:
    from handlers.process import Process

log = logging.getLogger("agentbreaker.sweeps")


async def sweep(process: Process) -> None:
    """Run all rules. One broken rule stops no other; what failed is logged and moves no watermark."""
    swept = await sweep_rules(process.rules, process.world)
    log.info("sweep rules=%d failed=%d findings=%d", len(process.rules), len(swept.failed), swept.findings)


async def settle(process: Process) -> None:
    """Pull what is claimed, look after unknown outcomes, prove what is pulled."""
    changed = await flow.settle(process.world)
    if changed:
        log.info("settle changed=%d", len(changed))
