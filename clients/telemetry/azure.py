"""
Telemetry into Application Insights: Microsoft's exporters behind ``otel.OtelBackend``.

Not through ``configure_azure_monitor``: that makes its providers the process's own, and then every library that asks
OpenTelemetry for a tracer is exported, kiota's Graph URLs first. The exporters and the SDK are those of the distribution
``azure-monitor-opentelemetry`` that is pinned.

Everything leaves by threads of OpenTelemetry's: a queue that is full drops what comes, and no run ever waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from clients.telemetry.otel import OtelBackend

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

ENVIRONMENT: Final = {
    # Microsoft's statistics about the exporter, sent to a place of its own; and a remote control of its features.
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED": "true",
    "APPLICATIONINSIGHTS_OPENTELEMETRY_RESOURCE_METRIC_DISABLED": "true",
}
"""What the exporter reads from the environment; the process writes it before ``backend`` is called."""
_METRICS_EVERY_MS: Final = 60_000
_SPANS_EVERY_MS: Final = 5_000
_TIMEOUT_SECONDS: Final = 10
_RETRIES: Final = 2


def backend(connection_string: str, client_id: str | None, **options: Any) -> OtelBackend:
    """
    Make the backend; sends nothing yet and opens no connection.

    Tokens are the managed identity's (``client_id`` None: the system-assigned one), for https only; the stand-in on
    localhost gets none. ``options`` go to the exporters, for tests. Raises: ValueError for a string that is none.
    """
    from azure.monitor.opentelemetry.exporter import (
        AzureMonitorLogExporter,
        AzureMonitorMetricExporter,
        AzureMonitorTraceExporter,
    )
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporting: dict[str, Any] = {
        "connection_string": connection_string,
        "credential": credential(connection_string, client_id),
        "disable_offline_storage": True,  # nothing of it stays on a disk; the ledger is what must not be lost
        "timeout": _TIMEOUT_SECONDS,
        "retry_total": _RETRIES,
        **options,
    }
    return OtelBackend(
        spans=[
            BatchSpanProcessor(AzureMonitorTraceExporter(**exporting), schedule_delay_millis=_SPANS_EVERY_MS)
        ],
        metrics=[
            PeriodicExportingMetricReader(
                AzureMonitorMetricExporter(**exporting), export_interval_millis=_METRICS_EVERY_MS
            )
        ],
        logs=[
            BatchLogRecordProcessor(
                AzureMonitorLogExporter(**exporting), schedule_delay_millis=_SPANS_EVERY_MS
            )
        ],
        instance=uuid4().hex,  # tells instances apart without naming the machine
    )


def credential(connection_string: str, client_id: str | None) -> TokenCredential | None:
    """Give the credential for an endpoint; None on localhost, where plain http stands in for it."""
    from azure.identity import ManagedIdentityCredential

    if urlsplit(parts(connection_string).get("ingestionendpoint", "https:")).scheme != "https":
        return None
    return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()


def parts(connection_string: str) -> dict[str, str]:
    """Split a connection string into its parts, names in lower case."""
    pairs = (pair.partition("=") for pair in connection_string.split(";") if pair)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
