"""
``GET /api/openapi.json``: the API as OpenAPI 3.1, made from the models that bodies are checked with.

``OPERATIONS`` is the table of routes; a test compares it with what ``function_app`` declares. Reading it needs
``Containment.Read``: nothing in this API but "it lives" is told to strangers, and whoever integrates gets the file
from whoever operates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from handlers import answers, models
from handlers.auth import Role, caller, require
from handlers.http import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from handlers.process import Process

VERSION: Final = "1"
_REFERENCE: Final = "#/components/schemas/{model}"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One route. ``answers`` are successes; ``errors`` what goes wrong beyond what every route may answer.

    A status with several models answers one of them. ``query`` gives name and meaning of what may be asked.
    """

    function: str
    method: str
    path: str
    role: Role | None
    summary: str
    answers: Mapping[int, tuple[type[BaseModel], ...]]
    body: type[BaseModel] | None = None
    errors: Mapping[int, str] | None = None
    query: Mapping[str, str] | None = None


OPERATIONS: Final = (
    Operation(
        "incidents",
        "POST",
        "/api/incidents",
        Role.INCIDENT_SUBMIT,
        "A Sentinel playbook hands over an incident. The body is a pointer; only object.id is used.",
        {200: (models.IncidentAnswer,)},
        models.IncidentBody,
        {403: "Or the incident belongs to another workspace.", 404: "Sentinel has no such incident."},
    ),
    Operation(
        "signals",
        "POST",
        "/api/signals",
        Role.SIGNAL_SUBMIT,
        "Another system says what it thinks of a principal. The same eventId again adds nothing.",
        {200: (models.SignalAnswer,)},
        models.SignalBody,
        {
            403: "Or the caller may not speak for this source.",
            404: "There is no such principal.",
            409: "The eventId was used for another signal.",
            429: "The source's minute is full; Retry-After says how long.",
        },
    ),
    Operation(
        "compromise",
        "POST",
        "/api/principals/{principalId}/compromise",
        Role.EXECUTE,
        "Contain this principal now. 200: pulled, joined or dry run; 202: it waits.",
        {200: (answers.ContainmentAnswer, answers.DryRunAnswer), 202: (answers.ContainmentAnswer,)},
        models.CompromiseBody,
        {
            404: "There is no such principal.",
            409: "A guardrail refused.",
            502: "Or Graph refused, or an earlier try failed.",
        },
    ),
    Operation(
        "containments",
        "GET",
        "/api/containments",
        Role.READ,
        "List containments, the newest first.",
        {200: (answers.ContainmentList,)},
        query={
            "state": "Only those in this state.",
            "principalId": "Only those of this principal.",
            "since": "Only those opened at or after this time, ISO 8601 with a zone.",
        },
    ),
    Operation(
        "containments",
        "GET",
        "/api/containments/{id}",
        Role.READ,
        "Read one containment.",
        {200: (models.ContainmentView,)},
        errors={404: "There is none with this id."},
    ),
    Operation(
        "approval",
        "POST",
        "/api/containments/{id}/approval",
        Role.APPROVE,
        "Approve or reject what waits for people. 200: decided and done; 202: more people, or Graph, are waited for.",
        {200: (answers.ContainmentAnswer,), 202: (answers.ContainmentAnswer,)},
        models.ApprovalBody,
        {
            404: "There is none with this id.",
            409: "The decision does not count.",
            502: "Or the lever failed.",
        },
    ),
    Operation(
        "undo",
        "POST",
        "/api/containments/{id}/undo",
        Role.EXECUTE,
        "Take back every lever that was pulled. 202: Graph has not accepted yet.",
        {200: (answers.UndoAnswer,), 202: (answers.UndoAnswer,)},
        models.UndoBody,
        {
            404: "There is none with this id.",
            409: "Nothing to undo, or dismissAllRisk has to be true: wouldDismiss says what goes with it.",
            502: "Or it could not be taken back.",
        },
    ),
    Operation(
        "principal",
        "GET",
        "/api/principals/{principalId}",
        Role.READ,
        "Read the dossier of one principal.",
        {200: (answers.Dossier,)},
        errors={404: "There is no such principal."},
    ),
    Operation(
        "killswitch",
        "PUT",
        "/api/killswitch",
        Role.APPROVE,
        "Stop every lever at once, or let them work again.",
        {200: (answers.KillSwitchAnswer,)},
        models.KillSwitchBody,
        {409: "Others are changing it at this moment."},
    ),
    Operation(
        "notifications",
        "GET",
        "/api/notifications",
        Role.READ,
        "List what the webhook did not take.",
        {200: (models.DeadLetters,)},
    ),
    Operation(
        "retry_notifications",
        "POST",
        "/api/notifications/retry",
        Role.EXECUTE,
        "Put it all back into the outbox; the settle timer sends it.",
        {202: (models.Retried,)},
    ),
    Operation(
        "readiness",
        "GET",
        "/api/readiness",
        Role.READ,
        "Every precondition: true, false or null (not known), with the reason.",
        {200: (answers.Readiness,)},
    ),
    Operation(
        "dormant",
        "GET",
        "/api/dormant",
        Role.READ,
        "Read the newest report on principals that nobody uses and that could still act.",
        {200: (answers.DormantPage,)},
        errors={404: "There is no report yet."},
        query={"page": "From 1 on."},
    ),
    Operation(
        "openapi",
        "GET",
        "/api/openapi.json",
        Role.READ,
        "This document.",
        {200: ()},
    ),
    Operation(
        "health",
        "GET",
        "/api/health",
        None,
        "It lives.",
        {200: (answers.Health,)},
    ),
)
_ANY_ERROR: Final = {
    500: "The app failed; the cause is in its log.",
    502: "A service refused or answered something else; permission_missing: see /api/readiness.",
    503: "Store, settings or a service unavailable: send the same call again.",
}


