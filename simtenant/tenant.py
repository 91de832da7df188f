"""
The simulated tenant: who is in it, what its policies say, what has happened.

State only; the services over HTTP are ``entra``, ``graph`` and the modules
beside them. One ``Tenant`` is one Entra tenant with one workspace.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from simtenant.clock import Clock, iso
from simtenant.faults import Faults, RequestLog
from simtenant.risk import RiskLevel, Risks
from simtenant.throttle import Throttle
from simtenant.tokens import RESOURCES, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Json = dict[str, Any]

MICROSOFT_TENANT: Final = "f8cdef31-a31e-4b4a-93e4-5f571e91255a"
"""Owner tenant of Microsoft's own applications (merill/microsoft-info)."""


class PrincipalKind(StrEnum):
    """What sort of identity a service principal is; it decides what Conditional Access may do to it."""

    APPLICATION = "application"
    MANAGED_IDENTITY = "managed_identity"
    AGENT_IDENTITY = "agent_identity"
    AGENT_BLUEPRINT = "agent_blueprint"
    MULTITENANT_APPLICATION = "multitenant_application"
    MICROSOFT_FIRST_PARTY = "microsoft_first_party"


class UnknownIdBehaviour(StrEnum):
    """
    What confirmCompromised does with an id that is no service principal.

    Microsoft does not document it (facts/entra.md, "Could NOT confirm"), so
    both plausible answers can be tried.
    """

    REJECT_BATCH = "reject_batch"
    IGNORE = "ignore"


@dataclass
class TenantSettings:
    """
    How the tenant behaves. Read at each use, so a test may change it while it runs.

    ``token_lifetime`` is the shortest and longest life of a token without CAE.
    ``cae_enabled`` is whether Graph sends claims challenges at all.
    ``licensed`` is Workload ID Premium: without it ID Protection and writing to
    Conditional Access answer 403. ``page_size`` is of every list without $top.
    ``risk_takes_effect_after`` has no published figure; three seconds suit a
    demo. ``max_ids_per_call`` is not documented for service principals; 60 is what
    the sibling for users is remembered to take. ``sign_in_activity_reported`` is whether the beta report of last
    sign-ins answers at all (it takes a licence). The workspace's part of these settings is read by the log modules.
    """

    tenant_id: str = "8d3f2f1c-5d0e-4c1b-9a57-6c0a3f4be210"
    tenant_name: str = "contoso.onmicrosoft.com"
    risk_takes_effect_after: timedelta = timedelta(seconds=3)
    cae_enabled: bool = True
    token_lifetime: tuple[timedelta, timedelta] = (timedelta(minutes=60), timedelta(minutes=90))
    cae_token_lifetime: timedelta = timedelta(hours=24)
    identity_protection_per_second: float = 1.0
    unknown_id_behaviour: UnknownIdBehaviour = UnknownIdBehaviour.REJECT_BATCH
    max_ids_per_call: int = 60
    licensed: bool = True
    sign_in_activity_reported: bool = True
    log_ingestion_delay: timedelta = timedelta(seconds=2)
    duplicate_share: float = 0.035
    seed: int = 20261124
    page_size: int = 100
    workspace_id: str = "3c6b0f5e-7b1d-4f0e-8c85-1d4a5e9f7a02"
    workspace_resource_id: str = (
        "/subscriptions/1f0b6c2e-9d3a-4a57-b5a4-0e8d7c6b5a49/resourceGroups/rg-security"
        "/providers/Microsoft.OperationalInsights/workspaces/law-security"
    )


@dataclass(frozen=True, slots=True)
class HeldCredential:
    """
    A secret or certificate with which a principal may sign in, as the directory lists it.

    ``on_application`` is whether the app registration holds it; else the service principal itself does. Graph lists
    the two at different objects, and whoever looks at one of them only misses the others.
    """

    key_id: str
    starts_at: datetime
    ends_at: datetime
    display_name: str = ""
    is_certificate: bool = False
    on_application: bool = True


@dataclass(frozen=True, slots=True)
class LastSignIn:
    """When an application last signed in, or was signed in to, and by which request where that is known."""

    at: datetime
    request_id: str | None


