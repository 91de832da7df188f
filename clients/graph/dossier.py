"""Who answers for a principal and what it may do: five questions in one ``$batch`` request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from clients.errors import Malformed, error_code, from_status
from clients.fields import part, text
from clients.graph.calls import SERVICE, GraphCalls, translated
from clients.terms import Dossier, Kind, Mark, Person, ServicePrincipal, Unknown, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clients.terms import ObjectId

_GRAPH_APP_ID: Final = "00000003-0000-0000-c000-000000000000"
_SET, _ATTRIBUTE = "Agentbreaker", "Containment"
_HAVE_SPONSORS: Final = frozenset({Kind.AGENT_IDENTITY, Kind.AGENT_BLUEPRINT})

Answer = tuple[int, "Mapping[str, Any]"]
"""Status and body of one answer in a batch."""


class Dossiers(GraphCalls):
    """Evidence about a principal that many a decision wants and that costs one call."""

    _role_names: Mapping[str, str] | None = None
    """Names of Microsoft Graph's app roles by id, once read: they do not change while a process lives."""

    async def dossier(self, principal: ServicePrincipal) -> Dossier:
        """
        Read owners, sponsors, app roles, directory roles and the mark of a principal, in one request.

        What one of the questions meets (no permission, throttling, more than one page) makes that part Unknown and
        no other. Directory roles are those assigned to the principal itself; what it has through a group is not seen.
        App roles of other resources than Microsoft Graph are named by their id.

        Permissions: Application.Read.All; RoleManagement.Read.Directory for directory roles; AgentIdentity.Read.All
        for sponsors; CustomSecAttributeAssignment.Read.All for the mark. Raises: Refused; Throttled; Unavailable of
        the whole request; Malformed.
        Source: Graph v1.0 "Combine multiple HTTP requests using JSON batching", at most 20 in one.
        """
        wanted = object_id(principal.object_id)
        questions = {
            "owners": f"/servicePrincipals/{wanted}/owners?$select=id,displayName",
            "assignments": f"/servicePrincipals/{wanted}/appRoleAssignments",
            "directoryRoles": f"/roleManagement/directory/roleAssignments?$filter=principalId%20eq%20'{wanted}'",
            "mark": f"/servicePrincipals/{wanted}?$select=id,customSecurityAttributes",
        }
        if principal.kind in _HAVE_SPONSORS:
            questions["sponsors"] = f"/servicePrincipals/{wanted}/sponsors"
        if self._role_names is None:
            questions["roleNames"] = f"/servicePrincipals(appId='{_GRAPH_APP_ID}')?$select=id,appRoles"
        answers = await self._batch(questions)
        if self._role_names is None:
            self._role_names = _names_of(answers.get("roleNames"))
        return Dossier(
            owners=_people(answers.get("owners")),
            sponsors=_people(answers.get("sponsors")) if principal.kind in _HAVE_SPONSORS else (),
            app_roles=_roles(answers.get("assignments"), self._role_names or {}),
            directory_roles=_directory_roles(answers.get("directoryRoles")),
            mark=_mark(answers.get("mark"), wanted),
        )

    async def _batch(self, questions: Mapping[str, str]) -> dict[str, Answer]:
        """Ask several questions in one request; give the answers by name. One that is missing is missing."""
        from kiota_abstractions.method import Method
        from kiota_abstractions.request_information import RequestInformation

        body = {"requests": [{"id": name, "method": "GET", "url": url} for name, url in questions.items()]}
        request = RequestInformation()
        request.http_method, request.url = Method.POST, f"{self._base_url}/v1.0/$batch"
        request.headers.try_add("Accept", "application/json")
        request.set_stream_content(json.dumps(body).encode(), "application/json")
        what = "read owners, roles and mark"

        async def ask() -> Any:
            adapter: Any = self._graph.request_adapter
            span = adapter.start_tracing_span(request, "batch")
            try:
                answer = await adapter.get_http_response_message(request, span)
            finally:
                span.end()
            if answer.status_code != 200:
                code, headers = error_code(answer), dict(answer.headers)
                raise from_status(SERVICE, what, answer.status_code, code=code, headers=headers)
            return json.loads(answer.content)

        found = await translated(what, ask)
        responses = found.get("responses") if isinstance(found, dict) else None
        if not isinstance(responses, list) or not all(isinstance(one, dict) for one in responses):
            raise Malformed(SERVICE, f"{what}: no list of responses")
        return {text(one, "id"): (int(one.get("status") or 0), part(one, "body")) for one in responses}


def _items(answer: Answer | None, what: str) -> Sequence[Mapping[str, Any]] | Unknown:
    """Give a list that is whole, or say why not."""
    if answer is None:
        return Unknown(f"{what}: Graph gave no answer to this part")
    status, body = answer
    if status != 200:
        code = text(part(body, "error"), "code")
        return Unknown(f"{what}: HTTP {status}" + (f", {code[:80]}" if code else ""))
    if body.get("@odata.nextLink"):
        return Unknown(f"{what}: more than one page")
    found = body.get("value")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        return Unknown(f"{what}: no list")
    return found


def _people(answer: Answer | None) -> tuple[Person, ...] | Unknown:
    found = _items(answer, "owners or sponsors")
    if isinstance(found, Unknown):
        return found
    return tuple(Person(text(one, "id").lower(), text(one, "displayName")[:200]) for one in found)


def _names_of(answer: Answer | None) -> Mapping[str, str] | None:
    if answer is None or answer[0] != 200 or not isinstance(answer[1].get("appRoles"), list):
        return None
    roles = [role for role in answer[1]["appRoles"] if isinstance(role, dict)]
    return {text(role, "id").lower(): text(role, "value") for role in roles if text(role, "value")}


def _roles(answer: Answer | None, names: Mapping[str, str]) -> frozenset[str] | Unknown:
    found = _items(answer, "app roles")
    if isinstance(found, Unknown):
        return found
    ids = [(text(one, "resourceDisplayName")[:200], text(one, "appRoleId").lower()) for one in found]
    return frozenset(f"{resource}/{names.get(role, role)}" for resource, role in ids)


def _directory_roles(answer: Answer | None) -> frozenset[str] | Unknown:
    """Give template ids: of a built-in role the definition's id is the template's."""
    found = _items(answer, "directory roles")
    if isinstance(found, Unknown):
        return found
    return frozenset(text(one, "roleDefinitionId").lower() for one in found)


def _mark(answer: Answer | None, wanted: ObjectId) -> Mark | Unknown | None:
    if answer is None:
        return Unknown("mark: Graph gave no answer to this part")
    status, body = answer
    if status != 200:
        return Unknown(f"mark: HTTP {status}")
    if text(body, "id").lower() != wanted:
        return Unknown("mark: another principal was answered")
    value = part(part(body, "customSecurityAttributes"), _SET).get(_ATTRIBUTE)
    if value in (None, ""):
        return None
    known = {mark.value: mark for mark in Mark}
    mark = known.get(value.strip().lower()) if isinstance(value, str) else None
    return mark or Unknown("mark: its value is none of protected, approval, auto")
