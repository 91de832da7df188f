"""One containment, told: one trace from the trigger to the ledger, the right numbers, and nothing that names anybody."""

import asyncio
import importlib
import re
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
from azure.monitor.opentelemetry.exporter.export.metrics._exporter import (
    APPLICATION_INSIGHTS_METRIC_TEMPORALITIES,
)
from desk_app import Fixed, identity
from opentelemetry import context
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from clients import telemetry
from clients.stores import Put
from clients.telemetry import azure, words
from clients.telemetry.otel import OtelBackend
from clients.telemetry.words import SpanName
from handlers import edge
from response import turns
from simtenant.faults import Fault  # noqa: F401  # the kind of fault used below

SETTLES = 3
OURS = {"agentbreaker", "Microsoft Graph"}  # what we are called, and whom we ask: nobody's agents


def incident_about(app):
    return app.estate.sentinel.raise_incident(
        "Agent reads Key Vault for the first time",
        principals=[app.rogue],
        rule_id=sentinel_rule(app, "AG-04"),
        custom_details={
            "ServicePrincipalId": [app.rogue.object_id],
            "AppId": [app.rogue.app_id],
            "DetectionId": ["AG-04"],
            "Confidence": ["high"],
        },
    )


def sentinel_rule(app, rule_id):
    return next(str(rule.sentinel_id) for rule in app.process.rules if rule.id == rule_id)


def refuse_sign_in(app):
    """The row that Entra writes when the block bites."""
    at = app.process.world.now()
    app.estate.engine.insert(
        "AADServicePrincipalSignInLogs",
        [
            {
                "TimeGenerated": at,
                "CreatedDateTime": at,
                "Id": "a1a1a1a1-0000-4000-8000-00000000000f",
                "ServicePrincipalId": app.rogue.object_id,
                "ResultType": "53003",
                "ConditionalAccessPolicies": f'[{{"id": "{app.estate.policy_id}", "result": "failure"}}]',
            }
        ],
    )


async def tell(app):
    """The whole story: an incident, the lever, the effect read back, the refused sign-in."""
    response = await app.incident(incident_about(app))
    assert response.status == 200, response.body
    await edge.tick("settle", Fixed(app.process))
    refuse_sign_in(app)
    for _ in range(SETTLES):
        await edge.tick("settle", Fixed(app.process))
    (found,) = await app.containments()
    assert found["state"] == "proven"
    return found


def names_of(app):
    """Everything that names somebody in this tenant, and every secret of it."""
    tenant = app.estate.tenant
    for principal in (
        tenant.principals.values() if hasattr(tenant.principals, "values") else tenant.principals
    ):
        yield principal.object_id
        yield principal.app_id
        if principal.display_name not in OURS:
            yield principal.display_name
        if principal.secret:
            yield principal.secret
    yield app.estate.policy_id
    yield tenant.settings.tenant_id
    yield tenant.settings.workspace_id


def assert_nobody_is_named(app, said, *more):
    told = [
        name for name in {*names_of(app), *more} if name and len(name) > 3 and name.lower() in said.lower()
    ]
    assert told == []
    assert "eyJ" not in said  # how every JWT begins
    assert "http://" not in said.replace("https://", "http://").replace("http://127.0.0.1", "")


async def test_one_containment_is_one_trace_from_the_trigger_to_the_ledger(app, heard):
    await tell(app)

    trigger = heard.spans(SpanName.TRIGGER)[0]
    story = [span for span in heard.spans() if span.context.trace_id == trigger.context.trace_id]
    assert {span.name for span in story} == {
        SpanName.TRIGGER,
        SpanName.ARM_CALL,
        SpanName.DECISION,
        SpanName.GRAPH_CALL,
        SpanName.LOG_QUERY,
        SpanName.LEDGER_COMMIT,
        SpanName.PULL,
        SpanName.VERIFICATION,
    } - ({SpanName.LOG_QUERY} - {span.name for span in story})
    (pull,) = [span for span in story if span.name == SpanName.PULL]
    confirm = [s for s in story if s.name == SpanName.GRAPH_CALL and s.parent.span_id == pull.context.span_id]
    assert [s.attributes["agentbreaker.operation"] for s in confirm] == ["confirm compromised"]
    states = [s.attributes["agentbreaker.state"] for s in story if s.name == SpanName.VERIFICATION]
    assert states == ["confirmed", "proven"]
    ids = {span.context.span_id for span in story}
    assert all(span.parent.span_id in ids for span in story if span is not trigger)


