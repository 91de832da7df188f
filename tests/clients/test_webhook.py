"""What the webhook is sent, by host, and how it is signed."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from clients.webhook import WebhookClient, body_for, signed_headers

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
LINES = ("Agentbreaker: <!channel>", "a & b [x](http://evil.example)")
FIELDS = {"version": 1, "event": "pulled"}


def test_slack_gets_text_alone_with_its_three_characters_escaped():
    body = body_for("https://hooks.slack.com/services/T/B/x", LINES, FIELDS)

    assert body == {"text": "Agentbreaker: &lt;!channel&gt;\na &amp; b [x](http://evil.example)"}


@pytest.mark.parametrize(
    "host",
    [
        "prod-23.westeurope.logic.azure.com:443",
        "default1.2f.environment.api.powerplatform.com",
        "contoso.webhook.office.com",
    ],
)
def test_teams_gets_a_card_without_markdown(host):
    body = body_for(f"https://{host}/workflows/x", LINES, FIELDS)

    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    blocks = attachment["content"]["body"]
    assert {block["type"] for block in blocks} == {"RichTextBlock"}  # a TextBlock would read markdown
    assert [run["text"] for block in blocks for run in block["inlines"]] == list(LINES)
    assert "TextBlock" not in json.dumps(body).replace("RichTextBlock", "")


@pytest.mark.parametrize(
    "host", ["soar.example", "hooks.slack.com.evil.example", "evil-logic.azure.com.example"]
)
def test_any_other_host_gets_text_and_fields(host):
    body = body_for(f"https://{host}/x", LINES, FIELDS)

    assert body["agentbreaker"] == FIELDS
    assert body["text"].startswith("Agentbreaker: &lt;!channel&gt;")


def test_the_signature_covers_time_and_body():
    headers = signed_headers(b"key", "id-1", b'{"a":1}', NOON)

    stamp = str(int(NOON.timestamp()))
    wanted = hmac.new(b"key", f'{stamp}.{{"a":1}}'.encode(), hashlib.sha256).hexdigest()
    assert headers == {
        "X-Agentbreaker-Id": "id-1",
        "X-Agentbreaker-Timestamp": stamp,
        "X-Agentbreaker-Signature": f"sha256={wanted}",
    }
    assert signed_headers(b"key", "id-1", b'{"a":2}', NOON) != headers
    assert signed_headers(b"other", "id-1", b'{"a":1}', NOON) != headers


def test_the_url_is_not_in_the_repr():
    assert "s3cret" not in repr(WebhookClient("https://soar.example/s3cret", "key", None))
