"""
Post a signed message to one webhook: a Teams workflow, Slack, or anything that takes JSON.

One JSON shape that all of them take does not exist, so the body follows the host (docs/notifications.md says
which of this was read where): Teams workflows take adaptive cards and fail on ``{"text"}`` alone
(MicrosoftDocs/msteams-docs issue 11302); Slack takes ``{"text"}``; any other host gets ``text`` and our fields.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from clients.errors import ClientError, NotSent, OutcomeUnknown, from_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import httpx

SERVICE: Final = "the webhook"
WITHIN: Final = timedelta(seconds=10)
RESTS_FOR: Final = timedelta(seconds=20)
_WHAT: Final = "send a notification"
_SLACK: Final = ("hooks.slack.com", "hooks.slack-gov.com")
# Where Teams workflows are called, and the connectors before them, which take the same cards.
_TEAMS: Final = (".logic.azure.com", ".api.powerplatform.com", ".webhook.office.com")


class WebhookClient:
    """
    Posts to the one configured URL, which is a secret: it is in no error, no log and no ``repr``.

    Redirects are not followed, and no byte of an answer's body is read: only its status counts.
    """

    def __init__(self, url: str, secret: str, http: httpx.AsyncClient) -> None:
        self._url, self._secret, self._http = url, secret.encode(), http
        self._failed_at: datetime | None = None

    def rests(self, now: datetime) -> bool:
        """Whether it failed a moment ago: then nobody should wait for it again already."""
        return self._failed_at is not None and timedelta(0) <= now - self._failed_at < RESTS_FOR

    async def post(
        self, message_id: str, lines: tuple[str, ...], fields: Mapping[str, Any], now: datetime
    ) -> None:
        """
        Send one message; a 2xx is the only success.

        ``message_id`` stays the same over all tries. ``lines`` are plain text, escaped here for the receiver.
        Raises: Throttled; NotSent when no connection came about; OutcomeUnknown after a 3xx, a 5xx or no answer
        in 10 seconds (the message may have arrived); BadRequest, Refused, NotFound.
        """
        try:
            await self._post(message_id, lines, fields, now)
        except ClientError:
            self._failed_at = now
            raise

    async def _post(
        self, message_id: str, lines: tuple[str, ...], fields: Mapping[str, Any], now: datetime
    ) -> None:
        import httpx

        content = json.dumps(body_for(self._url, lines, fields), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        headers |= signed_headers(self._secret, message_id, content, now)
        # ``from None``: the errors of httpx may carry the URL.
        try:
            async with asyncio.timeout(WITHIN.total_seconds()):
                async with self._http.stream(
                    "POST", self._url, content=content, headers=headers, follow_redirects=False
                ) as answer:
                    status, said = answer.status_code, dict(answer.headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol):
            raise NotSent(SERVICE, f"not reached, to {_WHAT}") from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            raise OutcomeUnknown(SERVICE, f"no answer, to {_WHAT}") from None
        if not 200 <= status < 300:
            raise from_status(SERVICE, _WHAT, status, headers=said, write=True)


def signed_headers(secret: bytes, message_id: str, content: bytes, now: datetime) -> dict[str, str]:
    """
    Give the headers that let a receiver check who sent this, when, and whether it has it already.

    The signature is HMAC-SHA256 over ``<timestamp>.<body>``, in hex, behind ``sha256=``. The time is in seconds
    since 1970, so that a receiver can refuse what was recorded and is played again.
    """
    timestamp = str(int(now.timestamp()))
    digest = hmac.new(secret, timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()
    return {
        "X-Agentbreaker-Id": message_id,
        "X-Agentbreaker-Timestamp": timestamp,
        "X-Agentbreaker-Signature": f"sha256={digest}",
    }


def body_for(url: str, lines: tuple[str, ...], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the body in the shape that the host of ``url`` takes."""
    host = (urlsplit(url).hostname or "").lower()
    if host.endswith(_TEAMS):
        return _card(lines)
    text = "\n".join(map(_slack_escaped, lines))
    return {"text": text} if host in _SLACK else {"text": text, "agentbreaker": dict(fields)}


def _slack_escaped(line: str) -> str:
    """Escape the three characters of Slack's control sequences (api.slack.com/docs/message-formatting)."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _card(lines: tuple[str, ...]) -> dict[str, Any]:
    """Make a card of text runs, which know no markdown and thus no links (learn.microsoft.com, Adaptive Cards, text features)."""
    blocks = [
        {
            "type": "RichTextBlock",
            "inlines": [{"type": "TextRun", "text": line, **({} if number else {"weight": "Bolder"})}],
        }
        for number, line in enumerate(lines)
    ]
    return {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.2",  # the first that has RichTextBlock
                    "body": blocks,
                },
            }
        ],
    }