async def test_the_runs_own_trigger_continues_the_hosts_trace(app, heard):
    # As azure_functions_runtime does before an invocation (otel.configure_opentelemetry).
    header = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    token = context.attach(TraceContextTextMapPropagator().extract(header))
    try:
        await app.call("containments")
    finally:
        context.detach(token)

    (trigger,) = heard.spans(SpanName.TRIGGER)
    assert f"{trigger.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{trigger.parent.span_id:016x}" == "b7ad6b7169203331"


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="NOT RUN: Microsoft's runtime package needs Python 3.13"
)
async def test_microsofts_runtime_hands_its_trace_over(app, heard):
    runtime = importlib.import_module("azure_functions_runtime.otel")
    runtime.update_opentelemetry_status()  # what PYTHON_ENABLE_OPENTELEMETRY=true makes the worker do
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    invocation = SimpleNamespace(trace_context=SimpleNamespace(trace_parent=parent, trace_state=""))

    async def invoked():
        runtime.configure_opentelemetry(invocation)
        await app.call("containments")

    await asyncio.create_task(invoked())

    (trigger,) = heard.spans(SpanName.TRIGGER)
    assert f"{trigger.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


async def test_the_numbers_are_right(app, heard):
    await tell(app)

    assert heard.count(words.FINDINGS, rule="AG-04", source="incident", tier="auto") == 1
    assert heard.count(words.DECISIONS, verdict="contain", mode="enforce") == 1
    states = {
        state: heard.count(words.CONTAINMENTS, state=state)
        for state in ("claimed", "pulled", "confirmed", "proven")
    }
    assert states == {"claimed": 1, "pulled": 1, "confirmed": 1, "proven": 1}
    kinds = await app.ledger_kinds()
    assert heard.count(words.ENTRIES) == len(kinds)
    assert heard.count(words.TIME_TO_CONFIRM) == heard.count(words.TIME_TO_PROOF) == 1
    ((_, confirm),) = heard.points(words.TIME_TO_CONFIRM)
    assert 0 <= confirm.sum < 60
    assert heard.count(words.LEDGER_CHECKS, outcome="intact") == 1
    assert heard.count(words.SERVICE_ERRORS) == 0


async def test_no_object_id_name_app_id_or_token_leaves_the_sdk(app, heard):
    found = await tell(app)
    await app.call("principal", route={"principalId": app.rogue.object_id})
    await app.call("containments", headers=identity("Containment.Execute"))

    assert_nobody_is_named(app, heard.everything(), found["principalName"])


async def test_every_byte_that_leaves_for_application_insights_names_nobody(app, insights):
    backend = azure.backend(insights.connection_string, None)
    telemetry.switch_on(backend)
    try:
        found = await tell(app)
        await asyncio.to_thread(backend.flush, 10)
    finally:
        telemetry.switch_on(None)
        await asyncio.to_thread(backend.close)

    assert set(insights.paths) == {"/v2.1/track"}
    said = b"\n".join(insights.bodies).decode()
    kinds = {envelope["data"]["baseType"] for envelope in insights.envelopes()}
    assert kinds == {"RemoteDependencyData", "MetricData", "MessageData"}
    assert_nobody_is_named(app, said, found["principalName"])
    guids = set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", said))
    assert guids == {"00000000-0000-4000-8000-0000000000aa"}  # the instrumentation key


@pytest.mark.parametrize("fault", ["refuses", "hangs", "is not there"])
async def test_an_endpoint_that_fails_or_hangs_keeps_no_containment_waiting(app, insights, fault):
    connection = insights.connection_string
    if fault == "refuses":
        insights.status = 500
    elif fault == "hangs":
        insights.release.clear()
    else:
        connection = (
            f"InstrumentationKey={'0' * 8}-0000-4000-8000-0000000000aa;IngestionEndpoint=http://127.0.0.1:9"
        )
    backend = azure.backend(connection, None, retry_total=0)
    telemetry.switch_on(backend)
    try:
        with telemetry.span(SpanName.TRIGGER, trigger="settle"):
            pass
        sending = asyncio.create_task(asyncio.to_thread(backend.flush, 10))
        if fault != "is not there":
            assert await asyncio.to_thread(insights.asked.wait, 10)
        # The exporter is at it now, and while it hangs nothing it was given is answered.
        await tell(app)
        hung = fault == "hangs"
        assert insights.release.is_set() is not hung
    finally:
        telemetry.switch_on(None)
        insights.release.set()
        await sending
        await asyncio.to_thread(backend.close)
    assert app.confirms() == 1


