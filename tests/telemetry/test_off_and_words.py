"""Off costs nothing; on, only words of the vocabulary leave; a string that is none is a fault that says so."""

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from azure.identity import ManagedIdentityCredential
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

from clients import telemetry
from clients.errors import Refused, from_status
from clients.telemetry import azure, otel, words
from clients.telemetry.words import SpanName, cleaned
from handlers import process
from handlers.edge import _HANDLERS
from response.containment import Containment
from response.ledger import EntryKind
from response.measures import _COMES_INTO
from settings import SETTINGS, Settings, SettingsError, telemetry_settings

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
GOOD = "InstrumentationKey=00000000-0000-4000-8000-0000000000aa;IngestionEndpoint=https://westeurope-5.in.applicationinsights.azure.com/;LiveEndpoint=https://westeurope.livediagnostics.monitor.azure.com/"
NAME = "APPLICATIONINSIGHTS_CONNECTION_STRING"
OBJECT_ID = "7c9e6679-7425-4de4-944b-e07fc1f90ae7"


def test_off_no_exporter_and_no_sdk_of_opentelemetry_is_imported():
    """The Graph SDK imports OpenTelemetry's interface by itself; the SDK behind it and exporters come only when on."""
    code = (
        "import sys, json, handlers.edge, handlers.sweeps, detections.sweep, response.flow, clients.graph, clients.logs;"
        "print(json.dumps([m for m in sys.modules if m.startswith('opentelemetry') or m.startswith('azure.monitor.opentelemetry')]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert json.loads(out) == []


def test_off_a_span_is_one_object_that_does_nothing():
    assert not telemetry.is_on()
    first, second = telemetry.span(SpanName.PULL, lever="x"), telemetry.call(SpanName.GRAPH_CALL, "a", "b")
    assert first is second
    with first as span:
        span.set(anything=1)
    assert telemetry.current() == ""


def test_off_a_record_carries_no_trace():
    assert "trace" in Containment.__dataclass_fields__
    assert Containment.__dataclass_fields__["trace"].default == ""


def test_the_process_switches_telemetry_on_only_where_a_string_is_written(monkeypatch):
    made = []
    monkeypatch.setattr(azure, "backend", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(telemetry, "switch_on", lambda backend: None)
    for name, value in azure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    process._tell("", None)
    process._tell(GOOD, OBJECT_ID)

    assert made == [(GOOD, OBJECT_ID)]


def test_an_exporter_that_cannot_start_stops_nothing(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError(OBJECT_ID)

    monkeypatch.setattr(azure, "backend", broken)
    for name, value in azure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    process._tell(GOOD, None)

    assert "could not be switched on: RuntimeError" in caplog.text
    assert OBJECT_ID not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "InstrumentationKey=not-a-guid;IngestionEndpoint=https://westeurope-5.in.applicationinsights.azure.com",
        "00000000-0000-4000-8000-0000000000aa",
        GOOD.replace("azure.com/;", "azure.com.evil.example/;"),
        GOOD.replace("https://westeurope-5", "http://westeurope-5"),
        "InstrumentationKey=00000000-0000-4000-8000-0000000000aa",
        GOOD + ";x=y=z",
        GOOD + ";InstrumentationKey=00000000-0000-4000-8000-0000000000ab",
    ],
)
def test_a_string_that_is_none_is_a_fault_that_does_not_repeat_it(text):
    with pytest.raises(SettingsError, match=NAME) as caught:
        Settings.from_env({**SAMPLE, NAME: text})

    assert len(caught.value.faults) == 1
    assert caught.value.names == (NAME,)
    assert "00000000" not in str(caught.value)


def test_a_string_as_the_portal_writes_it_is_taken_and_masked():
    settings = Settings.from_env({**SAMPLE, NAME: GOOD + ";"})

    assert settings.app_insights == GOOD
    assert "InstrumentationKey" not in repr(settings)
    assert azure.parts(GOOD)["ingestionendpoint"].endswith("azure.com/")


def test_settings_at_fault_are_told_by_name_where_telemetry_can_be_read():
    env = {**SAMPLE, NAME: GOOD, "AGENTBREAKER_TENANT_ID": "contoso", "AGENTBREAKER_CLIENT_ID": OBJECT_ID}
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)

    assert telemetry_settings(env) == (GOOD, OBJECT_ID)
    assert telemetry_settings({**env, NAME: "?"}) == ("", None)
    line = logging.LogRecord("agentbreaker.edge", 30, "", 1, "%s failed: %s", ("settle", caught.value), None)
    assert otel.said(line) == "settle failed: SettingsError AGENTBREAKER_TENANT_ID"


