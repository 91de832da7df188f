"""
Application Insights' ingestion endpoint, as Microsoft's OpenTelemetry exporter meets it: rows of the App* tables.

Faithful is what was seen of the exporter (azure-monitor-opentelemetry-exporter 1.0.0b58): ``POST /v2.1/track`` with a JSON
list of envelopes, perhaps gzipped, answered by how many were accepted. How the service turns an envelope into a row is
published for no field; the mapping below goes by the names of fields and columns, and is ours. Anybody may send: which
tokens the service takes is not simulated.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workbench.engine import LogEngine

KEY: Final = "00000000-0000-4000-8000-0000000000aa"


class AppInsights:
    """``/v2.1/track``; accepted rows are visible at once. ``envelopes`` counts what came."""

    def __init__(self) -> None:
        self.engine: LogEngine | None = None
        self.envelopes = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the one route of the endpoint."""
        return [web.post("/v2.1/track", self._post)]

    @staticmethod
    def connection_string(base_url: str) -> str:
        """Give what the app is told."""
        return f"InstrumentationKey={KEY};IngestionEndpoint={base_url}"

    async def _post(self, request: web.Request) -> web.Response:
        envelopes = parsed(await request.read())
        self.envelopes += len(envelopes)
        for envelope in envelopes:
            found = row_of(envelope)
            if found is not None and self.engine is not None:
                table, row = found
                self.engine.insert(table, [row], ingested_at=datetime.fromisoformat(row["TimeGenerated"]))
        count = len(envelopes)
        return web.json_response({"itemsReceived": count, "itemsAccepted": count, "errors": []})


def parsed(body: bytes) -> list[dict[str, Any]]:
    """Read a body: a JSON list, or one envelope a line."""
    text = body.decode()
    found = (
        json.loads(text)
        if text.lstrip().startswith("[")
        else [json.loads(line) for line in text.splitlines()]
    )
    return list(found)


def row_of(envelope: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Give table and row of an envelope; None for a kind that this project does not send."""
    tags, data = envelope.get("tags") or {}, envelope["data"]
    body = data["baseData"]
    row: dict[str, Any] = {
        "TimeGenerated": envelope["time"],
        "IKey": envelope.get("iKey", ""),
        "AppRoleName": tags.get("ai.cloud.role", ""),
        "AppRoleInstance": tags.get("ai.cloud.roleInstance", ""),
        "OperationId": tags.get("ai.operation.id", ""),
        "OperationName": tags.get("ai.operation.name", ""),
        "ParentId": tags.get("ai.operation.parentId", ""),
        "SDKVersion": tags.get("ai.internal.sdkVersion", ""),
        "Properties": body.get("properties") or {},
        "ItemCount": 1,
    }
    match data["baseType"]:
        case "MetricData":
            (metric,) = body["metrics"]
            value = metric["value"]
            least, most = metric.get("min"), metric.get("max")
            return "AppMetrics", row | {
                "Name": metric["name"],
                "Sum": value,
                "ItemCount": metric.get("count") or 1,
                # A counter's envelope names neither: then its one value is both.
                "Min": value if least is None else least,
                "Max": value if most is None else most,
            }
        case "RemoteDependencyData":
            return "AppDependencies", row | {
                "Name": body["name"],
                "Id": body["id"],
                "DependencyType": body.get("type") or "",
                "Target": body.get("target") or "",
                "Data": body.get("data") or "",
                "ResultCode": body.get("resultCode") or "",
                "Success": body.get("success"),
                "DurationMs": _milliseconds(body["duration"]),
            }
        case "MessageData":
            return "AppTraces", row | {"Message": body["message"], "SeverityLevel": body.get("severityLevel")}
    return None


def _milliseconds(duration: str) -> float:
    """Read ``d.hh:mm:ss.mmm``, as the exporter writes it."""
    days, _, rest = duration.partition(".") if duration.count(".") == 2 else ("0", "", duration)
    hours, minutes, seconds = rest.split(":")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60_000 + float(seconds) * 1000
