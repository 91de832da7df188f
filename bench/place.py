"""The tenant that every measurement runs in, and what the app is told about it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detections import catalog
from simtenant.estate import Estate
from simtenant.tenant import TenantSettings

if TYPE_CHECKING:
    from simtenant.sentinel import Incident
    from simtenant.tenant import Principal

ROOT: Final = Path(__file__).resolve().parents[1]
# The storm brake is a guardrail against many containments; here many are wanted.
AUTOMATIC_PER_HOUR: Final = "1000"
WIDE: Final = 1_000_000.0
"""An ID Protection quota that no measurement meets."""


def open_estate(directory: Path, *, identity_protection_per_second: float) -> Estate:
    """Give an armed tenant without a past; an async context manager."""
    settings = TenantSettings(
        log_ingestion_delay=timedelta(0), identity_protection_per_second=identity_protection_per_second
    )
    return Estate(directory, settings=settings, history=False)


def environment(estate: Estate, directory: Path) -> dict[str, str]:
    """
    Give the app's settings, with its store in ``directory``.

    The timers sleep: a ``settle`` that happens to run would share the tenant's second with what is measured.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return estate.app_environment(
        STORE=f"sqlite:///{directory / 'agentbreaker.db'}",
        AUTOMATIC_PER_HOUR=AUTOMATIC_PER_HOUR,
        SWEEP_FAST_SCHEDULE="0 0 0 1 1 *",
        SWEEP_SCHEDULE="0 0 0 1 1 *",
        SWEEP_BASELINE_SCHEDULE="0 0 0 1 1 *",
        SWEEP_DORMANT_SCHEDULE="0 0 0 1 1 *",
        SETTLE_SCHEDULE="0 0 0 1 1 *",
    )


class Agents:
    """New principals of one estate, and incidents about them as Sentinel raises them for rule AG-04."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._rule = next(rule for rule in catalog.load() if rule.id == "AG-04")
        self._made = 0

    def new(self) -> Principal:
        """Register a principal that nothing is known about."""
        self._made += 1
        return self._estate.tenant.add_application(f"bench-agent-{self._made}")

    def incident(self, principal: Principal, *, confidence: str = "high") -> Incident:
        """Raise an incident; ``high`` is enough alone (tier auto), ``low`` needs a second sign (corroborated)."""
        return self._estate.sentinel.raise_incident(
            "Key Vault used for the first time",
            principals=[principal],
            rule_id=str(self._rule.sentinel_id),
            custom_details={
                "ServicePrincipalId": [principal.object_id],
                "AppId": [principal.app_id],
                "DetectionId": [self._rule.id],
                "Confidence": [confidence],
            },
        )
