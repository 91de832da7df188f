"""
Access tokens of the simulated tenant: issued, and checked by the resources.

Shape: JWTs with the claims of a v1.0 app-only token (``appid``, ``idtyp``,
``uti``, ``xms_cc``), which is what Graph, Key Vault and ARM receive whatever
endpoint issued them. Source: entra-docs identity-platform/access-tokens.md and
claims-challenge.md (collected in facts/entra.md §4).
"""

from __future__ import annotations

import json
import random
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simtenant.tenant import Principal, Tenant


@dataclass(frozen=True, slots=True)
class Resource:
    """
    An API of Microsoft's that tokens are issued for.

    ``hosts`` are the host names its ``<resource>/.default`` scopes carry; a
    leading dot matches every host that ends so. Application ids are from
    merill/microsoft-info ``_info/MicrosoftApps.json`` (facts/log-tables.md §1).
    """

    app_id: str
    display_name: str
    hosts: tuple[str, ...]

    def answers_to(self, host: str) -> bool:
        """Whether a scope with this host name, or this app id, means the resource."""
        return host == self.app_id or any(
            host.endswith(known) if known.startswith(".") else host == known for known in self.hosts
        )


GRAPH: Final = Resource("00000003-0000-0000-c000-000000000000", "Microsoft Graph", ("graph.microsoft.com",))
SHAREPOINT: Final = Resource(
    "00000003-0000-0ff1-ce00-000000000000", "Office 365 SharePoint Online", (".sharepoint.com",)
)
KEY_VAULT: Final = Resource(
    "cfa8b339-82a2-471a-a3c9-0fc0be7a4093", "Azure Key Vault", ("vault.azure.net", ".vault.azure.net")
)
ARM: Final = Resource(
    "797f4846-ba00-4fd7-ba43-dac1f8f63013",
    "Windows Azure Service Management API",
    ("management.azure.com", "management.core.windows.net"),
)
LOG_ANALYTICS: Final = Resource(
    "ca7f3f0b-7d91-482c-8e09-c5d840d0eac5",
    "Log Analytics API",
    ("api.loganalytics.io", "api.loganalytics.azure.com"),
)
STORAGE: Final = Resource(
    "e406a681-f3d4-42a8-90b6-c2b029497af1", "Azure Storage", ("storage.azure.com", ".core.windows.net")
)
# Its app id is not in our facts; this one is made up, and nothing but our own tokens carries it.
MONITOR: Final = Resource("4d4f4e49-544f-4000-8000-000000000001", "Azure Monitor", ("monitor.azure.com",))
TOKEN_EXCHANGE: Final = Resource(
    "fb60f99c-7a34-4190-8149-302f77469936", "AAD Token Exchange Endpoint: Public", ("azureadtokenexchange",)
)
RESOURCES: Final = (GRAPH, SHAREPOINT, KEY_VAULT, ARM, LOG_ANALYTICS, STORAGE, MONITOR, TOKEN_EXCHANGE)


def resource_named(identifier: str) -> Resource | None:
    """Find the resource an identifier URI (``https://vault.azure.net``), host or app id stands for."""
    host = identifier.strip().lower().partition("://")[2] or identifier.strip().lower()
    host = host.split("/", 1)[0]
    # ARM before storage: management.core.windows.net would match ".core.windows.net" as well.
    return next((resource for resource in RESOURCES if resource.answers_to(host)), None)


class InvalidTokenError(Exception):
    """A bearer token is missing, not ours, expired or for another audience; ``code`` is Graph's word for it."""

    def __init__(self, message: str, *, code: str = "InvalidAuthenticationToken") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Claims:
    """
    What a valid token says.

    ``issued_at`` is exact to the microsecond, unlike the ``iat`` claim: a token
    from the second in which its principal was revoked must be tellable from
    one issued after it. ``cp1`` is whether the client declared that it handles
    claims challenges.
    """

    audience: str
    object_id: str
    app_id: str
    roles: frozenset[str]
    uti: str
    issued_at: datetime
    expires_at: datetime
    cp1: bool


