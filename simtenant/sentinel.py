"""
Microsoft Sentinel incidents as Azure Resource Manager serves them, and the body that a playbook passes on.

Sources: ``contracts/sentinel-incidents.subset.yaml`` (routes and shapes), ``facts/sentinel-incident.md`` §2 to §5
and §8 (playbook body), ``facts/azure-platform.md`` §2.4 (limits: 30,000 characters a comment, 100 comments).
A stale etag in the body answers 409 ``Conflict`` ("... exists. Data was not saved"), and so does an update that
carries none: github.com/azsec/azure-sentinel-tools issue 4. That a stale ``If-Match`` answers 412 is ordinary
HTTP and was not seen on the real service.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from aiohttp import web

from simtenant.tenant import Principal, Tenant
from simtenant.tokens import Claims, InvalidTokenError

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

AUDIENCE: Final = "https://management.azure.com"
MAX_COMMENT_CHARACTERS: Final = 30_000
MAX_COMMENTS: Final = 100
_MAX_PAGE: Final = 1_000

_WRITABLE: Final = (
    "title",
    "description",
    "severity",
    "status",
    "classification",
    "classificationReason",
    "classificationComment",
    "firstActivityTimeUtc",
    "lastActivityTimeUtc",
)
_SEVERITIES: Final = frozenset({"High", "Medium", "Low", "Informational"})
_STATUSES: Final = frozenset({"New", "Active", "Closed"})
_NO_OWNER: Final[Mapping[str, object]] = {
    "objectId": None,
    "email": None,
    "assignedTo": None,
    "userPrincipalName": None,
}


class ArmError(Exception):
    """A refusal in the shape Azure Resource Manager uses: ``{"error": {"code", "message"}}``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Comment:
    """One comment on an incident; ``name`` is the id its writer chose."""

    name: str
    message: str
    author: Mapping[str, str]
    created: datetime
    modified: datetime
    version: int = 0


@dataclass
class Incident:
    """
    An incident with its alerts and entities, changed in place as the API changes it.

    ``properties`` holds what the API lets a caller write; numbers, times and counts are kept beside it.
    """

    name: str
    arm_id: str
    workspace_id: str
    number: int
    properties: dict[str, Any]
    labels: list[dict[str, str]]
    owner: dict[str, object]
    rule_ids: list[str]
    tactics: list[str]
    techniques: list[str]
    alerts: list[dict[str, Any]]
    entities: list[dict[str, Any]]
    created: datetime
    modified: datetime
    version: int = 0
    comments: dict[str, Comment] = field(default_factory=dict)
    entities_lag: int = 0
    """How many more reads of entities and alerts find nothing; see ``Sentinel.raise_incident``."""

    @property
    def etag(self) -> str:
        """The quoted etag of the present version."""
        return f'"{self.version}"'

    def resource(self) -> dict[str, Any]:
        """Return the incident as ARM's GET answers it: without alerts, entities and comments."""
        return {
            "id": self.arm_id,
            "name": self.name,
            "etag": self.etag,
            "type": "Microsoft.SecurityInsights/Incidents",
            "properties": {
                **self.properties,
                "owner": {key: value for key, value in self.owner.items() if value is not None},
                "labels": [dict(label) for label in self.labels],
                "lastModifiedTimeUtc": _iso(self.modified),
                "createdTimeUtc": _iso(self.created),
                "incidentNumber": self.number,
                "incidentUrl": f"https://portal.azure.com/#asset/Microsoft_Azure_Security_Insights/Incident{self.arm_id}",
                "providerName": "Azure Sentinel",
                "providerIncidentId": str(self.number),
                "relatedAnalyticRuleIds": list(self.rule_ids),
                "additionalData": {
                    "alertsCount": len(self.alerts),
                    "bookmarksCount": 0,
                    "commentsCount": len(self.comments),
                    "alertProductNames": ["Azure Sentinel"],
                    "tactics": list(self.tactics),
                    "techniques": list(self.techniques),
                },
            },
        }

    def playbook_body(self, *, event: str = "Create") -> dict[str, Any]:
        """
        Return what the Logic App trigger hands to its HTTP action (``@triggerBody()``).

        ``eventUniqueId`` is the same for every call with the same version and ``event``: a redelivery. While
        ``entities_lag`` lasts, alerts and entities are empty here too, as in Azure/Azure-Sentinel issue 9820.
        """
        resource = self.resource()
        lagging = self.entities_lag > 0
        resource["properties"] |= {
            # The trigger sends the four owner fields even when nobody owns the incident, the REST API does not.
            "owner": {**_NO_OWNER, **self.owner},
            "alerts": [] if lagging else self.alerts,
            "relatedEntities": [] if lagging else self.entities,
            "bookmarks": [],
            "comments": [],
        }
        parts = self.arm_id.split("/")
        body = {
            "eventUniqueId": str(uuid.uuid5(uuid.UUID(self.name), f"{event}/{self.version}")),
            "objectSchemaType": "Incident",
            "objectEventType": event,
            "workspaceInfo": {
                "SubscriptionId": parts[2],
                "ResourceGroupName": parts[4],
                "WorkspaceName": parts[8],
            },
            "workspaceId": self.workspace_id,
            "object": resource,
        }
        # A copy: the caller may change its body to test bad input, and must not change the incident by that.
        copied: dict[str, Any] = json.loads(json.dumps(body))
        return copied


