"""
Every setting of the app: name, default, meaning. Read once, at start, by ``Settings.from_env``.

Nobody else reads the environment. Each default is the safe side, and a value that cannot be
read stops the app with all faults listed at once: a half-read configuration must not act.
The kill switch is not a setting; it is read from the store before every lever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from response.policy import Disabling, Mode, OnExpiry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WORKSPACE = re.compile(
    r"/subscriptions/[0-9a-f-]{36}/resourcegroups/[^/]+"
    r"/providers/microsoft\.operationalinsights/workspaces/[^/]+",
    re.IGNORECASE,
)
LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# Regional endpoints are https://<region>-<n>.in.applicationinsights.azure.com (the exporter's own connection string
# parser); that of US Government has not been checked against a page.
_INGESTION_HOSTS: Final = (
    ".in.applicationinsights.azure.com",
    ".in.applicationinsights.azure.us",
    "dc.services.visualstudio.com",
)


class SettingsError(ValueError):
    """One or more settings cannot be read. ``faults`` names each, what is wrong and what to write."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("settings cannot be read: " + "; ".join(faults))
        self.faults = tuple(faults)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings at fault, without what was written in them: this may leave the process."""
        named = {setting.name for setting in SETTINGS}
        found = (word for fault in self.faults for word in re.findall(r"\b[A-Z][A-Z_]{5,}\b", fault))
        return tuple(dict.fromkeys(word for word in found if word in named))


# --- parsers: text in, value out, ValueError with a sentence for a person ----------------------


def _guid(text: str) -> str:
    value = text.strip().lower()
    if not _GUID.fullmatch(value):
        raise ValueError("is not a GUID")
    return value


def _optional_guid(text: str) -> str | None:
    return _guid(text) if text.strip() else None


def _guids(text: str) -> frozenset[str]:
    return frozenset(_guid(part) for part in re.split(r"[,\s]+", text.strip()) if part)


def _protected(text: str) -> frozenset[str] | None:
    """None when nothing was written: an absent list is unreadable, not empty."""
    if not text.strip():
        return None
    return frozenset() if text.strip().lower() == "none" else _guids(text)


def _mode(text: str) -> Mode:
    try:
        return Mode(text.strip().lower())
    except ValueError:
        raise ValueError("is none of observe, approve, enforce") from None


def _disabling(text: str) -> Disabling:
    try:
        return Disabling(text.strip().lower())
    except ValueError:
        raise ValueError("is none of off, approval, automatic") from None


def _on_expiry(text: str) -> OnExpiry:
    try:
        return OnExpiry(text.strip().lower())
    except ValueError:
        raise ValueError("is neither leave nor contain") from None


@dataclass(frozen=True, slots=True)
class SignalSource:
    """
    A system that may send signals: its name, the object id of its caller, and how much it may weigh.

    ``alone`` is whether one signal of it is enough to contain. ``per_minute`` signals are taken, no more.
    """

    name: str
    caller: str
    alone: bool
    per_minute: int


def _signal_sources(text: str) -> Mapping[str, SignalSource]:
    sources: dict[str, SignalSource] = {}
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        name, _, rest = part.partition("=")
        caller, _, options = rest.partition(":")
        worth, _, rate = options.partition(":")
        if not re.fullmatch(r"[a-z][a-z0-9-]{1,30}", name) or worth not in ("", "corroborated", "alone"):
            raise ValueError(
                f"has {part!r} where NAME=CALLER-OBJECT-ID or NAME=CALLER-OBJECT-ID:corroborated:30 is expected"
            )
        if name in sources:
            raise ValueError(f"names {name} twice")
        sources[name] = SignalSource(name, _guid(caller), worth == "alone", _count(1, 6000)(rate or "30"))
    return sources


_RULE: Final = re.compile(r"AG-\d{2}[a-z]?")


def _rule_modes(text: str) -> Mapping[str, Mode]:
    modes = {}
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        rule, equals, mode = part.partition("=")
        if not equals or not _RULE.fullmatch(rule):
            raise ValueError(f"has {part!r} where AG-04=observe is expected")
        if rule in modes:
            raise ValueError(f"names {rule} twice")
        modes[rule] = _mode(mode)
    return modes


def _rules(text: str) -> frozenset[str]:
    rules = frozenset(filter(None, re.split(r"[,\s]+", text.strip())))
    if wrong := sorted(rule for rule in rules if not _RULE.fullmatch(rule)):
        raise ValueError(f"has {wrong[0]!r} where the id of a rule is expected, as AG-27")
    return rules


def _workspace(text: str) -> str:
    value = text.strip().rstrip("/")
    if not _WORKSPACE.fullmatch(value):
        raise ValueError(
            "is not the ARM id of a Log Analytics workspace (/subscriptions/.../workspaces/NAME)"
        )
    return value


def _url(*hosts: str) -> Callable[[str], str]:
    """A base URL whose host is one of ``hosts`` (or below a ``.suffix``); http only for localhost."""

    def parse(text: str) -> str:
        url = urlsplit(text.strip())
        host = (url.hostname or "").lower()
        if host in LOCAL_HOSTS and url.scheme in ("http", "https"):
            return text.strip().rstrip("/")
        known = any(host.endswith(h) if h.startswith(".") else host == h for h in hosts)
        if url.scheme != "https" or not known or url.port not in (None, 443) or "@" in url.netloc:
            raise ValueError(f"must be https and one of {', '.join(hosts)} (http only for localhost)")
        return text.strip().rstrip("/")

    return parse


def _count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d+", text.strip()) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _seconds(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(seconds=_count(least, most)(text))


def _store(text: str) -> str:
    """Checked again, in full, where the store is opened; here only the kind is."""
    value = text.strip()
    if not value.startswith(("sqlite:///", "https://", "http://localhost", "http://127.0.0.1")):
        raise ValueError("must be sqlite:///PATH or https://ACCOUNT.table.core.windows.net/TABLE")
    return value


def _text(text: str) -> str:
    return text.strip()


def _webhook(text: str) -> str:
    """Any https host: where people are told is theirs to say. It is handed no token, only what it is told."""
    value = text.strip()
    url = urlsplit(value)
    local = (url.hostname or "") in LOCAL_HOSTS and url.scheme == "http"
    if value and not local and (url.scheme != "https" or not url.hostname or "@" in url.netloc):
        raise ValueError("must be an https URL (http only for localhost)")
    return value


def _optional_url(*hosts: str) -> Callable[[str], str]:
    return lambda text: _url(*hosts)(text) if text.strip() else ""


def _hours(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(hours=_count(least, most)(text))


def _minutes(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(minutes=_count(least, most)(text))


def _rule_id(text: str) -> str:
    value = text.strip()
    if value and not re.fullmatch(r"dcr-[0-9a-f]{32}", value):
        raise ValueError("is no immutable id of a data collection rule (dcr- and 32 hex digits)")
    return value


def _connection_string(text: str) -> str:
    """Give the connection string without a last semicolon, which Microsoft's own parser cannot read."""
    value = text.strip().rstrip(";")
    if not value:
        return ""
    pairs = [pair.partition("=") for pair in value.split(";")]
    known = {name.lower(): part for name, _, part in pairs}
    if not all(name and part and "=" not in part for name, _, part in pairs) or len(known) != len(pairs):
        raise ValueError("is no connection string (InstrumentationKey=GUID;IngestionEndpoint=https://...)")
    if not _GUID.fullmatch(known.get("instrumentationkey", "")):
        raise ValueError("has no InstrumentationKey that is a GUID in lower case")
    endpoint = known.get("ingestionendpoint", "")
    try:
        _url(*_INGESTION_HOSTS)(endpoint)
    except ValueError as fault:
        # The app's token for Azure Monitor is sent there.
        raise ValueError(f"names an IngestionEndpoint that {fault}") from None
    return value


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def _yes_or_no(text: str) -> bool:
    value = text.strip().lower()
    if value not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return value == "true"


