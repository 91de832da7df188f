"""The OpenAPI document says what the app does: its routes, its roles, and the shapes of real answers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from desk_app import desk, identity
from jsonschema import Draft202012Validator
from test_signals import INTEL, SOURCES, body

from handlers import sweeps
from handlers.auth import Role
from handlers.openapi import OPERATIONS, document

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = document()
METHODS = {"get", "put", "post", "delete", "patch"}


def operations():
    for path, item in DOCUMENT["paths"].items():
        for method, described in item.items():
            yield path, method, described


def declared():
    """Routes that ``function_app`` declares, as (function, method, path); an optional last part gives two paths."""
    code = (
        "import json, function_app as f; "
        "print(json.dumps({x.get_function_name(): x.get_function_json() for x in f.app.get_functions()}))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name, text in json.loads(printed).items():
        for binding in json.loads(text)["bindings"]:
            if binding["type"] != "httpTrigger":
                continue
            for method in binding["methods"]:
                route = f"/api/{binding['route']}"
                optional = re.search(r"/\{(\w+)\?\}$", route)
                paths = [route[: optional.start()], route.replace("?", "")] if optional else [route]
                yield from ((name, method, path) for path in paths)


def test_every_route_of_the_app_is_in_it_and_no_other():
    assert {(op.function, op.method, op.path) for op in OPERATIONS} == set(declared())


def test_every_route_of_the_documentation_is_in_it():
    page = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"`(GET|POST|PUT) (/api/[^`\[ ]*)", page))

    assert named == {(op.method, op.path) for op in OPERATIONS}


def test_every_schema_is_valid_json_schema_2020_12():
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["jsonSchemaDialect"] == Draft202012Validator.META_SCHEMA["$id"]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to():
    text = json.dumps(DOCUMENT)
    referred = set(re.findall(r"#/components/schemas/(\w+)", text))

    assert referred == set(DOCUMENT["components"]["schemas"])


def test_operations_have_what_openapi_requires():
    ids = [described["operationId"] for _, _, described in operations()]
    assert len(ids) == len(set(ids))
    for path, method, described in operations():
        assert method in METHODS
        assert described["responses"]
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in described["responses"])
        assert all(answer["description"] for answer in described["responses"].values())
        inside = {p["name"] for p in described.get("parameters", ()) if p["in"] == "path"}
        assert inside == set(re.findall(r"\{(\w+)\}", path))


def test_roles_are_those_of_the_app_and_only_health_is_open():
    for path, _, described in operations():
        if path == "/api/health":
            assert described["security"] == []
        else:
            ((role,),) = [next(iter(need.values())) for need in described["security"]]
            assert role in set(Role)


def answered_as_described(path, method, answer):
    """Check a real answer against the schema of its status."""
    described = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status) in described, (path, answer.status, answer.body)
    schema = described[str(answer.status)]["content"]["application/json"]["schema"]
    whole = schema | {"components": DOCUMENT["components"]}
    Draft202012Validator(whole).validate(json.loads(answer.text()))


@pytest.fixture
async def app(tmp_path, quick_turns):
    async with desk(tmp_path, SIGNAL_SOURCES=SOURCES) as opened:
        yield opened


async def test_real_answers_have_the_shapes_that_are_described(app):
    who = {"principalId": app.rogue.object_id}
    signal = await app.call("signals", body=body(app), headers=identity("Signal.Submit", oid=INTEL))
    answered_as_described("/api/signals", "post", signal)
    dry = await app.compromise(app.rogue.object_id, dryRun=True)
    answered_as_described("/api/principals/{principalId}/compromise", "post", dry)
    pulled = await app.compromise(app.rogue.object_id)
    assert pulled.status == 200
    answered_as_described("/api/principals/{principalId}/compromise", "post", pulled)
    answered_as_described("/api/containments", "get", await app.call("containments"))
    one = await app.call("containments", route={"id": pulled.body["id"]})
    answered_as_described("/api/containments/{id}", "get", one)
    answered_as_described("/api/principals/{principalId}", "get", await app.call("principal", route=who))
    answered_as_described("/api/notifications", "get", await app.call("notifications"))
    retried = await app.call("retry_notifications", body={})
    answered_as_described("/api/notifications/retry", "post", retried)
    answered_as_described("/api/dormant", "get", await app.call("dormant"))
    await sweeps.sweep_dormant(app.process)
    report = await app.call("dormant")
    assert report.status == 200
    answered_as_described("/api/dormant", "get", report)
    answered_as_described("/api/readiness", "get", await app.call("readiness"))
    stopped = await app.call("killswitch", body={"stopped": True, "reason": "drill"})
    answered_as_described("/api/killswitch", "put", stopped)
    incident = app.estate.sentinel.raise_incident("x", principals=[app.rogue], rule_id="AG-04")
    answered_as_described("/api/incidents", "post", await app.incident(incident))
    described = await app.call("openapi")
    answered_as_described("/api/openapi.json", "get", described)
    assert json.loads(described.text()) == json.loads(json.dumps(DOCUMENT))


async def test_errors_have_the_described_shape(app):
    answered_as_described(
        "/api/signals", "post", await app.call("signals", body={}, headers=identity("Signal.Submit"))
    )
    answered_as_described("/api/signals", "post", await app.call("signals", body={}, headers={}))
    answered_as_described(
        "/api/containments/{id}", "get", await app.call("containments", route={"id": "none"})
    )


def accepts(model, said):
    whole = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENT["components"]}
    return Draft202012Validator(whole).is_valid(said)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"eventId": None}, True),
        ({"ttlMinutes": 4}, False),
        ({"ttlMinutes": 1441}, False),
        ({"confidence": "certain"}, False),
        ({"reason": "x" * 1001}, False),
        ({"tier": "auto"}, False),
    ],
)
async def test_the_described_body_is_the_one_that_is_taken(app, changes, fits):
    said = body(app, **changes)

    answer = await app.call("signals", body=said, headers=identity("Signal.Submit", oid=INTEL))

    assert accepts("SignalBody", said) is fits
    assert (answer.status == 200) is fits