async def test_a_graph_that_says_no_is_counted_and_its_exception_is_a_type(app, heard):
    app.estate.tenant.revoke_app_roles(app.estate.app) if hasattr(
        app.estate.tenant, "revoke_app_roles"
    ) else None
    before = heard.count(words.SERVICE_ERRORS)
    await app.call("principal", route={"principalId": "99999999-0000-4000-8000-000000000009"})

    assert heard.count(words.SERVICE_ERRORS, service="Microsoft Graph", status=404) >= before
    assert not any(span.events for span in heard.spans())
    assert all(span.status.description is None for span in heard.spans())


async def test_a_caller_without_its_app_role_is_counted(app, heard):
    answer = await app.call("killswitch", headers=identity("Containment.Read"), body={"stopped": True})

    assert answer.status == 403
    assert heard.count(words.REFUSED_CALLS, trigger="killswitch", code="missing_role") == 1


async def test_a_sweep_measures_watermarks_queries_and_partial_answers(app, heard):
    await edge.tick("sweep_fast", Fixed(app.process))

    rules = {rule.id for rule in app.process.rules if rule.sweep == "fast"}
    assert {attributes["rule"] for attributes, _ in heard.points(words.WATERMARK_AGE)} == rules
    assert all(point.max < 60 for _, point in heard.points(words.WATERMARK_AGE))
    assert heard.count(words.QUERY_TIME, outcome="complete") == len(rules)
    assert heard.count(words.SWEEPS, group="fast", outcome="ok") == 1
    assert {span.attributes["agentbreaker.rule"] for span in heard.spans(SpanName.RULE_QUERY)} == rules


async def test_a_rule_whose_watermark_cannot_be_read_is_counted_as_failed(app, heard):
    rule, *others = [rule for rule in app.process.rules if rule.sweep == "fast"]
    await app.process.world.store.commit([Put(f"watermark:{rule.id}", {"until": "nonsense"})])

    await edge.tick("sweep_fast", Fixed(app.process))

    assert heard.count(words.RULE_SWEEPS, rule=rule.id, outcome="failed") == 1
    for other in others:
        assert heard.count(words.RULE_SWEEPS, rule=other.id, outcome="ok") == 1


async def test_waiting_for_the_tenants_turn_is_measured(app, heard):
    began = app.process.world.now()
    moments = iter(
        [began, began, began + timedelta(minutes=1)]
    )  # the second try finds the turn taken, the third free
    queue = turns.Turns(app.process.world.store, lambda: next(moments))
    await queue.take()
    await queue.take()

    assert heard.count(words.QUOTA_WAITS) == 1
    ((_, point),) = heard.points(words.QUOTA_WAITS)
    assert point.sum > 0


def test_a_histogram_says_nothing_where_nothing_was_recorded_since():
    """The dead-man alert depends on it: a gauge would go on repeating the last age of a dead sweep."""
    assert APPLICATION_INSIGHTS_METRIC_TEMPORALITIES[Histogram] is AggregationTemporality.DELTA
    reader = InMemoryMetricReader(preferred_temporality=APPLICATION_INSIGHTS_METRIC_TEMPORALITIES)
    backend = OtelBackend(metrics=[reader])
    backend.measure(words.WATERMARK_AGE, 5, {"rule": "AG-04"})
    first, second = reader.get_metrics_data(), reader.get_metrics_data()
    backend.close()

    assert first is not None
    assert second is None or not [
        m for r in second.resource_metrics for s in r.scope_metrics for m in s.metrics
    ]


async def test_a_trace_is_kept_with_the_record_and_only_where_there_is_one(app, heard):
    await app.incident(incident_about(app))
    telemetry.switch_on(None)
    bodies = [record.body for record in await app.process.world.store.scan("containment:")]

    assert [body["trace"][:3] for body in bodies] == ["00-"]
