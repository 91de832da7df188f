"""Telemetry goes out as the managed identity: asked of the platform's endpoint, presented to the ingestion endpoint."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from listening import KEY, Insights

from clients import telemetry
from clients.telemetry import azure
from clients.telemetry.words import SpanName
from simtenant.tls import make_certificate

CLIENT = "7c9e6679-7425-4de4-944b-e07fc1f90ae7"
TOKEN = "eyJ-a-token-of-the-platform"


@contextmanager
def platform():
    """The App Service identity endpoint, as azure-identity asks it (api-version 2019-08-01)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((parse_qs(urlsplit(self.path).query), self.headers.get("X-IDENTITY-HEADER")))
            answer = {
                "access_token": TOKEN,
                "expires_on": "4102444800",
                "resource": "x",
                "token_type": "Bearer",
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/msi/token", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_it_asks_for_the_apps_own_client_id_and_presents_the_token(tmp_path, monkeypatch):
    for name, value in azure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    certificate = make_certificate(tmp_path)
    insights = Insights(certificate.server_context())
    with platform() as (endpoint, asked):
        monkeypatch.setenv("IDENTITY_ENDPOINT", endpoint)
        monkeypatch.setenv("IDENTITY_HEADER", "of-the-platform")
        backend = azure.backend(
            insights.connection_string, CLIENT, connection_verify=str(certificate.ca_file)
        )
        telemetry.switch_on(backend)
        try:
            with telemetry.span(SpanName.TRIGGER, trigger="settle"):
                pass
            backend.flush(10)
        finally:
            telemetry.switch_on(None)
            backend.close()
            insights.close()

    query, header = asked[0]
    assert query["client_id"] == [CLIENT]
    assert query["resource"][0].rstrip("/") == "https://monitor.azure.com"
    assert header == "of-the-platform"
    assert {headers["Authorization"] for headers in insights.headers} == {f"Bearer {TOKEN}"}
    assert insights.envelopes()[0]["iKey"] == KEY
    assert TOKEN not in b"".join(insights.bodies).decode()