class Sentinel:
    """
    The incidents of one workspace, in process and over HTTP.

    ``allowed`` holds the object ids that may call; ``None`` lets every principal of the tenant in.
    """

    def __init__(self, tenant: Tenant, *, allowed: Iterable[str] | None = None) -> None:
        self.tenant = tenant
        self.incidents: dict[str, Incident] = {}
        self.allowed = None if allowed is None else set(allowed)
        self._next_number = 4_001

    def raise_incident(
        self,
        title: str,
        *,
        principals: Sequence[Principal] = (),
        severity: str = "High",
        rule_id: str = "",
        custom_details: Mapping[str, Sequence[str]] | None = None,
        ip_addresses: Sequence[str] = (),
        tactics: Sequence[str] = ("CredentialAccess",),
        techniques: Sequence[str] = ("T1555",),
        description: str = "",
        entities_lag: int = 0,
    ) -> Incident:
        """
        Create an incident with one alert, as a scheduled rule whose entity mapping names the principals does.

        ``custom_details`` defaults to ``ServicePrincipalId`` and ``AppId`` of the principals; pass ``{}`` for a rule
        without any. With ``entities_lag`` the first so many reads of entities and alerts answer empty lists.
        Does not call the app: whoever plays the playbook sends ``playbook_body()``.
        """
        now = self.tenant.clock.now()
        number = self._next_number
        self._next_number += 1
        name = self._made_up(f"incident/{number}")
        rule = rule_id or self._made_up(f"rule/{title}")
        if custom_details is None and principals:
            custom_details = {
                "ServicePrincipalId": [principal.object_id for principal in principals],
                "AppId": [principal.app_id for principal in principals],
            }
        workspace = self.tenant.settings.workspace_resource_id
        incident = Incident(
            name=name,
            arm_id=f"{workspace}/providers/Microsoft.SecurityInsights/Incidents/{name}",
            workspace_id=self.tenant.settings.workspace_id,
            number=number,
            properties={
                "title": title,
                "description": description,
                "severity": severity,
                "status": "New",
                "firstActivityTimeUtc": _iso(now),
                "lastActivityTimeUtc": _iso(now),
            },
            labels=[],
            owner={},
            rule_ids=[f"{workspace}/providers/Microsoft.SecurityInsights/alertRules/{rule}"],
            tactics=list(tactics),
            techniques=list(techniques),
            alerts=[
                self._alert(
                    title,
                    incident=name,
                    rule=rule,
                    severity=severity,
                    tactics=tactics,
                    techniques=techniques,
                    custom_details=custom_details or {},
                    now=now,
                )
            ],
            entities=self._entities(name, principals, ip_addresses),
            created=now,
            modified=now,
            entities_lag=entities_lag,
        )
        self.incidents[name] = incident
        return incident

    def routes(self) -> list[web.RouteDef]:
        """Return the ARM routes; matching ignores the case of provider segments, as ARM does."""
        root = (
            "/subscriptions/{subscription}/{rg:(?i:resourceGroups)}/{group}/providers"
            "/{oi:(?i:Microsoft\\.OperationalInsights)}/workspaces/{workspace}"
            "/providers/{si:(?i:Microsoft\\.SecurityInsights)}/{incidents:(?i:incidents)}"
        )
        one = root + "/{incident}"
        comment = one + "/comments/{comment}"
        return [
            web.get(root, arm(self._list_incidents)),
            web.get(one, arm(self._get_incident)),
            web.put(one, arm(self._put_incident)),
            web.post(one + "/entities", arm(self._post_entities)),
            web.post(one + "/alerts", arm(self._post_alerts)),
            web.get(one + "/comments", arm(self._list_comments)),
            web.get(comment, arm(self._get_comment)),
            web.put(comment, arm(self._put_comment)),
            web.delete(comment, arm(self._delete_comment)),
        ]

    # -- building ------------------------------------------------------------------------------------------

    def _made_up(self, name: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self.tenant.settings.workspace_id), name))

    def _entity_id(self, name: str) -> str:
        workspace = self.tenant.settings.workspace_resource_id
        return f"{workspace}/providers/Microsoft.SecurityInsights/Entities/{name}"

    def _entity(self, incident: str, kind: str, key: str, properties: dict[str, Any]) -> dict[str, Any]:
        name = self._made_up(f"{incident}/{kind}/{key}")
        return {
            "id": self._entity_id(name),
            "name": name,
            "type": "Microsoft.SecurityInsights/Entities",
            "kind": kind,
            "properties": properties,
        }

    def _entities(
        self, incident: str, principals: Sequence[Principal], ip_addresses: Sequence[str]
    ) -> list[dict[str, Any]]:
        entities = []
        for principal in principals:
            shown = principal.display_name
            account = {
                "aadUserId": principal.object_id,
                "aadTenantId": self.tenant.settings.tenant_id,
                "accountName": shown,
                "displayName": shown,
                "friendlyName": shown,
            }
            entities.append(self._entity(incident, "Account", principal.object_id, account))
            # appId of a CloudApplication is a 32-bit number: an Entra app id cannot travel in it (facts §5).
            application = {"appName": shown, "friendlyName": shown}
            entities.append(self._entity(incident, "CloudApplication", principal.object_id, application))
        entities += [
            self._entity(incident, "Ip", address, {"address": address, "friendlyName": address})
            for address in ip_addresses
        ]
        return entities

    def _alert(
        self,
        title: str,
        *,
        incident: str,
        rule: str,
        severity: str,
        tactics: Sequence[str],
        techniques: Sequence[str],
        custom_details: Mapping[str, Sequence[str]],
        now: datetime,
    ) -> dict[str, Any]:
        workspace_id = self.tenant.settings.workspace_id
        additional = {
            "Query Period": "01:00:00",
            "Trigger Operator": "GreaterThan",
            "Trigger Threshold": "0",
            "Analytic Rule Ids": json.dumps([rule]),
            "Analytic Rule Name": title,
            "ProcessedBySentinel": "True",
        }
        if custom_details:
            # Every value is a list of distinct strings, also when there is only one (facts §4).
            details = {key: sorted(set(values)) for key, values in custom_details.items()}
            additional["Custom Details"] = json.dumps(details)
        alert = self._entity(
            incident,
            "SecurityAlert",
            title,
            {
                "alertDisplayName": title,
                "friendlyName": title,
                "severity": severity,
                "confidenceLevel": "Unknown",
                "tactics": list(tactics),
                "techniques": list(techniques),
                "vendorName": "Microsoft",
                "productName": "Azure Sentinel",
                "productComponentName": "Scheduled Alerts",
                "alertType": f"{workspace_id}_{rule}",
                "providerAlertId": self._made_up(f"{incident}/provider-alert"),
                "status": "New",
                "startTimeUtc": _iso(now),
                "endTimeUtc": _iso(now),
                "timeGenerated": _iso(now),
                "processingEndTime": _iso(now),
                "resourceIdentifiers": [{"type": "LogAnalytics", "workspaceId": workspace_id}],
                "additionalData": additional,
            },
        )
        alert["properties"]["systemAlertId"] = alert["name"]
        return alert

    def _comment_resource(self, incident: Incident, comment: Comment) -> dict[str, Any]:
        return {
            "id": f"{incident.arm_id}/Comments/{comment.name}",
            "name": comment.name,
            "etag": f'"{comment.version}"',
            "type": "Microsoft.SecurityInsights/Incidents/Comments",
            "properties": {
                "message": comment.message,
                "createdTimeUtc": _iso(comment.created),
                "lastModifiedTimeUtc": _iso(comment.modified),
                "author": dict(comment.author),
            },
        }

    # -- requests ------------------------------------------------------------------------------------------

    def _admit(self, request: web.Request) -> Claims:
        return admitted(self.tenant, self.allowed, request)

    def _find(self, request: web.Request) -> Incident:
        asked = request.match_info["incident"]
        incident = self.incidents.get(asked.lower())
        if incident is None:
            raise ArmError(404, "ResourceNotFound", f"Incident '{asked}' does not exist")
        return incident

    async def _list_incidents(self, request: web.Request) -> web.Response:
        self._admit(request)
        top = _whole_number(request.query.get("$top"), default=_MAX_PAGE)
        skip = _whole_number(request.query.get("$skipToken"), default=0)
        newest_first = sorted(self.incidents.values(), key=lambda one: one.number, reverse=True)
        page = newest_first[skip : skip + min(top, _MAX_PAGE)]
        body: dict[str, Any] = {"value": [incident.resource() for incident in page]}
        if skip + len(page) < len(newest_first):
            body["nextLink"] = str(request.url.update_query({"$skipToken": str(skip + len(page))}))
        return web.json_response(body)

    async def _get_incident(self, request: web.Request) -> web.Response:
        self._admit(request)
        return web.json_response(self._find(request).resource())

    async def _put_incident(self, request: web.Request) -> web.Response:
        self._admit(request)
        sent = await _body(request)
        properties = _checked_properties(sent)
        name = request.match_info["incident"].lower()
        incident = self.incidents.get(name)
        if incident is None:
            incident = self._created(name, properties)
            return web.json_response(incident.resource(), status=201)
        self._require_present_version(request, sent, incident)
        incident.properties |= {key: properties[key] for key in _WRITABLE if key in properties}
        # PUT replaces: labels that are not sent back are gone, and so is the owner (facts/azure-platform.md §2.4).
        incident.labels = _labels(properties)
        incident.owner = dict(properties.get("owner") or {})
        incident.version += 1
        incident.modified = self.tenant.clock.now()
        return web.json_response(incident.resource())

    def _created(self, name: str, properties: Mapping[str, Any]) -> Incident:
        incident = self.raise_incident(str(properties["title"]), severity=str(properties["severity"]))
        del self.incidents[incident.name]
        incident.arm_id = incident.arm_id.removesuffix(incident.name) + name
        incident.name = name
        incident.rule_ids, incident.alerts, incident.entities = [], [], []
        incident.tactics, incident.techniques = [], []
        incident.properties |= {key: properties[key] for key in _WRITABLE if key in properties}
        incident.labels = _labels(properties)
        incident.owner = dict(properties.get("owner") or {})
        self.incidents[name] = incident
        return incident

    def _require_present_version(
        self, request: web.Request, sent: Mapping[str, Any], incident: Incident
    ) -> None:
        required = request.headers.get("If-Match")
        if required not in {None, "*", incident.etag}:
            raise ArmError(
                412,
                "PreconditionFailed",
                f"Etag {required} is not the present {incident.etag}. Data was not saved.",
            )
        if required is None and sent.get("etag") != incident.etag:
            raise ArmError(
                409,
                "Conflict",
                f"Newer instance of Incident '{incident.name}' exists for workspace "
                f"'{self.tenant.settings.workspace_id}'. Etag does not match. Data was not saved.",
            )

    def _lags(self, incident: Incident) -> bool:
        if incident.entities_lag <= 0:
            return False
        incident.entities_lag -= 1
        return True

    async def _post_entities(self, request: web.Request) -> web.Response:
        self._admit(request)
        incident = self._find(request)
        entities = [] if self._lags(incident) else incident.entities
        kinds = sorted({str(entity["kind"]) for entity in entities})
        counts = [
            {"entityKind": kind, "count": sum(entity["kind"] == kind for entity in entities)}
            for kind in kinds
        ]
        return web.json_response({"entities": entities, "metaData": counts})

    async def _post_alerts(self, request: web.Request) -> web.Response:
        self._admit(request)
        incident = self._find(request)
        return web.json_response({"value": [] if self._lags(incident) else incident.alerts})

    async def _list_comments(self, request: web.Request) -> web.Response:
        self._admit(request)
        incident = self._find(request)
        comments = [self._comment_resource(incident, comment) for comment in incident.comments.values()]
        return web.json_response({"value": comments})

    async def _get_comment(self, request: web.Request) -> web.Response:
        self._admit(request)
        incident = self._find(request)
        comment = incident.comments.get(request.match_info["comment"].lower())
        if comment is None:
            raise ArmError(
                404, "ResourceNotFound", f"Comment '{request.match_info['comment']}' does not exist"
            )
        return web.json_response(self._comment_resource(incident, comment))

    async def _put_comment(self, request: web.Request) -> web.Response:
        claims = self._admit(request)
        incident = self._find(request)
        message = _message(await _body(request))
        name = request.match_info["comment"].lower()
        if name not in incident.comments and len(incident.comments) >= MAX_COMMENTS:
            raise ArmError(
                400,
                "BadRequest",
                f"An incident can have at most {MAX_COMMENTS} comments. Data was not saved.",
            )
        now = self.tenant.clock.now()
        comment = incident.comments.get(name)
        if comment is not None:
            comment.message, comment.modified = message, now
            comment.version += 1
            return web.json_response(self._comment_resource(incident, comment))
        author = {"objectId": claims.object_id, "name": self._name_of(claims.object_id)}
        incident.comments[name] = Comment(name, message, author, created=now, modified=now)
        incident.modified = now
        # Whether a comment changes the incident's etag is not documented; the stricter answer makes a client that
        # comments and then updates labels with the etag it read before find out here.
        incident.version += 1
        return web.json_response(self._comment_resource(incident, incident.comments[name]), status=201)

    def _name_of(self, object_id: str) -> str:
        principal = self.tenant.principals.get(object_id)
        return object_id if principal is None else principal.display_name

    async def _delete_comment(self, request: web.Request) -> web.Response:
        self._admit(request)
        incident = self._find(request)
        removed = incident.comments.pop(request.match_info["comment"].lower(), None)
        return web.Response(status=204 if removed is None else 200)


