"""``GET /api/dormant``: the newest report on principals that nobody uses and that could still act."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from detections import dormant as reports
from handlers.auth import Role, caller, require
from handlers.http import Problem, Request, Response

if TYPE_CHECKING:
    from handlers.process import Process


async def dormant(request: Request, process: Process) -> Response:
    """``GET /api/dormant[?page=]``: a page of the newest report, the most pressing first."""
    require(caller(request, process.settings), Role.READ)
    unknown = sorted(set(request.query) - {"page", "code"})
    if unknown:
        raise Problem(
            400, "unknown_filter", f"Unknown query parameter: {', '.join(unknown)[:200]}.", known=["page"]
        )
    text = request.query.get("page", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise Problem(400, "not_a_page", "page is a number from 1 on.")
    page = int(text)
    found = await reports.read(process.world.store, page)
    if found is None:
        raise Problem(404, "no_report_yet", "The timer sweep_dormant has not written a report yet.")
    head, entries = found
    return Response(
        200,
        {
            "madeAt": head["made_at"],
            "dormantAfterDays": head["dormant_after_days"],
            "lookedAt": head["looked_at"],
            "found": head["found"],
            "shown": head["shown"],
            "unread": head["unread"],
            "notRead": list(reports.NOT_READ),
            "page": page,
            "pages": head["pages"],
            "value": entries,
        },
    )
