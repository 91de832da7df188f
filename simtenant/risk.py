"""
ID Protection's view of service principals and agent identities.

A confirmation is accepted at once and takes effect later; in between
``isProcessing`` is true and the old level still holds. What takes effect is
what Conditional Access and CAE see. Source: facts/entra.md §1, §2 and §9; the
delay itself is not published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from simtenant.tenant import Principal, Tenant


class RiskLevel(StrEnum):
    """How risky a principal is, in Graph's words."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


_ORDER = (RiskLevel.NONE, RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH)


@dataclass(frozen=True, slots=True)
class RiskState:
    """
    The risk of one principal at one time.

    ``state`` and ``detail`` are Graph's riskState and riskDetail.
    """

    object_id: str
    level: RiskLevel = RiskLevel.NONE
    state: str = "none"
    detail: str = "none"
    is_processing: bool = False
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One change of a principal's risk: what it became, by whom (an object id, or nobody), for which events."""

    id: str
    state: RiskState
    initiated_by: str | None
    event_types: tuple[str, ...]


@dataclass(slots=True)
class Detection:
    """One detection row; ``state`` and ``detail`` follow what later happens to the principal."""

    id: str
    object_id: str
    event_type: str
    level: RiskLevel
    state: str
    detail: str
    detected_at: datetime
    updated_at: datetime
    ip_address: str | None
    country: str | None
    correlation_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a principal's risk becomes; ``event_type`` is of the detection that goes with it, if one does."""

    level: RiskLevel
    state: str
    detail: str
    event_type: str | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    object_id: str
    due: datetime
    verdict: _Verdict
    initiated_by: str | None


