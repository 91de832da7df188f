"""Ears for tests: the real OpenTelemetry SDK with exporters in memory, and Application Insights as a server on localhost."""

import contextlib
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from clients import telemetry
from clients.telemetry.otel import OtelBackend

KEY = "00000000-0000-4000-8000-0000000000aa"


class Ears:
    """What was said, as the SDK hands it to exporters."""

    def __init__(self):
        self._spans, self._reader, self._logs = (
            InMemorySpanExporter(),
            InMemoryMetricReader(),
            InMemoryLogRecordExporter(),
        )
        self.backend = OtelBackend(
            spans=[SimpleSpanProcessor(self._spans)],
            metrics=[self._reader],
            logs=[SimpleLogRecordProcessor(self._logs)],
        )
        self._points = []

    def spans(self, name=None):
        return [span for span in self._spans.get_finished_spans() if name in (None, span.name)]

    def lines(self):
        return [found.log_record.body for found in self._logs.get_finished_logs()]

    def points(self, metric):
        """(attributes, point) of a measurement since the start; cumulative, as this reader collects."""
        data = self._reader.get_metrics_data()
        self._points = (
            [
                (m.name, dict(p.attributes), p)
                for r in data.resource_metrics
                for s in r.scope_metrics
                for m in s.metrics
                for p in m.data.data_points
            ]
            if data
            else self._points
        )
        return [(attributes, point) for name, attributes, point in self._points if name == metric.name]

    def count(self, metric, **attributes):
        return sum(
            getattr(point, "value", None) if hasattr(point, "value") else point.count
            for found, point in self.points(metric)
            if attributes.items() <= found.items()
        )

    def everything(self):
        spans = [span.to_json() for span in self.spans()]
        logs = [record.to_json() for record in self._logs.get_finished_logs()]
        data = self._reader.get_metrics_data()
        return "\n".join([*spans, *logs, data.to_json() if data else ""])


@contextlib.contextmanager
def ears():
    heard = Ears()
    telemetry.switch_on(heard.backend)
    try:
        yield heard
    finally:
        telemetry.switch_on(None)
        heard.backend.close()


class Insights:
    """
    The ingestion endpoint as Microsoft's exporter meets it: POST /v2.1/track, gzip or not, JSON list of envelopes.

    ``answer`` is the status it gives; ``hold``, once set, keeps every answer back until it is cleared.
    """

    def __init__(self, tls=None):
        self._scheme = "https" if tls else "http"
        self.bodies, self.paths, self.headers, self.status = [], [], [], 200
        self.release = threading.Event()
        self.release.set()
        self.asked = threading.Event()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                stand_in.paths.append(self.path)
                stand_in.headers.append(dict(self.headers))
                stand_in.bodies.append(body)
                stand_in.asked.set()
                stand_in.release.wait(30)
                items = len(body.splitlines()) if not body.startswith(b"[") else len(json.loads(body))
                answer = json.dumps({"itemsReceived": items, "itemsAccepted": items, "errors": []}).encode()
                with contextlib.suppress(OSError):  # whoever asked may be gone
                    self.send_response(stand_in.status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def connection_string(self):
        return f"InstrumentationKey={KEY};IngestionEndpoint={self._scheme}://127.0.0.1:{self._server.server_port}"

    def envelopes(self):
        found = []
        for body in self.bodies:
            text = body.decode()
            found += (
                json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
            )
        return found

    def close(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