@dataclass
class Principal:
    """
    A service principal, or one of its kinds.

    ``object_id`` is its own, ``application_object_id`` the app registration's
    (empty where this tenant holds none); the two are mixed up often enough to
    be worth telling apart. ``app_roles`` are the values of its application
    permissions on Microsoft Graph. ``owners`` are object ids. ``ip_address``,
    ``country`` and ``user_agent`` are where its sign-ins come from unless a
    request says otherwise. ``credentials`` are all it has, also those that have ended; the one
    it signs in with is ``credential_key_id``; ``lost_credentials`` were removed, and a certificate among them can be
    written again. ``directory_roles`` are role template ids, ``group_roles`` those
    it has through a group, ``security_attributes`` custom security attributes by
    set, ``grants``, ``federated`` (of the
    application) and ``own_federated`` (its own) Graph's own JSON. ``agent_identity_blueprint_id`` is the blueprint's
    appId, as in Graph.
    """

    object_id: str
    app_id: str
    display_name: str
    created_at: datetime
    kind: PrincipalKind = PrincipalKind.APPLICATION
    application_object_id: str = ""
    service_principal_type: str = "Application"
    sign_in_audience: str | None = "AzureADMyOrg"
    app_owner_organization_id: str | None = None
    account_enabled: bool = True
    secret: str | None = None
    credential_key_id: str = ""
    credentials: list[HeldCredential] = field(default_factory=list)
    app_roles: set[str] = field(default_factory=set)
    owners: list[str] = field(default_factory=list)
    sponsors: list[str] = field(default_factory=list)
    directory_roles: list[str] = field(default_factory=list)
    group_roles: list[str] = field(default_factory=list)
    security_attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    grants: list[Json] = field(default_factory=list)
    federated: list[Json] = field(default_factory=list)
    own_federated: list[Json] = field(default_factory=list)
    lost_credentials: list[HeldCredential] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    app_role_assignment_required: bool = False
    client_capabilities_cp1: bool = False
    agent_identity_blueprint_id: str | None = None
    ip_address: str = "198.51.100.10"
    country: str = "DE"
    user_agent: str = "python-requests/2.32.3"

    @property
    def is_covered_by_conditional_access(self) -> bool:
        """
        Whether Conditional Access for workload identities applies to it at all.

        Single-tenant applications registered here only: no managed identity, no
        multi-tenant and no Microsoft application. Agent identities have
        conditions of their own. Source: facts/entra.md §3, limits.
        """
        return self.kind is PrincipalKind.APPLICATION and self.sign_in_audience == "AzureADMyOrg"

    @property
    def has_lost_its_credential(self) -> bool:
        """Whether the credential it signs in with was taken from it."""
        return any(one.key_id == self.credential_key_id for one in self.lost_credentials)

    @property
    def agent_identity_type(self) -> str | None:
        """Graph's identityType of what ID Protection calls an agent, ``None`` for everything else."""
        match self.kind:
            case PrincipalKind.AGENT_IDENTITY:
                return "agentIdentity"
            case PrincipalKind.AGENT_BLUEPRINT:
                return "agentIdentityBlueprintPrincipal"
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Application:
    """An app registration of this tenant, as ``/applications`` shows it."""

    object_id: str
    app_id: str
    display_name: str
    sign_in_audience: str
    created_at: datetime
    is_blueprint: bool = False
    identifier_uris: tuple[str, ...] = ()
    group_membership_claims: str | None = None
    tags: tuple[str, ...] = ()
    app_roles: tuple[Json, ...] = ()
    """The roles of its API, in Graph's JSON."""
    api: Json = field(default_factory=dict)
    """Graph's ``api``: token version, delegated scopes, clients authorised beforehand."""


class LogSink(Protocol):
    """
    Where log rows go; ``simtenant/ingestion.py`` and ``RecordedLogs`` are the two.

    Must not block and must not be a coroutine: services call it in the middle
    of a request.
    """

    def write(self, table: str, row: Mapping[str, object]) -> None:
        """Take one row of a table; its keys are the documented column names."""