class Risks:
    """
    The risk states of one tenant.

    Time passes only when somebody looks: every question first lets the changes
    that are due take effect, at the time they were due. The server asks ten
    times a second, so log rows are not later than that.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._states: dict[str, RiskState] = {}
        self._pending: list[_Change] = []
        self._history: dict[str, list[HistoryItem]] = {}
        self._detections: list[Detection] = []

    def confirm(self, object_ids: Iterable[str], *, initiated_by: str | None = None) -> None:
        """
        Confirm principals compromised; level high after the tenant's delay.

        Raises: KeyError for an unknown principal, before anything changes.
        """
        for principal in self._known(object_ids):
            agent = self._is_agent(principal)
            name = "adminConfirmedAgentCompromised" if agent else "adminConfirmedServicePrincipalCompromised"
            self._later(principal, _Verdict(RiskLevel.HIGH, "confirmedCompromised", name, name), initiated_by)

    def dismiss(self, object_ids: Iterable[str], *, initiated_by: str | None = None) -> None:
        """
        Dismiss *all* risk of principals, also what Microsoft itself had found.

        Raises: KeyError for an unknown principal, before anything changes.
        """
        for principal in self._known(object_ids):
            agent = self._is_agent(principal)
            detail = "adminDismissedRiskForAgent" if agent else "adminDismissedAllRiskForServicePrincipal"
            self._later(principal, _Verdict(RiskLevel.NONE, "dismissed", detail), initiated_by)

    def confirm_safe(self, object_ids: Iterable[str], *, initiated_by: str | None = None) -> None:
        """
        Confirm agent identities safe. Graph has no such action for service principals.

        Raises: KeyError for an unknown principal, before anything changes.
        """
        for principal in self._known(object_ids):
            safe = _Verdict(RiskLevel.NONE, "confirmedSafe", "adminConfirmedAgentSafe")
            self._later(principal, safe, initiated_by)

    def detect(self, object_id: str, level: RiskLevel, event_type: str) -> None:
        """
        Record Microsoft's own detection, with effect at once.

        It raises the level and never lowers it, and does not undo an
        administrator's verdict.

        Raises: KeyError for an unknown principal.
        """
        self.settle()
        principal = self._tenant.principals[object_id]
        now = self._tenant.clock.now()
        before = self._states.get(object_id, RiskState(object_id))
        confirmed = before.state == "confirmedCompromised"
        higher = max(before.level, level, key=_ORDER.index)
        after = replace(
            before,
            level=higher,
            state=before.state if confirmed else "atRisk",
            detail=before.detail if confirmed else "none",
            updated_at=now,
        )
        self._add_detection(principal, event_type, _Verdict(level, "atRisk", "none"), now)
        self._take_effect(principal, after, now, None, (event_type,))

    def get(self, object_id: str) -> RiskState | None:
        """Return a principal's risk, ``None`` if it never had any."""
        self.settle()
        return self._states.get(object_id)

    def all(self) -> list[RiskState]:
        """Return every principal that has or had risk, in the order it first did."""
        self.settle()
        return list(self._states.values())

    def level(self, object_id: str) -> RiskLevel:
        """Return the level in effect: what Conditional Access sees."""
        state = self.get(object_id)
        return RiskLevel.NONE if state is None else state.level

    def history(self, object_id: str) -> list[HistoryItem]:
        """Return the changes of a principal's risk, oldest first."""
        self.settle()
        return list(self._history.get(object_id, ()))

    def detections(self) -> list[Detection]:
        """Return all detections, oldest first."""
        self.settle()
        return list(self._detections)

    def settle(self) -> None:
        """Let the changes that are due take effect."""
        if not self._pending:
            return
        now = self._tenant.clock.now()
        due = sorted((change for change in self._pending if change.due <= now), key=lambda change: change.due)
        if not due:
            return
        self._pending = [change for change in self._pending if change.due > now]
        for change in due:
            self._apply(change)

    def _apply(self, change: _Change) -> None:
        principal = self._tenant.principals[change.object_id]
        verdict = change.verdict
        after = RiskState(
            change.object_id,
            verdict.level,
            verdict.state,
            verdict.detail,
            is_processing=any(other.object_id == change.object_id for other in self._pending),
            updated_at=change.due,
        )
        events: tuple[str, ...] = ()
        if verdict.event_type is None:
            self._close_detections(change)
        else:
            self._add_detection(principal, verdict.event_type, verdict, change.due)
            events = (verdict.event_type,)
        self._take_effect(principal, after, change.due, change.initiated_by, events)

    def _close_detections(self, change: _Change) -> None:
        for detection in self._detections:
            if detection.object_id == change.object_id:
                detection.state, detection.detail = change.verdict.state, change.verdict.detail
                detection.updated_at = change.due

    def _later(self, principal: Principal, verdict: _Verdict, initiated_by: str | None) -> None:
        now = self._tenant.clock.now()
        before = self._states.get(principal.object_id, RiskState(principal.object_id))
        self._states[principal.object_id] = replace(before, is_processing=True, updated_at=now)
        due = now + self._tenant.settings.risk_takes_effect_after
        self._pending.append(_Change(principal.object_id, due, verdict, initiated_by))

    def _take_effect(
        self,
        principal: Principal,
        after: RiskState,
        at: datetime,
        initiated_by: str | None,
        event_types: tuple[str, ...],
    ) -> None:
        before = self._states.get(principal.object_id, RiskState(principal.object_id))
        self._states[principal.object_id] = after
        item = HistoryItem(self._tenant.new_id(), after, initiated_by, event_types)
        self._history.setdefault(principal.object_id, []).append(item)
        if after.level is RiskLevel.HIGH and before.level is not RiskLevel.HIGH:
            self._tenant.revoke(principal.object_id, at)
        if self._is_agent(principal):
            self._tenant.logs.write("AADRiskyAgents", self._agent_row(principal, after, at))
        else:
            self._tenant.logs.write("AADRiskyServicePrincipals", self._principal_row(principal, after, at))

    def _add_detection(self, principal: Principal, event_type: str, verdict: _Verdict, at: datetime) -> None:
        # An administrator's verdict has no place on the map; Microsoft's has.
        by_admin = event_type.startswith("adminConfirmed")
        detection = Detection(
            id=self._tenant.new_id().replace("-", "") * 2,
            object_id=principal.object_id,
            event_type=event_type,
            level=verdict.level,
            state=verdict.state,
            detail=verdict.detail,
            detected_at=at,
            updated_at=at,
            ip_address=None if by_admin else principal.ip_address,
            country=None if by_admin else principal.country,
            correlation_id=self._tenant.new_id(),
            request_id=self._tenant.new_id(),
        )
        self._detections.append(detection)
        if self._is_agent(principal):
            self._tenant.logs.write(
                "AADAgentRiskEvents", _agent_event_row(self._tenant, principal, detection)
            )
        else:
            self._tenant.logs.write("AADServicePrincipalRiskEvents", _event_row(principal, detection))

    def _known(self, object_ids: Iterable[str]) -> list[Principal]:
        self.settle()
        # Each principal once: a duplicated id in one call is one change.
        return [self._tenant.principals[object_id] for object_id in dict.fromkeys(object_ids)]

    def _is_agent(self, principal: Principal) -> bool:
        return principal.agent_identity_type is not None

    def _principal_row(self, principal: Principal, state: RiskState, at: datetime) -> dict[str, Any]:
        return {
            "TimeGenerated": at,
            "OperationName": "Risky service principal",
            "CorrelationId": self._tenant.new_id(),
            "Id": principal.object_id,
            "AppId": principal.app_id,
            "DisplayName": principal.display_name,
            "AccountEnabled": principal.account_enabled,
            "ServicePrincipalType": principal.service_principal_type,
            "IsProcessing": state.is_processing,
            "RiskLevel": state.level.value,
            "RiskState": state.state,
            "RiskDetail": state.detail,
            "RiskLastUpdatedDateTime": at,
            "SourceSystem": "Azure AD",
            "Type": "AADRiskyServicePrincipals",
        }

    def _agent_row(self, principal: Principal, state: RiskState, at: datetime) -> dict[str, Any]:
        return {
            "TimeGenerated": at,
            "OperationName": "Risky agent",
            "CorrelationId": self._tenant.new_id(),
            "Id": principal.object_id,
            "AgentDisplayName": principal.display_name,
            "IdentityType": principal.agent_identity_type,
            "IsDeleted": False,
            "IsEnabled": principal.account_enabled,
            "IsProcessing": state.is_processing,
            "RiskLevel": state.level.value,
            "RiskState": state.state,
            "RiskDetail": state.detail,
            "RiskLastModifiedDateTime": at,
            "SourceSystem": "Azure AD",
            "Type": "AADRiskyAgents",
        }