async def openapi(request: Request, process: Process) -> Response:
    """Give the document."""
    require(caller(request, process.settings), Role.READ)
    return Response(200, document())


def document() -> dict[str, Any]:
    """Make the OpenAPI 3.1 document. The same for every installation."""
    sent: set[type[BaseModel]] = {op.body for op in OPERATIONS if op.body}
    shown = {model for op in OPERATIONS for each in op.answers.values() for model in each}
    shown.add(answers.ErrorAnswer)
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in sent]
    wanted += [(model, "serialization") for model in shown]
    wanted.sort(key=lambda pair: pair[0].__name__)
    _, schemas = models_json_schema(wanted, by_alias=True, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agentbreaker",
            "version": VERSION,
            "description": "Times are UTC, ISO 8601. Every error is {error: {code, message, details}}.",
        },
        "jsonSchemaDialect": _DIALECT,
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "entra": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token of Microsoft Entra for this API, with the app role that the operation names.",
                }
            },
        },
    }


def _operation(op: Operation) -> dict[str, Any]:
    errors = dict(_ANY_ERROR)
    if op.role is not None:
        errors |= {401: "Nobody trustworthy says who calls.", 403: f"The caller lacks {op.role}."}
    if op.body is not None or op.query or "{principalId}" in op.path:
        errors[400] = "The call does not have this shape; details name every fault."
    if op.body is not None:
        errors[413] = "The body is larger than a megabyte."
    for status, meaning in (op.errors or {}).items():
        errors[status] = f"{errors[status]} {meaning}" if status in errors else meaning
    if op.role is None:  # it touches nothing that could fail
        errors = {}
    described: dict[str, Any] = {
        "operationId": f"{op.function}_one" if op.path.endswith("{id}") else op.function,
        "summary": op.summary,
        "security": [] if op.role is None else [{"entra": [str(op.role)]}],
        "responses": {
            **{str(status): _success(each) for status, each in op.answers.items()},
            **{str(status): _error(status, errors[status]) for status in sorted(errors)},
        },
    }
    if op.body is not None:
        described["requestBody"] = {"required": True, "content": _json(_ref(op.body))}
    if parameters := _parameters(op):
        described["parameters"] = parameters
    return described


def _parameters(op: Operation) -> list[dict[str, Any]]:
    found = []
    for part in op.path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            schema = {"type": "string", "format": "uuid"} if name == "principalId" else {"type": "string"}
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, meaning in (op.query or {}).items():
        text = {"type": "string"}
        found.append({"name": name, "in": "query", "required": False, "description": meaning, "schema": text})
    return found


def _success(each: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    if not each:
        return {"description": "An OpenAPI document.", "content": _json({"type": "object"})}
    schema = _ref(each[0]) if len(each) == 1 else {"anyOf": [_ref(model) for model in each]}
    summaries = [(model.__doc__ or "").strip().splitlines()[0] for model in each]
    return {"description": " Or: ".join(summaries), "content": _json(schema)}


def _error(status: int, meaning: str) -> dict[str, Any]:
    described: dict[str, Any] = {"description": meaning, "content": _json(_ref(answers.ErrorAnswer))}
    if status == 429:
        described["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return described


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