class Tokens:
    """
    The token issuer of one tenant.

    The signing key is random and lives only in this object, so a token of one
    simulated tenant is worth nothing at another, let alone in Azure.
    """

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._random = random.Random(tenant.settings.seed + 1)
        self.key_id = uuid.UUID(int=self._random.getrandbits(128), version=4).hex

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def jwks(self) -> dict[str, Any]:
        """Return the public key in the form of ``discovery/v2.0/keys``."""
        public: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [public | {"kid": self.key_id, "use": "sig", "x5t": self.key_id}]}

    def new_uti(self) -> str:
        """Make a unique token identifier: 16 random bytes as 22 characters of base64url."""
        return urlsafe_b64encode(self._random.randbytes(16)).decode().rstrip("=")

    def lifetime(self, *, cae: bool) -> timedelta:
        """
        Draw how long a new token lives.

        Random between the two bounds of the settings, or a day for a client
        that declared cp1. Source: facts/entra.md §4.
        """
        settings = self._tenant.settings
        if cae:
            return settings.cae_token_lifetime
        shortest, longest = settings.token_lifetime
        return timedelta(
            seconds=round(self._random.uniform(shortest.total_seconds(), longest.total_seconds()))
        )

    def issue(
        self,
        principal: Principal,
        audience: str,
        *,
        cp1: bool = False,
        lifetime: timedelta | None = None,
        uti: str | None = None,
    ) -> str:
        """
        Sign a token for a principal, without asking Conditional Access and without a sign-in row.

        ``audience`` is written as it is. ``cp1`` writes the capability claim;
        the lifetime follows from it unless given.
        """
        tenant = self._tenant
        now = tenant.clock.now()
        lives = self.lifetime(cae=cp1) if lifetime is None else lifetime
        claims: dict[str, Any] = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{tenant.settings.tenant_id}/",
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + lives).timestamp()),
            "appid": principal.app_id,
            "appidacr": "1",
            "app_displayname": principal.display_name,
            "idtyp": "app",
            "oid": principal.object_id,
            "sub": principal.object_id,
            "tid": tenant.settings.tenant_id,
            "uti": self.new_uti() if uti is None else uti,
            "ver": "1.0",
            "sim_issued_at": now.timestamp(),
        }
        if resource_named(audience) is GRAPH:
            claims["roles"] = sorted(principal.app_roles)
        if cp1:
            claims["xms_cc"] = ["CP1"]
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.key_id})

    def validate(self, authorization: str | None, audience: str, now: datetime | None = None) -> Claims:
        """
        Check an ``Authorization`` header against an audience and return what the token says.

        An audience is accepted under its app id as well as its URI; for hosts
        of customers (``contoso.sharepoint.com``) the host must agree.

        Raises: InvalidTokenError.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise InvalidTokenError("Access token is empty.")
        try:
            body: dict[str, Any] = jwt.decode(
                token.strip(),
                self._key.public_key(),
                algorithms=["RS256"],
                # The tenant's clock may be ahead of the machine's, and audiences
                # have several spellings: both are checked below instead.
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
            )
        except jwt.PyJWTError as error:
            raise InvalidTokenError(
                "Access token validation failure. Invalid signature or format."
            ) from error
        claims = _claims(body)
        if claims.expires_at <= (self._tenant.clock.now() if now is None else now):
            raise InvalidTokenError("Lifetime validation failed, the token is expired.")
        if not _same_audience(claims.audience, audience):
            raise InvalidTokenError("Access token validation failure. Invalid audience.")
        return claims


def _claims(body: Mapping[str, Any]) -> Claims:
    return Claims(
        audience=body["aud"],
        object_id=body["oid"],
        app_id=body["appid"],
        roles=frozenset(body.get("roles", ())),
        uti=body["uti"],
        issued_at=datetime.fromtimestamp(body["sim_issued_at"], UTC),
        expires_at=datetime.fromtimestamp(body["exp"], UTC),
        cp1="CP1" in body.get("xms_cc", ()),
    )


def _same_audience(one: str, other: str) -> bool:
    if one.rstrip("/").lower() == other.rstrip("/").lower():
        return True
    resource = resource_named(one)
    if resource is None or resource is not resource_named(other):
        return False
    # Two different customer hosts are two audiences; a host and the app id are one.
    return resource.app_id in {one, other} or not any(host.startswith(".") for host in resource.hosts)


class MalformedClaimsError(Exception):
    """The ``claims`` parameter of a token request is not the JSON that Entra expects."""


def declares_cp1(claims: str | None) -> bool:
    """
    Whether the ``claims`` parameter of a token request declares the capability cp1, in any letter case.

    Raises: MalformedClaimsError.
    """
    if not claims:
        return False
    try:
        wanted = json.loads(claims)
    except ValueError as error:
        raise MalformedClaimsError("claims is not JSON") from error
    access_token = wanted.get("access_token", {}) if isinstance(wanted, dict) else None
    if not isinstance(access_token, dict):
        raise MalformedClaimsError("claims is not an object with an object access_token")
    capabilities = access_token.get("xms_cc")
    values = capabilities.get("values") if isinstance(capabilities, dict) else None
    return isinstance(values, list) and "cp1" in (str(value).lower() for value in values)
