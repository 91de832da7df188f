"""
The outside things of this process, built once: settings, rules, clients, store.

A Functions worker has one event loop, and runs of different triggers overlap in it. Everything here is
built on first use and then only read; a run's own state travels as arguments.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from clients import telemetry
from clients.terms import ObjectId
from response.policy import ResponsePolicy
from settings import TELEMETRY_SETTING, Settings, SettingsError, telemetry_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.core.credentials_async import AsyncTokenCredential

    from clients.workspace import WorkspaceClient
    from detections.catalog import Rule
    from response.world import World

log = logging.getLogger("agentbreaker.process")
# What the first call would otherwise wait for; imported in a thread after the app has been indexed.
_HEAVY: Final = (
    "handlers.incidents",
    "handlers.analyst",
    "handlers.decisions",
    "handlers.signals",
    "handlers.sweeps",
    "handlers.health",
    "azure.identity.aio",
    "azure.monitor.ingestion.aio",
    "azure.monitor.query.aio",
    "msgraph.graph_service_client",
    "msgraph.generated.models.o_data_errors.o_data_error",
    "msgraph.generated.service_principals.item.service_principal_item_request_builder",
    "msgraph.generated.identity_protection.risky_service_principals.risky_service_principals_request_builder",
    "msgraph.generated.identity.conditional_access.policies.policies_request_builder",
)
# And where telemetry is on.
_HEAVY_TELEMETRY: Final = (
    "azure.identity",
    "azure.monitor.opentelemetry.exporter",
    "clients.telemetry.azure",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.sdk.trace.export",
)


@dataclass(frozen=True, slots=True)
class Process:
    """Settings, rules and world of this process."""

    settings: Settings
    rules: tuple[Rule, ...]
    world: World
    workspace: WorkspaceClient
    _closing: tuple[Any, ...] = ()

    @property
    def swept(self) -> tuple[Rule, ...]:
        """The rules that are not switched off (``AGENTBREAKER_RULES_OFF``)."""
        return tuple(rule for rule in self.rules if rule.id not in self.settings.rules_off)

    async def close(self) -> None:
        """Close every connection. Only tests and the local host end a process in an orderly way."""
        for thing in self._closing:
            await (thing.aclose() if hasattr(thing, "aclose") else thing.close())


def warm() -> None:
    """Import the SDKs. Runs in a thread of its own after start, so that the first incident need not wait."""
    started = time.perf_counter()
    told = _HEAVY_TELEMETRY if os.environ.get(TELEMETRY_SETTING) else ()
    for name in (*_HEAVY, *told):
        importlib.import_module(name)
    log.debug("SDKs imported in %.2f s", time.perf_counter() - started)


async def build(settings: Settings) -> Process:
    """
    Build clients and store from settings. Sends nothing yet.

    Raises: CatalogError when a rule cannot be read; ValueError for a store that is none.
    """
    await asyncio.to_thread(warm)
    import httpx

    from clients.audit import AuditClient
    from clients.graph import GraphClient
    from clients.logs import LogsClient
    from clients.sentinel import SentinelClient
    from clients.stores import open_store
    from clients.webhook import WebhookClient
    from clients.workspace import WorkspaceClient
    from detections import catalog
    from response.turns import Turns
    from response.world import World

    # httpx and azure-core write full URLs, thus ids and names, at INFO.
    for name in ("httpx", "httpcore", "azure", "msal"):
        logging.getLogger(name).setLevel(logging.WARNING)
    rules = await asyncio.to_thread(catalog.load)
    if unknown := sorted(set(settings.rule_modes) - {rule.id for rule in rules}):
        raise SettingsError([f"AGENTBREAKER_RULE_MODES names rules that do not exist: {', '.join(unknown)}"])
    credential = _credential(settings)
    verify: ssl.SSLContext | bool = True
    if settings.ca_bundle:
        verify = ssl.create_default_context()
        verify.load_verify_locations(settings.ca_bundle)
    http = httpx.AsyncClient(
        timeout=httpx.Timeout(30, connect=5), follow_redirects=False, verify=verify, http2=True
    )
    store = open_store(settings.store, settings.tenant_id, credential)
    turns = Turns(store)
    graph = GraphClient(settings.graph_url, credential, http, settings.tenant_id, turns.take)
    logs = LogsClient(settings.logs_url, credential, settings.workspace_id, ca_bundle=settings.ca_bundle)
    audit = None
    if settings.audit_endpoint:
        where = settings.audit_endpoint, credential, settings.audit_rule_id, settings.audit_stream
        audit = AuditClient(*where, ca_bundle=settings.ca_bundle)
    world = World(
        graph=graph,
        logs=logs,
        sentinel=SentinelClient(settings.arm_url, credential, http),
        store=store,
        turns=turns,
        policy=_policy(settings),
        own_principals=frozenset(ObjectId(item) for item in settings.own_principals),
        policies_max_age=settings.policies_max_age,
        batch_size=settings.batch_size,
        now=lambda: datetime.now(UTC),
        what_if=settings.what_if,
        webhook=WebhookClient(settings.webhook_url, settings.webhook_secret, http)
        if settings.webhook_url
        else None,
        audit=audit,
    )
    closing = (logs, http, store, *([audit] if audit else []), credential)
    return Process(settings, rules, world, WorkspaceClient(settings.arm_url, credential, http), closing)


def _policy(settings: Settings) -> ResponsePolicy:
    return ResponsePolicy(
        mode=settings.mode,
        rule_modes=settings.rule_modes,
        protected=settings.protected,
        automatic_per_hour=settings.automatic_per_hour,
        automatic_per_day=settings.automatic_per_day,
        automatic_share_percent=settings.automatic_share_percent,
        automatic_per_owner=settings.automatic_per_owner,
        agent_risk=settings.agent_risk,
        disabling=settings.disabling,
        removal_levers=settings.removal_levers,
        decide_within=settings.decide_within,
        on_expiry=settings.on_expiry,
        probation=settings.probation,
        evidence_max_age=settings.evidence_max_age,
    )


def _credential(settings: Settings) -> AsyncTokenCredential:
    """The managed identity in Azure; a client secret only where one was written, on a laptop."""
    from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential

    if settings.client_secret and settings.client_id:
        known = settings.authority_url.startswith("https://login.microsoftonline.")
        options: dict[str, Any] = {"connection_verify": settings.ca_bundle} if settings.ca_bundle else {}
        return ClientSecretCredential(
            settings.tenant_id,
            settings.client_id,
            settings.client_secret,
            authority=settings.authority_url,
            disable_instance_discovery=not known,
            **options,
        )
    return (
        ManagedIdentityCredential(client_id=settings.client_id)
        if settings.client_id
        else ManagedIdentityCredential()
    )


def _settings(env: Mapping[str, str]) -> Settings:
    """
    Read the settings; switch telemetry on also where they cannot be read, so that which are at fault is told.

    Raises: SettingsError.
    """
    try:
        return Settings.from_env(env)
    except SettingsError:
        _tell(*telemetry_settings(env))
        raise


def _tell(connection_string: str, client_id: str | None) -> None:
    """
    Switch telemetry on, once a process, if there is anywhere to send it.

    Whatever goes wrong with it is logged and stops nothing; that nothing arrives, an alert outside the app notices.
    """
    if not connection_string or telemetry.is_on():
        return
    try:
        from clients.telemetry import azure

        for name, value in azure.ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        telemetry.switch_on(azure.backend(connection_string, client_id))
    except Exception as error:  # noqa: BLE001  # an SDK that cannot start must not keep levers from being pulled
        log.error("telemetry could not be switched on: %s", type(error).__name__)  # noqa: TRY400


class Once:
    """Builds the process on first use; a failed build is tried again by the next call."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._process: Process | None = None

    async def get(self) -> Process:
        """Give the process. Raises: what ``Settings.from_env`` and ``build`` raise."""
        async with self._lock:
            if self._process is None:
                settings = await asyncio.to_thread(_settings, os.environ)
                await asyncio.to_thread(_tell, settings.app_insights, settings.client_id)
                self._process = await build(settings)
            return self._process
