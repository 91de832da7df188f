"""
Microsoft Sentinel incidents through Azure Resource Manager: read one again, write a comment.

Six REST calls do not need azure-mgmt-securityinsight, which is a beta with breaking changes
(facts: 2.0.0b4). What a playbook sends is a pointer: only what is read here counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NewType

from clients.arm import ArmCalls
from clients.errors import Malformed
from clients.terms import is_guid

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE: Final = "Microsoft Sentinel"
API_VERSION: Final = "2025-09-01"
COMMENT_LIMIT: Final = 30_000  # characters, Sentinel service limits
IncidentArmId = NewType("IncidentArmId", str)

_ARM_ID = re.compile(
    r"(?P<workspace>/subscriptions/[0-9a-f-]{36}/resourceGroups/[^/?#]+"
    r"/providers/Microsoft\.OperationalInsights/workspaces/[^/?#]+)"
    r"/providers/Microsoft\.SecurityInsights/Incidents/(?P<name>[0-9a-f-]{36})",
    re.IGNORECASE,
)


class NotAnIncident(ValueError):
    """The text is not the ARM id of a Sentinel incident."""


class ForeignIncident(ValueError):
    """The incident belongs to a workspace that this app does not serve."""


def incident_arm_id(text: str, workspace_resource_id: str) -> IncidentArmId:
    """
    Check an incident's ARM id and rebuild it from our own workspace id.

    Only the incident's GUID is taken over from outside, so no other path of Resource Manager can be reached.
    Raises: NotAnIncident or ForeignIncident with a sentence for the caller.
    """
    found = _ARM_ID.fullmatch(text.strip())
    if not found or not is_guid(found["name"]):
        raise NotAnIncident("object.id is not the ARM id of a Sentinel incident")
    if found["workspace"].lower() != workspace_resource_id.lower():
        raise ForeignIncident("the incident belongs to a workspace this app does not serve")
    return IncidentArmId(
        f"{workspace_resource_id}/providers/Microsoft.SecurityInsights/incidents/{found['name'].lower()}"
    )


@dataclass(frozen=True, slots=True)
class Alert:
    """
    An alert of an incident. ``custom_details`` values are lists of text, written by the rule from log rows.

    ``last_activity`` is the end of what it is about (endTimeUtc), None where it does not say.
    """

    name: str
    display_name: str
    rule_ids: frozenset[str]
    custom_details: Mapping[str, tuple[str, ...]]
    last_activity: datetime | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """An Account entity: ``object_ids`` are its aadUserId and objectGuid, if they are GUIDs. May be a user."""

    object_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as Sentinel holds it now. ``title`` is untrusted text."""

    arm_id: IncidentArmId
    name: str
    number: int | None
    title: str
    severity: str
    status: str
    first_activity: datetime | None
    last_activity: datetime | None


class SentinelClient(ArmCalls):
    """Reads incidents of one workspace and writes comments. One instance a process."""

    service = SERVICE
    api_version = API_VERSION

    async def incident(self, arm_id: IncidentArmId) -> Incident:
        """Read an incident. Raises: NotFound; Refused; Throttled, Unavailable, NotSent after the retries."""
        body = await self._read("GET", arm_id, "read incident")
        properties = _object(body, "properties")
        seen = properties.get("firstActivityTimeUtc") or properties.get("createdTimeUtc")
        return Incident(
            arm_id=arm_id,
            name=str(body.get("name", "")).lower(),
            number=properties.get("incidentNumber"),
            title=str(properties.get("title", "")),
            severity=str(properties.get("severity", "")),
            status=str(properties.get("status", "")),
            first_activity=_time(seen),
            last_activity=_time(properties.get("lastActivityTimeUtc")),
        )

    async def alerts(self, arm_id: IncidentArmId) -> tuple[Alert, ...]:
        """Read the alerts of an incident; empty also while Sentinel has not linked them yet. Raises: as ``incident``."""
        body = await self._read("POST", f"{arm_id}/alerts", "read alerts")
        return tuple(_alert(item) for item in _list(body, "value"))

    async def accounts(self, arm_id: IncidentArmId) -> tuple[Account, ...]:
        """Read the Account entities; other kinds, known or not, are left out. Raises: as ``incident``."""
        body = await self._read("POST", f"{arm_id}/entities", "read entities")
        entities = [
            item for item in _list(body, "entities") if str(item.get("kind", "")).lower() == "account"
        ]
        return tuple(_account(item.get("properties") or {}) for item in entities)

    async def put_comment(self, arm_id: IncidentArmId, comment_id: str, message: str) -> None:
        """
        Write a comment under an id chosen by us; writing it again replaces it.

        Raises: ValueError for more than 30,000 characters; Refused; OutcomeUnknown (harmless: write it again).
        """
        if len(message) > COMMENT_LIMIT:
            raise ValueError("comment too long for Sentinel")
        await self._send(
            "PUT", f"{arm_id}/comments/{comment_id}", "write comment", {"properties": {"message": message}}
        )


def _time(text: object) -> datetime | None:
    """Parse an ISO time; a time without a zone, or no time at all, is not known."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise Malformed(SERVICE, f"answer without {name}")
    return value


def _list(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(SERVICE, f"answer without {name}")
    return value


def _alert(item: Mapping[str, Any]) -> Alert:
    properties = item.get("properties") or {}
    additional = properties.get("additionalData") or {}
    return Alert(
        name=str(item.get("name", "")).lower(),
        display_name=str(properties.get("alertDisplayName", "")),
        rule_ids=_rule_ids(str(properties.get("alertType", "")), additional),
        custom_details=_custom_details(additional.get("Custom Details")),
        last_activity=_time(properties.get("endTimeUtc")),
    )


def _rule_ids(alert_type: str, additional: Mapping[str, Any]) -> frozenset[str]:
    """
    Read which analytics rules made the alert.

    A scheduled rule's alertType is ``<workspaceId>_<ruleGuid>``; additionalData carries the same as a JSON
    list under "Analytic Rule Ids" (facts/sentinel-incident.md §4). Only GUIDs are kept.
    """
    candidates = [alert_type.rpartition("_")[2]]
    try:
        listed = json.loads(str(additional.get("Analytic Rule Ids", "[]")))
    except ValueError:
        listed = []
    candidates += [str(rule) for rule in listed] if isinstance(listed, list) else []
    return frozenset(rule.lower() for rule in candidates if is_guid(rule))


def _custom_details(text: object) -> Mapping[str, tuple[str, ...]]:
    """Parse "Custom Details": a JSON string of ``{"Key": ["value", ...]}``. Unreadable means none."""
    try:
        parsed = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {
        str(key): tuple(str(value) for value in values)
        for key, values in parsed.items()
        if isinstance(values, list)
    }


def _account(properties: Mapping[str, Any]) -> Account:
    ids = [properties.get("aadUserId"), properties.get("objectGuid")]
    return Account(tuple(dict.fromkeys(str(item).lower() for item in ids if is_guid(item))))