def _days(least: int, most: int) -> Callable[[str], timedelta]:
    return lambda text: timedelta(days=_count(least, most)(text))


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``default`` None means: must be written."""

    name: str
    field: str
    default: str | None
    meaning: str
    parse: Callable[[str], Any]
    sample: str | None = None


P: Final = "AGENTBREAKER_"
_REFERENCE: Final = "@Microsoft.KeyVault("
TELEMETRY_SETTING: Final = "APPLICATIONINSIGHTS_CONNECTION_STRING"
SETTINGS: Final = (
    Setting(P + "MODE", "mode", "observe", "observe: decide and record, touch nothing. approve: automatic findings wait for a person. enforce: contain.", _mode),
    Setting(P + "RULE_MODES", "rule_modes", "", "Modes of single rules, AG-07=observe,AG-08=approve. The more careful of rule and global mode wins.", _rule_modes),
    Setting(P + "RULES_OFF", "rules_off", "", "Rules that are not swept, AG-27,AG-23: for tables that this workspace does not have. Incidents of theirs are still known.", _rules),
    Setting(P + "TENANT_ID", "tenant_id", None, "The Entra tenant this app guards.", _guid, "11111111-1111-4111-8111-111111111111"),
    Setting(P + "WORKSPACE_ID", "workspace_id", None, "Log Analytics workspace (its GUID) that rules query.", _guid, "22222222-2222-4222-8222-222222222222"),
    Setting(P + "WORKSPACE_RESOURCE_ID", "workspace_resource_id", None, "ARM id of that workspace. Incidents of any other workspace are refused.", _workspace, "/subscriptions/33333333-3333-4333-8333-333333333333/resourceGroups/rg-sec/providers/Microsoft.OperationalInsights/workspaces/law-sec"),
    Setting(P + "PROTECTED_PRINCIPALS", "protected", "", "Object ids never contained, separated by commas, or the word none. Left empty, nothing is contained at all: an absent list is not an empty one.", _protected, "none"),
    Setting(P + "OWN_PRINCIPALS", "own_principals", "", "Object ids of the playbook, the deployer and other parts of this system, besides the app's own identity.", _guids),
    Setting(P + "AUTOMATIC_PER_HOUR", "automatic_per_hour", "3", "Storm brake: automatic containments in any 60 minutes, over all runs; more wait for a person.", _count(0, 1000)),
    Setting(P + "AUTOMATIC_PER_DAY", "automatic_per_day", "10", "Storm brake: automatic containments in any 24 hours.", _count(0, 10000)),
    Setting(P + "AUTOMATIC_SHARE_PERCENT", "automatic_share_percent", "5", "Storm brake: the most automatic containments in 24 hours, as a share of the principals that signed in in that time. Never fewer than AGENTBREAKER_AUTOMATIC_PER_HOUR.", _count(0, 100)),
    Setting(P + "AUTOMATIC_PER_OWNER", "automatic_per_owner", "3", "Storm brake: automatic containments in 24 hours of principals that have an owner in common.", _count(0, 1000)),
    Setting(P + "EVIDENCE_MAX_AGE_MINUTES", "evidence_max_age", "240", "A finding whose last event is older waits for a person.", _minutes(15, 2880)),
    Setting(P + "AGENT_RISK", "agent_risk", "false", "true: agent identities and blueprint principals are confirmed through Graph's beta riskyAgents (IdentityRiskyAgent.ReadWrite.All). Beta may change without notice.", _yes_or_no),
    Setting(P + "DISABLE_PRINCIPAL", "disabling", "off", "Lever disable-principal, for what Conditional Access cannot reach or did not stop. off: never. approval: a second person approves. automatic: pulled like any other.", _disabling),
    Setting(P + "REMOVAL_LEVERS", "removal_levers", "false", "true: people may order remove-credentials, remove-app-roles and remove-grants; two others approve each.", _yes_or_no),
    Setting(P + "APPROVAL_HOURS", "decide_within", "4", "Hours after which what waits for people expires.", _hours(1, 168)),
    Setting(P + "ON_EXPIRY", "on_expiry", "leave", "What happens then. leave: nothing is done. contain: what enforce would have contained, were it not for the mode, is contained, if no guardrail objects then.", _on_expiry),
    Setting(P + "PROBATION_HOURS", "probation", "24", "Hours after an undo in which one corroborated finding is enough to contain again.", _hours(1, 720)),
    Setting(P + "WHAT_IF", "what_if", "false", "true: Microsoft's What If is asked as a second opinion on whether a policy would block. It costs the tenant's one ID Protection call a second.", _yes_or_no),
    Setting(P + "SIGNAL_SOURCES", "signal_sources", "", "Who may send signals: NAME=CALLER-OBJECT-ID[:corroborated|alone[:PER-MINUTE]], separated by commas. Only alone lets one signal contain.", _signal_sources),
    Setting(P + "WEBHOOK_URL", "webhook_url", "", "Where people are told of what waits, is contained or failed (Teams or Slack incoming webhook). Often carries a secret: keep it in Key Vault.", _webhook),
    Setting(P + "WEBHOOK_SECRET", "webhook_secret", "", "Key of the signature that each notification carries. Keep it in Key Vault.", _text),
    Setting(P + "AUDIT_ENDPOINT", "audit_endpoint", "", "Logs ingestion endpoint of the data collection rule that takes the ledger (AgentbreakerAudit_CL). Empty: the ledger stays in the store only.", _optional_url(".ingest.monitor.azure.com", ".ingest.monitor.azure.us")),
    Setting(P + "AUDIT_RULE_ID", "audit_rule_id", "", "Immutable id of that data collection rule.", _rule_id),
    Setting(P + "AUDIT_STREAM", "audit_stream", "Custom-AgentbreakerAudit_CL", "Stream of that rule.", _text),
    Setting(P + "TRUSTED_ANALYTICS_RULES", "trusted_rules", "", "GUIDs of further Sentinel analytics rules whose incidents may contain without a person. Agentbreaker's own rules are known already.", _guids),
    Setting(P + "STORE", "store", "sqlite:///.state/agentbreaker.db", "Where state and ledger live: sqlite:///PATH, or https://ACCOUNT.table.core.windows.net/TABLE.", _store),
    Setting(P + "BATCH_SIZE", "batch_size", "50", "Principals in one confirmCompromised call. The documentation names no limit.", _count(1, 60)),
    Setting(P + "POLICIES_MAX_AGE_SECONDS", "policies_max_age", "300", "How old the last reading of Conditional Access policies may be before it is read again.", _seconds(1, 3600)),
    Setting(P + "CLIENT_ID", "client_id", "", "Application (client) id of the app's own identity; empty for a system-assigned managed identity.", _optional_guid),
    Setting(P + "CLIENT_SECRET", "client_secret", "", "Only for a laptop. Empty in Azure, where the managed identity is used.", _text),
    Setting(P + "AUTHORITY_URL", "authority_url", "https://login.microsoftonline.com", "Token endpoint. https even on localhost.", _url("login.microsoftonline.com", "login.microsoftonline.us")),
    Setting(P + "GRAPH_URL", "graph_url", "https://graph.microsoft.com", "Microsoft Graph.", _url("graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us")),
    Setting(P + "LOGS_URL", "logs_url", "https://api.loganalytics.io", "Log Analytics query API.", _url("api.loganalytics.io", "api.loganalytics.azure.com", "api.loganalytics.us")),
    Setting(P + "ARM_URL", "arm_url", "https://management.azure.com", "Azure Resource Manager, for Sentinel incidents.", _url("management.azure.com", "management.usgovcloudapi.net")),
    Setting(P + "CA_BUNDLE", "ca_bundle", "", "PEM file of further certificate authorities to trust, for a proxy that inspects TLS or a simulated tenant.", _text),
    Setting(P + "SWEEP_FAST_SCHEDULE", "sweep_fast_schedule", "0 * * * * *", "When rules run that need no history (NCRONTAB, UTC). Read by the Functions host, as all schedules: it needs each of them written.", _text),
    Setting(P + "SWEEP_SCHEDULE", "sweep_schedule", "0 */5 * * * *", "When rules run that judge a window (NCRONTAB, UTC).", _text),
    Setting(P + "SWEEP_BASELINE_SCHEDULE", "sweep_baseline_schedule", "0 12 * * * *", "When rules run that compare amounts with a principal's own past (NCRONTAB, UTC). After the hour, so that the hour is in the logs.", _text),
    Setting(P + "SWEEP_DORMANT_SCHEDULE", "sweep_dormant_schedule", "0 30 4 * * *", "When principals nobody uses are looked for (NCRONTAB, UTC).", _text),
    Setting(P + "SETTLE_SCHEDULE", "settle_schedule", "*/30 * * * * *", "When pending containments are settled (NCRONTAB, UTC).", _text),
    Setting(P + "DORMANT_AFTER_DAYS", "dormant_after", "90", "Days without a sign-in after which a principal that can still act is reported.", _days(7, 365)),
    Setting(P + "SIGN_IN_ACTIVITY_REPORT", "sign_in_activity_report", "false", "true: the dormant sweep also reads Graph's beta report servicePrincipalSignInActivities (AuditLog.Read.All). While it is refused nothing is proposed but to watch.", _yes_or_no),
    Setting("WEBSITE_AUTH_ENABLED", "easy_auth", "", "Written by the platform, never by you: says that Easy Auth checks callers. Anything but True and every call is refused.", _is_true),
    Setting(TELEMETRY_SETTING, "app_insights", "", "Written by the deployment: the Application Insights resource that telemetry goes to (docs/telemetry.md). Empty: none is made.", _connection_string),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, parsed. See ``SETTINGS`` for what each means."""

    mode: Mode
    rule_modes: Mapping[str, Mode]
    rules_off: frozenset[str]
    tenant_id: str
    workspace_id: str
    workspace_resource_id: str
    protected: frozenset[str] | None
    own_principals: frozenset[str]
    automatic_per_hour: int
    automatic_per_day: int
    automatic_share_percent: int
    automatic_per_owner: int
    evidence_max_age: timedelta
    agent_risk: bool
    disabling: Disabling
    removal_levers: bool
    decide_within: timedelta
    on_expiry: OnExpiry
    probation: timedelta
    what_if: bool
    signal_sources: Mapping[str, SignalSource]
    webhook_url: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    audit_endpoint: str
    audit_rule_id: str
    audit_stream: str
    trusted_rules: frozenset[str]
    store: str
    batch_size: int
    policies_max_age: timedelta
    client_id: str | None
    client_secret: str = field(repr=False)
    authority_url: str
    graph_url: str
    logs_url: str
    arm_url: str
    ca_bundle: str
    sweep_fast_schedule: str
    sweep_schedule: str
    sweep_baseline_schedule: str
    sweep_dormant_schedule: str
    settle_schedule: str
    dormant_after: timedelta
    sign_in_activity_report: bool
    easy_auth: bool
    app_insights: str = field(repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """
        Read every setting from ``env``.

        Raises: SettingsError with all faults, and with names that look like settings but are none
        (a typing error in AGENTBREAKER_PROTECTED_PRINCIPALS must not read as "nothing protected").
        """
        faults, values = [], {}
        for setting in SETTINGS:
            text = env.get(setting.name, setting.default)
            if text is None or (setting.default is None and not text.strip()):
                faults.append(f"{setting.name} is missing: {setting.meaning}")
                continue
            if text.strip().startswith(_REFERENCE):
                # Left as it is where the platform cannot follow it; as a signing key it would be one that anybody knows.
                faults.append(
                    f"{setting.name} is a Key Vault reference that the platform could not follow: the secret has to exist,"
                    " the app's identity needs Key Vault Secrets User on it, and the vault's firewall has to let the app in"
                )
                continue
            try:
                values[setting.field] = setting.parse(text)
            except ValueError as fault:
                faults.append(f"{setting.name} {fault}")
        known = {setting.name for setting in SETTINGS}
        faults += [
            f"{name} is no setting of this app"
            for name in sorted(env)
            if name.startswith(P) and name not in known
        ]
        if urlsplit(values.get("authority_url", "")).scheme == "http":
            faults.append(P + "AUTHORITY_URL must be https: azure-identity refuses anything else")
        azure = [name for name in ("WEBSITE_INSTANCE_ID", "WEBSITE_SITE_NAME") if env.get(name)]
        if azure and str(values.get("store", "")).startswith("sqlite:"):
            # Each instance would have a kill switch, a storm brake and a ledger of its own.
            faults.append(
                f"{P}STORE must be a table in Azure where {azure[0]} is set: instances share no disk"
            )
        if bool(values.get("audit_endpoint")) != bool(values.get("audit_rule_id")):
            faults.append(f"{P}AUDIT_ENDPOINT and {P}AUDIT_RULE_ID belong together: write both or neither")
        if values.get("webhook_url") and not values.get("webhook_secret"):
            faults.append(
                f"{P}WEBHOOK_URL is written and {P}WEBHOOK_SECRET is not: unsigned, anybody could pose as us"
            )
        if values.get("client_secret") and not values.get("client_id"):
            faults.append(P + "CLIENT_SECRET is written and " + P + "CLIENT_ID is not")
        if faults:
            raise SettingsError(faults)
        return cls(**values)


def telemetry_settings(env: Mapping[str, str]) -> tuple[str, str | None]:
    """
    Give where telemetry goes and as which identity, of settings that cannot be read as a whole.

    Empty where these two cannot be read either. Nothing else may be taken from settings that are at fault.
    """
    try:
        client = _optional_guid(env.get(P + "CLIENT_ID", ""))
        return _connection_string(env.get(TELEMETRY_SETTING, "")), client
    except ValueError:
        return "", None