def test_the_credential_is_the_managed_identitys_and_for_https_only():
    assert isinstance(azure.credential(GOOD, OBJECT_ID), ManagedIdentityCredential)
    assert azure.credential("InstrumentationKey=x;IngestionEndpoint=http://127.0.0.1:1", None) is None


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("rule", "AG-30a", "AG-30a"),
        ("rule", OBJECT_ID, "other"),
        ("state", "proven", "proven"),
        ("state", "Invoice Agent", "other"),
        ("lever", OBJECT_ID, "other"),
        ("operation", f"read {OBJECT_ID}", "other"),
        ("status", 403, 403),
        ("status", "403", "other"),
        ("principal", "finance", "other"),
        ("service", "Microsoft Graph", "Microsoft Graph"),
        ("service", "https://graph.microsoft.com/v1.0", "other"),
    ],
)
def test_a_value_leaves_only_if_it_looks_like_one_of_ours(name, value, left):
    assert cleaned(name, value) == left


@pytest.mark.parametrize(
    ("template", "arguments", "told"),
    [
        ("rule %s failed", ("AG-04",), "rule AG-04 failed"),
        (
            "run containment=%s vetoes=%d",
            ("20260101T101010-0a1b2c3d", 2),
            "run containment=20260101T101010-0a1b2c3d vetoes=2",
        ),
        ("%s was changed meanwhile", (f"finding:{OBJECT_ID}",), "... was changed meanwhile"),
        (
            "%s could not be read: %s",
            ("finance", Refused("Microsoft Graph", "x", status=403)),
            "... could not be read: Refused 403",
        ),
        ("it failed: %s", (ValueError(OBJECT_ID),), "it failed: ValueError"),
        ("verdict=%s", (EntryKind.PROVEN,), "verdict=proven"),
        ("%(who)s", ({"who": "finance"},), "..."),
        ("%d left", ("finance",), "%d left"),
    ],
)
def test_a_log_line_leaves_as_its_template_and_what_is_ours(template, arguments, told):
    record = logging.LogRecord("agentbreaker.x", logging.INFO, "", 1, template, arguments, None)

    assert otel.said(record) == told


def test_an_exception_with_its_traceback_leaves_as_its_type(heard):
    try:
        int(OBJECT_ID)
    except ValueError:
        logging.getLogger("agentbreaker.x").exception("it failed")
    logging.getLogger("somebody.else").error(OBJECT_ID)

    assert heard.lines() == ["it failed"]
    assert "ValueError" in heard.everything()
    assert OBJECT_ID not in heard.everything()


def test_an_exception_that_leaves_a_span_is_a_type_and_a_status(heard):
    with pytest.raises(Refused), telemetry.span(SpanName.GRAPH_CALL, operation="read risk"):
        raise from_status("Microsoft Graph", OBJECT_ID, 403)

    (span,) = heard.spans()
    assert span.attributes["agentbreaker.error"] == "Refused"
    assert span.attributes["agentbreaker.status"] == 403
    assert OBJECT_ID not in heard.everything()


def test_a_processor_that_raises_stops_nothing(caplog):
    class Broken(SpanProcessor):
        def on_start(self, span, parent_context=None):
            raise RuntimeError("start")

        def on_end(self, span):
            raise RuntimeError("end")

    backend = otel.OtelBackend(spans=[Broken()])
    telemetry.switch_on(backend)
    try:
        with telemetry.span(SpanName.PULL) as span:
            span.set(lever="x")
    finally:
        telemetry.switch_on(None)
        backend.close()
    assert "could not be started" in caplog.text


def test_the_global_providers_of_opentelemetry_are_left_alone(heard):
    with trace.get_tracer("com.microsoft.kiota").start_as_current_span("GET") as foreign:
        foreign.set_attribute("url.full", f"https://graph.microsoft.com/v1.0/servicePrincipals/{OBJECT_ID}")

    assert heard.spans() == []
    assert not foreign.is_recording()


def test_what_clients_call_their_requests_is_written_out_and_put_together_from_nothing():
    """``what`` is exported as an attribute: a phrase made with an f-string could carry an id."""
    methods = {"_read", "_read_all", "_send", "_ask", "_batch", "translated", "_sent"}
    for file in [*(ROOT / "clients" / "graph").glob("*.py"), ROOT / "clients" / "sentinel.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", "")) in methods
            ):
                assert not any(isinstance(part, ast.JoinedStr) for part in _phrases(node)), (
                    f"{file.name}:{node.lineno}"
                )


def _phrases(call):
    """The arguments that may be ``what``: urls and paths are f-strings and stand elsewhere."""
    place = (
        2
        if getattr(call.func, "attr", "") in ("_send", "_read")
        and len(call.args) > 2
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value in ("GET", "POST", "PUT")
        else 0
    )
    return call.args[place : place + 1]


def test_names_are_unique_and_every_attribute_of_a_measurement_is_bounded():
    assert len({metric.name for metric in words.METRICS}) == len(words.METRICS)
    assert all(name in words.ATTRIBUTES for metric in words.METRICS for name in metric.attributes)
    assert set(words.SPANS) == set(SpanName)


def test_entries_that_count_as_a_state_are_kinds_of_the_ledger():
    assert set(EntryKind) >= _COMES_INTO


def test_triggers_are_the_functions_of_the_app():
    assert set(words.TRIGGERS.split()) == set(_HANDLERS)


def test_the_setting_is_in_the_table():
    assert [setting.default for setting in SETTINGS if setting.name == NAME] == [""]