def admitted(tenant: Tenant, allowed: Container[str] | None, request: web.Request) -> Claims:
    """Check the caller as ``caller_of`` does, and that the path is of our workspace. Raises: ArmError."""
    claims = caller_of(tenant, allowed, request)
    asked = (
        f"/subscriptions/{request.match_info['subscription']}/resourceGroups/{request.match_info['group']}"
        f"/providers/Microsoft.OperationalInsights/workspaces/{request.match_info['workspace']}"
    )
    if asked.lower() != tenant.settings.workspace_resource_id.lower():
        raise ArmError(404, "ResourceNotFound", f"The Resource '{asked}' was not found.")
    return claims


def caller_of(tenant: Tenant, allowed: Container[str] | None, request: web.Request) -> Claims:
    """Check token, caller and api-version, in ARM's order. ``allowed`` None: everybody. Raises: ArmError."""
    try:
        claims = tenant.tokens.validate(request.headers.get("Authorization"), AUDIENCE)
    except InvalidTokenError as error:
        raise ArmError(401, error.code, str(error)) from error
    if allowed is not None and claims.object_id not in allowed:
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"The client '{claims.app_id}' with object id '{claims.object_id}' does not have authorization to perform "
            f"action on scope '{request.path}' or the scope is invalid.",
        )
    if not request.query.get("api-version"):
        raise ArmError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    return claims


