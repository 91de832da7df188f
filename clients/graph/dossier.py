"""Who answers for a principal and what it may do: its parts asked in one ``$batch`` request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from clients import telemetry
from clients.errors import ClientError, Malformed
from clients.fields import part, text
from clients.graph.calls import SERVICE
from clients.graph.inventory import Inventory
from clients.telemetry.words import SERVICE_ERRORS
from clients.terms import Dossier, Kind, Mark, ObjectId, Person, ServicePrincipal, Unknown, is_guid, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SET, _ATTRIBUTE = "Agentbreaker", "Containment"
_MAY_READ_MARKS: Final = frozenset(
    {"CustomSecAttributeAssignment.Read.All", "CustomSecAttributeAssignment.ReadWrite.All"}
)
# Sponsors are of these two types only, so they are asked for through a cast (agentidentity-list-sponsors.md).
_HAVE_SPONSORS: Final = {
    Kind.AGENT_IDENTITY: "microsoft.graph.agentIdentity",
    Kind.AGENT_BLUEPRINT: "microsoft.graph.agentIdentityBlueprintPrincipal",
}


@dataclass(frozen=True, slots=True)
class _Question:
    """One request inside the batch. ``advanced``: an advanced query of the directory."""

    url: str
    advanced: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer inside the batch; ``status`` 0: it names none."""

    status: int
    body: Mapping[str, Any]


