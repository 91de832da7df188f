"""``GET /api/notifications`` and ``POST /api/notifications/retry``: what the webhook did not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.auth import Role, caller, require
from handlers.http import Request, Response
from handlers.models import DeadLetter, DeadLetters, Retried
from response import notifying

if TYPE_CHECKING:
    from handlers.process import Process


async def notifications(request: Request, process: Process) -> Response:
    """List the dead letters, oldest first. What was to be said is in them; the webhook's URL is not."""
    require(caller(request, process.settings), Role.READ)
    letters = [DeadLetter.of(record.body) for record in await notifying.dead_letters(process.world)]
    letters.sort(key=lambda letter: letter.died_at)
    return Response(200, DeadLetters(value=letters).shown())


async def retry_notifications(request: Request, process: Process) -> Response:
    """
    Put every dead letter back into the outbox; the settle timer sends them, each with all its tries.

    Where no webhook is configured any more this drops them: nobody is to be told then.
    """
    who = caller(request, process.settings)
    require(who, Role.EXECUTE)
    return Response(202, Retried(retried=await notifying.retry_dead(who.object_id, process.world)).shown())