def arm(handler: _Handler) -> _Handler:
    """Answer a refusal as Resource Manager does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ArmError as error:
            return _refusal(error)

    return answer


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _refusal(error: ArmError) -> web.Response:
    headers = {"x-ms-failure-cause": "gateway"} if error.status == 401 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = (
            'Bearer authorization_uri="https://login.windows.net/", error="invalid_token"'
        )
    body = {"error": {"code": error.code, "message": str(error)}}
    return web.json_response(body, status=error.status, headers=headers)


def _whole_number(text: str | None, *, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,6}", text):
        raise ArmError(400, "BadRequest", f"'{text}' is not a whole number.")
    return int(text)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise ArmError(
            400,
            "InvalidRequestContent",
            f"The request content was invalid and could not be deserialized: {error}",
        ) from error
    if not isinstance(body, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content must be a JSON object.")
    return body


def _checked_properties(sent: Mapping[str, Any]) -> dict[str, Any]:
    properties = sent.get("properties")
    if not isinstance(properties, dict):
        raise ArmError(400, "BadRequest", "Required property 'properties' not found in JSON.")
    for required in ("title", "severity", "status"):
        if not isinstance(properties.get(required), str):
            raise ArmError(400, "BadRequest", f"Required property '{required}' not found in JSON.")
    if properties["severity"] not in _SEVERITIES or properties["status"] not in _STATUSES:
        raise ArmError(400, "BadRequest", "Severity or status has a value that does not exist.")
    if properties["status"] == "Closed" and not properties.get("classification"):
        raise ArmError(400, "BadRequest", "Closing an incident requires a classification.")
    return properties


def _labels(properties: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"labelName": str(label["labelName"]), "labelType": str(label.get("labelType", "User"))}
        for label in properties.get("labels") or []
    ]


def _message(sent: Mapping[str, Any]) -> str:
    properties = sent.get("properties")
    message = properties.get("message") if isinstance(properties, dict) else None
    if not isinstance(message, str) or not message:
        raise ArmError(400, "BadRequest", "Required property 'message' not found in JSON.")
    if len(message) > MAX_COMMENT_CHARACTERS:
        raise ArmError(
            400,
            "BadRequest",
            f"Comment message is {len(message)} characters long, at most {MAX_COMMENT_CHARACTERS} are allowed.",
        )
    return message