class RecordedLogs:
    """Keep rows in a list, in the order they were written, at once and once each."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Json]] = []

    def write(self, table: str, row: Mapping[str, object]) -> None:
        """Keep a copy of the row."""
        self.rows.append((table, dict(row)))

    def of(self, table: str) -> list[Json]:
        """Return the rows of one table."""
        return [row for name, row in self.rows if name == table]


class Tenant:
    """
    One simulated tenant.

    ``principals`` is keyed by object id, ``applications`` by the object id of
    the app registration, ``policies``, ``named_locations`` and ``agent_users`` hold Graph's own
    JSON. ``client_sign_ins`` and ``resource_sign_ins`` say by appId when an application
    last got a token, and was last the audience of one, before the services ran (``simtenant/history.py``).
    ``logs`` may be replaced before the server starts.
    """

    def __init__(
        self,
        settings: TenantSettings | None = None,
        *,
        clock: Clock | None = None,
        logs: LogSink | None = None,
    ) -> None:
        self.settings = TenantSettings() if settings is None else settings
        self.clock = Clock() if clock is None else clock
        self.logs: LogSink = RecordedLogs() if logs is None else logs
        self.faults = Faults()
        self.requests = RequestLog()
        self.throttle = Throttle()
        self.principals: dict[str, Principal] = {}
        self.applications: dict[str, Application] = {}
        self.agent_users: list[Json] = []
        self.policies: list[Json] = []
        self.named_locations: list[Json] = []
        self.roles_once_held: set[str] = set()
        self.times_taken: Counter[tuple[str, str]] = Counter()
        """How often an app role was taken from a principal: given again it is another assignment."""
        self.api_assignments: list[Json] = []  # app roles of APIs registered here, in Graph's JSON
        self.client_sign_ins: dict[str, LastSignIn] = {}
        self.resource_sign_ins: dict[str, LastSignIn] = {}
        self._random = random.Random(self.settings.seed)
        self._by_app_id: dict[str, str] = {}
        self._revoked: dict[str, datetime] = {}
        self.tokens = Tokens(self)
        self.risk = Risks(self)
        for resource in RESOURCES:
            self._add_resource(resource.app_id, resource.display_name)

    def new_id(self) -> str:
        """Make a GUID; the same seed makes the same ones in the same order."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def add_application(
        self,
        display_name: str,
        *,
        object_id: str | None = None,
        app_id: str | None = None,
        application_object_id: str | None = None,
        secret: str | None = None,
        sign_in_audience: str = "AzureADMyOrg",
        app_owner_organization_id: str | None = None,
        kind: PrincipalKind | None = None,
        app_roles: Iterable[str] = (),
        owners: Iterable[str] = (),
        tags: Iterable[str] = (),
        created_at: datetime | None = None,
        account_enabled: bool = True,
        client_capabilities_cp1: bool = False,
        ip_address: str = "198.51.100.10",
        country: str = "DE",
        user_agent: str = "python-requests/2.32.3",
        certificate: bool = False,
        credential_ends: datetime | None = None,
    ) -> Principal:
        """
        Register an application and its service principal.

        An audience other than this organisation makes it a multi-tenant one;
        with a foreign owner tenant there is no app registration here, and nobody
        here sees its credentials. Without a secret a random one is made. The
        credential in the directory is a secret of the application, or a ``certificate``
        (signing in with a secret works all the same), and ends after two years unless told otherwise.

        Raises: ValueError when an id is taken.
        """
        home = self.settings.tenant_id
        owner = home if app_owner_organization_id is None else app_owner_organization_id
        if kind is None:
            single = sign_in_audience == "AzureADMyOrg" and owner == home
            kind = PrincipalKind.APPLICATION if single else PrincipalKind.MULTITENANT_APPLICATION
        registered = application_object_id or self.new_id() if owner == home else ""
        key_id, created = self.new_id(), self._created(created_at)
        ends = created + timedelta(days=730) if credential_ends is None else credential_ends
        # Nothing here expires by the passing of a demo's two hours, so no sign-in looks at ``ends_at``.
        held = HeldCredential(key_id, created, ends, display_name="primary", is_certificate=certificate)
        return self._add(
            Principal(
                object_id=object_id or self.new_id(),
                app_id=app_id or self.new_id(),
                application_object_id=registered,
                display_name=display_name,
                kind=kind,
                sign_in_audience=sign_in_audience,
                app_owner_organization_id=owner,
                account_enabled=account_enabled,
                secret=secret if secret is not None else self._new_secret(),
                credential_key_id=key_id,
                credentials=[held] if registered else [],
                app_roles=set(app_roles),
                owners=list(owners),
                tags=list(tags),
                created_at=created,
                client_capabilities_cp1=client_capabilities_cp1,
                ip_address=ip_address,
                country=country,
                user_agent=user_agent,
            )
        )

    def add_principal_of(self, application: Application) -> Principal:
        """
        Make the service principal of an application that was registered without one.

        Raises: ValueError when it has one.
        """
        return self._add(
            Principal(
                object_id=self.new_id(),
                app_id=application.app_id,
                application_object_id=application.object_id,
                display_name=application.display_name,
                sign_in_audience=application.sign_in_audience,
                app_owner_organization_id=self.settings.tenant_id,
                created_at=self.clock.now(),
            )
        )

    def remove_application(self, application: Application) -> None:
        """Delete a registration with its service principal and what was assigned to that."""
        del self.applications[application.object_id]
        object_id = self._by_app_id.pop(application.app_id, None)
        if object_id is not None:
            del self.principals[object_id]
            self.api_assignments = [one for one in self.api_assignments if one["resourceId"] != object_id]

    def add_managed_identity(
        self,
        display_name: str,
        *,
        object_id: str | None = None,
        app_id: str | None = None,
        app_roles: Iterable[str] = (),
        created_at: datetime | None = None,
        ip_address: str = "198.51.100.20",
    ) -> Principal:
        """Add a managed identity: a service principal without app registration and without a secret."""
        return self._add(
            Principal(
                object_id=object_id or self.new_id(),
                app_id=app_id or self.new_id(),
                display_name=display_name,
                kind=PrincipalKind.MANAGED_IDENTITY,
                service_principal_type="ManagedIdentity",
                sign_in_audience=None,
                app_roles=set(app_roles),
                created_at=self._created(created_at),
                ip_address=ip_address,
            )
        )

    def add_agent_blueprint(
        self,
        display_name: str,
        *,
        object_id: str | None = None,
        app_id: str | None = None,
        secret: str | None = None,
        app_roles: Iterable[str] = (),
    ) -> Principal:
        """Add an agent identity blueprint with its principal; it holds the credentials of its agents."""
        return self.add_application(
            display_name,
            object_id=object_id,
            app_id=app_id,
            secret=secret,
            app_roles=app_roles,
            kind=PrincipalKind.AGENT_BLUEPRINT,
        )

    def add_agent_identity(
        self,
        display_name: str,
        *,
        blueprint: Principal,
        object_id: str | None = None,
        app_id: str | None = None,
        app_roles: Iterable[str] = (),
        owners: Iterable[str] = (),
        created_at: datetime | None = None,
        client_capabilities_cp1: bool = False,
        ip_address: str = "198.51.100.30",
        country: str = "DE",
        user_agent: str = "python-requests/2.32.3",
    ) -> Principal:
        """
        Add an agent identity of a blueprint.

        It has no credentials: the blueprint gets a token for the exchange
        endpoint and presents it as the agent's client assertion.
        Source: facts/entra.md §2.
        """
        return self._add(
            Principal(
                object_id=object_id or self.new_id(),
                app_id=app_id or self.new_id(),
                display_name=display_name,
                kind=PrincipalKind.AGENT_IDENTITY,
                service_principal_type="ServiceIdentity",
                app_owner_organization_id=self.settings.tenant_id,
                app_roles=set(app_roles),
                owners=list(owners),
                created_at=self._created(created_at),
                client_capabilities_cp1=client_capabilities_cp1,
                agent_identity_blueprint_id=blueprint.app_id,
                ip_address=ip_address,
                country=country,
                user_agent=user_agent,
            )
        )

    def add_agent_user(self, display_name: str, *, parent: Principal, object_id: str | None = None) -> Json:
        """Add the user of an agent identity in Graph's JSON and return it as stored. Source: agentuser.md."""
        name = f"{display_name.replace(' ', '-')}@{self.settings.tenant_name}"
        stored: Json = {
            "@odata.type": "#microsoft.graph.agentUser",
            "id": object_id or self.new_id(),
            "displayName": display_name,
            "userPrincipalName": name,
            "mail": name,
            "accountEnabled": True,
            "identityParentId": parent.object_id,
        }
        self.agent_users.append(stored)
        return stored

    def add_policy(self, policy: Mapping[str, Any]) -> Json:
        """
        Add a Conditional Access policy in Graph's own JSON and return it as stored.

        ``id``, ``state`` (enabled) and the times are filled where missing.
        Nothing is checked: the evaluation treats what it does not know as
        "does not apply".
        """
        now = iso(self.clock.now())
        stored: Json = {
            "id": self.new_id(),
            "templateId": None,
            "displayName": "Policy",
            "createdDateTime": now,
            "modifiedDateTime": now,
            "state": "enabled",
            "sessionControls": None,
            **policy,
        }
        self.policies.append(stored)
        return stored

    def add_risk_policy(
        self,
        *,
        display_name: str = "Block service principals at high risk",
        state: str = "enabled",
        include: Iterable[str] = ("ServicePrincipalsInMyTenant",),
        exclude: Iterable[str] = (),
        levels: Iterable[str] = ("high",),
    ) -> Json:
        """Add the block policy on service principal risk that arms the breaker (facts/entra.md §3)."""
        return self.add_policy(
            {
                "displayName": display_name,
                "state": state,
                "conditions": {
                    "clientAppTypes": ["all"],
                    "applications": {"includeApplications": ["All"], "excludeApplications": []},
                    "users": {"includeUsers": ["None"]},
                    "clientApplications": {
                        "includeServicePrincipals": list(include),
                        "excludeServicePrincipals": list(exclude),
                    },
                    "servicePrincipalRiskLevels": list(levels),
                },
                "grantControls": {"operator": "OR", "builtInControls": ["block"]},
            }
        )

    def add_named_location(self, location: Mapping[str, Any]) -> Json:
        """Add an ipNamedLocation or countryNamedLocation in Graph's JSON and return it as stored."""
        stored: Json = {"id": self.new_id(), "displayName": "Location", **location}
        self.named_locations.append(stored)
        return stored

    def principal_by_app_id(self, app_id: str) -> Principal | None:
        """Find a service principal of this tenant by its appId."""
        object_id = self._by_app_id.get(app_id.lower())
        return None if object_id is None else self.principals[object_id]

    def set_enabled(self, object_id: str, *, enabled: bool) -> None:
        """
        Enable or disable a principal; disabling revokes its CAE tokens.

        Writes no log row, because only the caller knows who did it.
        """
        principal = self.principals[object_id]
        if principal.account_enabled and not enabled:
            self.revoke(object_id, self.clock.now())
        principal.account_enabled = enabled

    def raise_risk(self, object_id: str, level: RiskLevel | str, event_type: str) -> None:
        """
        Let Microsoft itself detect something about a principal, with effect at once.

        Raises: KeyError for an unknown principal, ValueError for an unknown level.
        """
        self.risk.detect(object_id, RiskLevel(level), event_type)

    def revoke(self, object_id: str, at: datetime) -> None:
        """Remember a critical event: CAE tokens issued before it are challenged from now on."""
        self._revoked[object_id] = max(at, self._revoked.get(object_id, at))

    def revoked_at(self, object_id: str) -> datetime | None:
        """
        When the last critical event of a principal was (disabled, risk high), if any.

        Restoring the principal does not bring back tokens from before the event.
        """
        self.risk.settle()
        return self._revoked.get(object_id)

    def _add(self, principal: Principal) -> Principal:
        principal.object_id = principal.object_id.lower()
        principal.app_id = principal.app_id.lower()
        if principal.object_id in self.principals or principal.app_id in self._by_app_id:
            raise ValueError(f"{principal.display_name}: object id or app id is taken")
        self.principals[principal.object_id] = principal
        self._by_app_id[principal.app_id] = principal.object_id
        if principal.application_object_id and principal.application_object_id not in self.applications:
            self.applications[principal.application_object_id] = Application(
                object_id=principal.application_object_id,
                app_id=principal.app_id,
                display_name=principal.display_name,
                sign_in_audience=principal.sign_in_audience or "AzureADMyOrg",
                created_at=principal.created_at,
                is_blueprint=principal.kind is PrincipalKind.AGENT_BLUEPRINT,
            )
        return principal

    def _add_resource(self, app_id: str, display_name: str) -> None:
        self._add(
            Principal(
                object_id=str(uuid.uuid5(uuid.UUID(self.settings.tenant_id), app_id)),
                app_id=app_id,
                display_name=display_name,
                kind=PrincipalKind.MICROSOFT_FIRST_PARTY,
                sign_in_audience="AzureADMultipleOrgs",
                app_owner_organization_id=MICROSOFT_TENANT,
                created_at=self._created(None),
            )
        )

    def _created(self, at: datetime | None) -> datetime:
        return self.clock.now() - timedelta(days=120) if at is None else at

    def _new_secret(self) -> str:
        return f"sim-{self._random.getrandbits(160):040x}"