class Dossiers(Inventory):
    """Evidence about a principal that many a decision wants and that costs one call."""

    _role_names: dict[ObjectId, dict[str, str]]
    """Names of the roles that a resource offers, by role id, once read; read anew for an id that is not among them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._role_names = {}

    async def dossier(self, principal: ServicePrincipal) -> Dossier:
        """
        Read owners, sponsors, app roles, directory roles and the mark of a principal, in one request.

        What one of the questions meets (no permission, throttling, more than one page, no answer) makes that part
        Unknown and no other. App roles are Unknown too where a resource does not say what its roles are called: a
        role without a name would pass for a harmless one. Directory roles are the principal's own and those through
        groups. Role names of a resource that is not known yet take one read more.

        Permissions: Application.Read.All; RoleManagement.Read.Directory for directory roles;
        CustomSecAttributeAssignment.Read.All for the mark, which Graph shows as null to who has not got it: without
        it the mark is Unknown, never None. Raises: Refused; Throttled; Unavailable of the whole request; Malformed.
        Source: Graph v1.0 "Combine multiple HTTP requests using JSON batching", at most 20 in one.
        """
        wanted = object_id(principal.object_id)
        item = f"/servicePrincipals/{wanted}"
        questions = {
            "owners": _Question(f"{item}/owners?$select=id,displayName"),
            "assignments": _Question(f"{item}/appRoleAssignments"),
            "directoryRoles": _Question(
                f"/roleManagement/directory/roleAssignments?$filter=principalId%20eq%20'{wanted}'"
            ),
            # Those through groups are only here; it answers from an index that lags, so it is not asked alone.
            "memberships": _Question(
                f"{item}/transitiveMemberOf/microsoft.graph.directoryRole?$select=id,roleTemplateId&$count=true",
                advanced=True,
            ),
            "mark": _Question(f"{item}?$select=id,customSecurityAttributes"),
        }
        if cast := _HAVE_SPONSORS.get(principal.kind):
            questions["sponsors"] = _Question(f"{item}/{cast}/sponsors?$select=id,displayName")
        answers = await self._batch("read owners, roles and mark", questions)
        return Dossier(
            owners=_people(answers.get("owners"), "owners"),
            sponsors=_people(answers.get("sponsors"), "sponsors") if cast else (),
            app_roles=await self._app_roles_in(answers.get("assignments")),
            directory_roles=_directory_roles(answers.get("directoryRoles"), answers.get("memberships")),
            mark=await self._mark_in(answers.get("mark"), wanted),
        )

    async def _batch(self, what: str, questions: Mapping[str, _Question]) -> dict[str, _Answer]:
        """Ask several questions in one request; give the answers by name. One that is missing is missing."""
        body = {"requests": [_as_inner(name, one) for name, one in questions.items()]}
        found = await self._ask(what, f"{self._base_url}/v1.0/$batch", body)
        responses = found.get("responses")
        if not isinstance(responses, list) or not all(isinstance(one, dict) for one in responses):
            raise Malformed(SERVICE, f"{what}: no list of responses")
        for one in responses:
            if _status(one) == 429:  # the request around it was answered with 200
                telemetry.measure(SERVICE_ERRORS, service=SERVICE, status=429, error="Throttled")
        return {text(one, "id"): _Answer(_status(one), part(one, "body")) for one in responses}

    async def _app_roles_in(self, answer: _Answer | None) -> frozenset[str] | Unknown:
        found = _items(answer, "app roles", "resourceId", "appRoleId")
        if isinstance(found, Unknown):
            return found
        held: set[str] = set()
        for one in found:
            resource, role = object_id(one["resourceId"]), one["appRoleId"].lower()
            names = await self._names_of(resource, role)
            if isinstance(names, Unknown):
                return names
            held.add(f"{text(one, 'resourceDisplayName')[:200] or resource}/{names.get(role, role)}")
        return frozenset(held)

    async def _names_of(self, resource: ObjectId, role: str) -> Mapping[str, str] | Unknown:
        known = self._role_names.get(resource, {})
        if role in known or role == _NO_ROLE:
            return known
        try:
            # Kept although the role may not be among them: a resource may have dropped it since it was assigned.
            self._role_names[resource] = await self.app_roles(resource)
        except ClientError as error:
            return Unknown(f"app roles: names of a resource's roles not read ({error})")
        return self._role_names[resource]

    async def _mark_in(self, answer: _Answer | None, wanted: ObjectId) -> Mark | Unknown | None:
        mark = _mark(answer, wanted)
        if mark is not None:
            return mark
        try:
            _, held = await self.own_claims()
        except ClientError as error:
            return Unknown(f"mark: whether we may read it is not known ({error})")
        # To who may not read it Graph shows an attribute that is there as null (serviceprincipal-get.md).
        return (
            None
            if held & _MAY_READ_MARKS
            else Unknown("mark: CustomSecAttributeAssignment.Read.All is not held")
        )


# "Default access", of a resource that offers no role: nothing to be named (approleassignment.md).
_NO_ROLE: Final = "00000000-0000-0000-0000-000000000000"


def _as_inner(name: str, one: _Question) -> dict[str, Any]:
    headers = {"headers": {"ConsistencyLevel": "eventual"}} if one.advanced else {}
    return {"id": name, "method": "GET", "url": one.url, **headers}


def _status(one: Mapping[str, Any]) -> int:
    status = one.get("status")
    return status if isinstance(status, int) else 0


def _refusal(answer: _Answer | None, what: str) -> Unknown | None:
    if answer is None:
        return Unknown(f"{what}: Graph gave no answer to this part")
    if answer.status == 200:
        return None
    code = text(part(answer.body, "error"), "code")
    return Unknown(f"{what}: HTTP {answer.status}" + (f", {code[:80]}" if code else ""))


def _items(answer: _Answer | None, what: str, *ids: str) -> Sequence[Mapping[str, Any]] | Unknown:
    """Give a list that is whole and whose items all have the ids named, or say why not."""
    refusal = _refusal(answer, what)
    if refusal is not None or answer is None:
        return refusal or Unknown(what)
    if answer.body.get("@odata.nextLink"):
        return Unknown(f"{what}: more than one page")
    found = answer.body.get("value")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        return Unknown(f"{what}: no list")
    if not all(is_guid(item.get(name)) for item in found for name in ids):
        return Unknown(f"{what}: an item without what it is read for")
    return found


def _people(answer: _Answer | None, what: str) -> tuple[Person, ...] | Unknown:
    found = _items(answer, what, "id")
    if isinstance(found, Unknown):
        return found
    return tuple(Person(one["id"].lower(), text(one, "displayName")[:200]) for one in found)


def _directory_roles(own: _Answer | None, memberships: _Answer | None) -> frozenset[str] | Unknown:
    """Give template ids: of a built-in role the definition's id is the template's."""
    roles: set[str] = set()
    for answer, name in ((own, "roleDefinitionId"), (memberships, "roleTemplateId")):
        found = _items(answer, "directory roles", name)
        if isinstance(found, Unknown):
            return found
        roles |= {one[name].lower() for one in found}
    return frozenset(roles)


def _mark(answer: _Answer | None, wanted: ObjectId) -> Mark | Unknown | None:
    """Read the mark; None where the answer has none, which says little by itself."""
    refusal = _refusal(answer, "mark")
    if refusal is not None or answer is None:
        return refusal
    if text(answer.body, "id").lower() != wanted:
        return Unknown("mark: another principal was answered")
    # It was selected, so Graph gives it, as null where there is none.
    if "customSecurityAttributes" not in answer.body:
        return Unknown("mark: not in the answer")
    attributes = answer.body.get("customSecurityAttributes")
    of_ours = attributes.get(_SET) if isinstance(attributes, dict) else attributes
    if not isinstance(of_ours, dict | None):
        return Unknown("mark: not in the documented shape")
    value = (of_ours or {}).get(_ATTRIBUTE)
    if value in (None, ""):
        return None
    known = {mark.value: mark for mark in Mark}
    mark = known.get(value.strip().lower()) if isinstance(value, str) else None
    return mark or Unknown("mark: its value is none of protected, approval, auto")