def _event_row(principal: Principal, detection: Detection) -> dict[str, Any]:
    country = detection.country
    return {
        "TimeGenerated": detection.detected_at,
        "OperationName": "Service principal risk detection",
        "Id": detection.id,
        "Activity": "servicePrincipal",
        "ActivityDateTime": detection.detected_at,
        "DetectedDateTime": detection.detected_at,
        "LastUpdatedDateTime": detection.updated_at,
        "DetectionTimingType": "offline",
        "AppId": principal.app_id,
        "ServicePrincipalId": principal.object_id,
        "ServicePrincipalDisplayName": principal.display_name,
        "KeyIds": [principal.credential_key_id] if principal.credential_key_id else [],
        "IpAddress": detection.ip_address,
        "Location": None if country is None else {"countryOrRegion": country},
        "CorrelationId": detection.correlation_id,
        "RequestId": detection.request_id,
        "RiskDetail": detection.detail,
        "RiskEventType": detection.event_type,
        "RiskLevel": detection.level.value,
        "RiskState": detection.state,
        "Source": "IdentityProtection",
        "TokenIssuerType": "AzureAD",
        "AdditionalInfo": [],
        "SourceSystem": "Azure AD",
        "Type": "AADServicePrincipalRiskEvents",
    }


def _agent_event_row(tenant: Tenant, principal: Principal, detection: Detection) -> dict[str, Any]:
    return {
        "TimeGenerated": detection.detected_at,
        "OperationName": "Agent risk detection",
        "CorrelationId": tenant.new_id(),
        "Id": detection.id,
        "AgentId": principal.object_id,
        "AgentDisplayName": principal.display_name,
        "IdentityType": principal.agent_identity_type,
        "ActivityDateTime": detection.detected_at,
        "DetectedDateTime": detection.detected_at,
        "LastModifiedDateTime": detection.updated_at,
        "DetectionTimingType": "offline",
        "RiskDetail": detection.detail,
        "RiskEventType": detection.event_type,
        "RiskEvidence": "",
        "RiskLevel": detection.level.value,
        "RiskState": detection.state,
        "AdditionalInfo": json.dumps([]),
        "SourceSystem": "Azure AD",
        "Type": "AADAgentRiskEvents",
    }
