"""
Entra's token endpoint: client credentials, Conditional Access, the sign-in log.

Each request of a known principal writes one row of AADServicePrincipalSignInLogs,
whether it got a token or not. Error numbers: facts/log-tables.md §1 (from the
EntraID-ErrorCodes list) and facts/entra.md §6; the messages are shortened.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote_plus, urlsplit

from aiohttp import web

from simtenant import conditional_access
from simtenant.faults import APP_ID
from simtenant.tokens import (
    GRAPH,
    SHAREPOINT,
    TOKEN_EXCHANGE,
    InvalidTokenError,
    MalformedClaimsError,
    Resource,
    declares_cp1,
    resource_named,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simtenant.conditional_access import Evaluation
    from simtenant.tenant import Principal, Tenant

Json = dict[str, Any]

CLIENT_IP_HEADER: Final = "X-Sim-Client-IP"
"""A request may say where it pretends to come from; a real service sees that from the connection."""
CLIENT_COUNTRY_HEADER: Final = "X-Sim-Client-Country"

_FORM: Final = "application/x-www-form-urlencoded"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class TokenRefusedError(Exception):
    """
    The token endpoint refuses; carries the OAuth error, the AADSTS number and the HTTP status.

    ``principal`` is set once the request is known to concern one: then a
    sign-in row is written.
    """

    def __init__(self, error: str, number: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.error = error
        self.number = number
        self.message = message
        self.status = status


@dataclass
class _Attempt:
    """A token request as far as it is understood; what the sign-in row is made of."""

    trace_id: str
    correlation_id: str
    principal: Principal | None = None
    resource: Resource | None = None
    audience: str = ""
    credential_type: str = "clientSecret"
    evaluation: Evaluation | None = None
    cp1: bool = False
    uti: str = ""


def routes(tenant: Tenant) -> list[web.RouteDef]:
    """Return the routes of login.microsoftonline.com."""
    service = _Entra(tenant)
    return [
        web.post("/{tenant}/oauth2/v2.0/token", service.token),
        web.get("/{tenant}/v2.0/.well-known/openid-configuration", service.openid_configuration),
        web.get("/{tenant}/discovery/v2.0/keys", service.keys),
        web.get("/common/discovery/instance", service.instance_discovery),
    ]


class _Entra:
    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant

    async def token(self, request: web.Request) -> web.Response:
        attempt = _Attempt(
            trace_id=self._tenant.new_id(),
            correlation_id=request.headers.get("client-request-id") or self._tenant.new_id(),
        )
        try:
            body = await self._grant(request, attempt)
        except TokenRefusedError as refused:
            self._log(request, attempt, refused)
            return web.json_response(
                self._error(refused, attempt), status=refused.status, headers=_headers(attempt)
            )
        self._log(request, attempt, None)
        return web.json_response(body, headers=_headers(attempt))

    async def openid_configuration(self, request: web.Request) -> web.Response:
        named = request.match_info["tenant"]
        try:
            self._check_tenant(named)
        except TokenRefusedError as refused:
            return web.json_response(self._error(refused, _Attempt(self._tenant.new_id(), "")), status=400)
        root = f"{request.url.origin()}/{self._tenant.settings.tenant_id}"
        return web.json_response(
            {
                "token_endpoint": f"{root}/oauth2/v2.0/token",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
                "jwks_uri": f"{root}/discovery/v2.0/keys",
                "issuer": f"{root}/v2.0",
                "authorization_endpoint": f"{root}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{root}/oauth2/v2.0/devicecode",
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "tenant_region_scope": "EU",
                "cloud_instance_name": "localhost",
            }
        )

    async def keys(self, _request: web.Request) -> web.Response:
        return web.json_response(self._tenant.tokens.jwks())

    async def instance_discovery(self, request: web.Request) -> web.Response:
        # Asked only by clients that did not switch instance discovery off.
        host = request.url.authority
        known = [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}]
        tenant_id = self._tenant.settings.tenant_id
        endpoint = f"{request.url.origin()}/{tenant_id}/v2.0/.well-known/openid-configuration"
        return web.json_response({"tenant_discovery_endpoint": endpoint, "metadata": known})

    async def _grant(self, request: web.Request, attempt: _Attempt) -> Json:
        self._check_tenant(request.match_info["tenant"])
        posted = await request.post() if request.content_type == _FORM else {}
        form = {name: value for name, value in posted.items() if isinstance(value, str)}
        client_id, secret = _credentials(request, form)
        grant_type = form.get("grant_type")
        if grant_type is None:
            _refuse_missing("grant_type")
        if grant_type != "client_credentials":
            raise TokenRefusedError(
                "unsupported_grant_type",
                70003,
                f"The app requested an unsupported grant type '{grant_type}'.",
            )
        if not client_id:
            _refuse_missing("client_id")
        principal = self._tenant.principal_by_app_id(client_id)
        if principal is None:
            raise TokenRefusedError(
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory"
                f" '{self._tenant.settings.tenant_name}'.",
            )
        attempt.principal = principal
        request[APP_ID] = principal.app_id
        self._find_resource(form.get("scope"), attempt)
        self._authenticate(principal, secret, form, attempt)
        if not principal.account_enabled or self._blueprint_is_disabled(principal):
            raise TokenRefusedError(
                "unauthorized_client",
                7000112,
                f"Application '{principal.app_id}'({principal.display_name}) is disabled.",
            )
        try:
            attempt.cp1 = declares_cp1(form.get("claims"))
        except MalformedClaimsError as error:
            raise TokenRefusedError("invalid_request", 9000410, "Malformed JSON.") from error
        self._evaluate(request, principal, attempt)
        return self._issue(principal, attempt)

    def _check_tenant(self, named: str) -> None:
        settings = self._tenant.settings
        if named.lower() in {settings.tenant_id.lower(), settings.tenant_name.lower()}:
            return
        if "." not in named and len(named) != len(settings.tenant_id):
            raise TokenRefusedError(
                "invalid_request",
                900023,
                f"Specified tenant identifier '{named}' is neither a valid DNS name,"
                " nor a valid external domain.",
            )
        raise TokenRefusedError("invalid_request", 90002, f"Tenant '{named}' not found.")

    def _find_resource(self, scope: str | None, attempt: _Attempt) -> None:
        if not scope:
            _refuse_missing("scope")
        wanted = [one for one in scope.split() if one.endswith("/.default")]
        if len(wanted) != 1:
            raise TokenRefusedError(
                "invalid_scope",
                1002012,
                f"The provided value for scope {scope} is not valid. Client credential flows must have a scope"
                " value with /.default suffixed to the resource identifier (application ID URI).",
            )
        identifier = wanted[0].removesuffix("/.default")
        resource = resource_named(identifier)
        if resource is SHAREPOINT and "." in identifier:
            # Other tenants' SharePoint is no resource of this one.
            own = self._tenant.settings.tenant_name.partition(".")[0]
            host = (urlsplit(identifier).hostname or "").removesuffix(".sharepoint.com")
            if host not in {own, f"{own}-my", f"{own}-admin"}:
                resource = None
        if resource is None:
            raise TokenRefusedError(
                "invalid_resource",
                500011,
                f"The resource principal named {identifier} was not found in the tenant named"
                f" {self._tenant.settings.tenant_name}.",
            )
        attempt.resource = resource
        attempt.audience = identifier

    def _authenticate(
        self, principal: Principal, secret: str | None, form: Mapping[str, str], attempt: _Attempt
    ) -> None:
        assertion = form.get("client_assertion")
        if assertion is not None:
            attempt.credential_type = "clientAssertion"
            self._check_assertion(principal, assertion, form)
            return
        if not secret:
            raise TokenRefusedError(
                "invalid_client",
                7000216,
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials'"
                " grant type.",
                status=401,
            )
        expected = None if principal.has_lost_its_credential else principal.secret
        if expected is None or not hmac.compare_digest(secret.encode(), expected.encode()):
            raise TokenRefusedError(
                "invalid_client",
                7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client"
                f" secret value, not the client secret ID, for a secret added to app '{principal.app_id}'.",
                status=401,
            )

    def _check_assertion(self, principal: Principal, assertion: str, form: Mapping[str, str]) -> None:
        # The only assertion known here is the one an agent identity's blueprint
        # got for the exchange endpoint (facts/entra.md §2).
        if form.get("client_assertion_type") != _ASSERTION:
            _refuse_missing("client_assertion_type")
        try:
            claims = self._tenant.tokens.validate(f"Bearer {assertion}", TOKEN_EXCHANGE.app_id)
        except InvalidTokenError as error:
            raise TokenRefusedError(
                "invalid_client", 700027, "Client assertion failed signature validation.", status=401
            ) from error
        if claims.app_id != principal.agent_identity_blueprint_id:
            raise TokenRefusedError(
                "invalid_client",
                70021,
                "No matching federated identity record found for presented assertion.",
                status=401,
            )

    def _blueprint_is_disabled(self, principal: Principal) -> bool:
        if principal.agent_identity_blueprint_id is None:
            return False
        blueprint = self._tenant.principal_by_app_id(principal.agent_identity_blueprint_id)
        return blueprint is None or not blueprint.account_enabled

    def _evaluate(self, request: web.Request, principal: Principal, attempt: _Attempt) -> None:
        if attempt.resource is None or attempt.resource is TOKEN_EXCHANGE:
            # Leg one of an agent's sign-in is never evaluated: facts/entra.md §2.
            return
        attempt.evaluation = conditional_access.evaluate(
            self._tenant.policies,
            self._tenant.named_locations,
            conditional_access.sign_in_of(
                principal,
                attempt.resource.app_id,
                client_ip(request, principal),
                client_country(request, principal),
                self._tenant.risk.level(principal.object_id).value,
            ),
        )
        if attempt.evaluation.blocked:
            raise TokenRefusedError(
                "invalid_grant",
                53003,
                "Access has been blocked by Conditional Access policies. The access policy does not allow"
                " token issuance.",
            )

    def _issue(self, principal: Principal, attempt: _Attempt) -> Json:
        tokens = self._tenant.tokens
        # Only Graph honours CAE for workloads, so only there is a token long-lived.
        cae = attempt.cp1 and self._tenant.settings.cae_enabled and _is_graph(attempt.resource)
        lifetime = tokens.lifetime(cae=cae and principal.is_covered_by_conditional_access)
        attempt.uti = tokens.new_uti()
        seconds = int(lifetime.total_seconds())
        body: Json = {
            "token_type": "Bearer",
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": tokens.issue(
                principal, attempt.audience, cp1=attempt.cp1, lifetime=lifetime, uti=attempt.uti
            ),
        }
        if seconds >= 2 * 3600:
            # Entra asks clients to renew long-lived tokens at half time (msal: refresh_in).
            body["refresh_in"] = seconds // 2
        return body

    def _error(self, refused: TokenRefusedError, attempt: _Attempt) -> Json:
        at = self._tenant.clock.now()
        body: Json = {
            "error": refused.error,
            "error_description": (
                f"AADSTS{refused.number}: {refused.message} Trace ID: {attempt.trace_id}"
                f" Correlation ID: {attempt.correlation_id} Timestamp: {at:%Y-%m-%d %H:%M:%SZ}"
            ),
            "error_codes": [refused.number],
            "timestamp": f"{at:%Y-%m-%d %H:%M:%SZ}",
            "trace_id": attempt.trace_id,
            "correlation_id": attempt.correlation_id,
            "error_uri": f"https://login.microsoftonline.com/error?code={refused.number}",
        }
        if refused.number == 53003:
            body["suberror"] = "message_only"
        return body

    def _log(self, request: web.Request, attempt: _Attempt, refused: TokenRefusedError | None) -> None:
        principal = attempt.principal
        if principal is None:
            return
        tenant = self._tenant
        settings = tenant.settings
        now = tenant.clock.now()
        resource = attempt.resource
        resource_principal = None if resource is None else tenant.principal_by_app_id(resource.app_id)
        evaluation = attempt.evaluation
        country = client_country(request, principal)
        tenant.logs.write(
            "AADServicePrincipalSignInLogs",
            {
                "TimeGenerated": now,
                "CreatedDateTime": now,
                "Id": attempt.trace_id,
                "CorrelationId": attempt.correlation_id,
                "OperationName": "Sign-in activity",
                "OperationVersion": "1.0",
                "Category": "ServicePrincipalSignInLogs",
                "DurationMs": 0,
                "ResultType": "0" if refused is None else str(refused.number),
                "ResultSignature": "SUCCESS" if refused is None else "FAILURE",
                "ResultDescription": "" if refused is None else refused.message,
                "ServicePrincipalId": principal.object_id,
                "ServicePrincipalName": principal.display_name,
                "AppId": principal.app_id,
                "AppOwnerTenantId": principal.app_owner_organization_id or "",
                "ResourceDisplayName": "" if resource is None else resource.display_name,
                "ResourceIdentity": "" if resource is None else resource.app_id,
                "ResourceServicePrincipalId": (
                    "" if resource_principal is None else resource_principal.object_id
                ),
                "ResourceOwnerTenantId": (
                    "" if resource_principal is None else resource_principal.app_owner_organization_id
                ),
                "IPAddress": client_ip(request, principal),
                "Location": country,
                "LocationDetails": json.dumps({"city": "", "state": "", "countryOrRegion": country}),
                "NetworkLocationDetails": "[]",
                "UserAgent": client_user_agent(request, principal),
                "AuthenticationProcessingDetails": json.dumps(_processing_details(attempt)),
                "UniqueTokenIdentifier": attempt.uti or tenant.tokens.new_uti(),
                # Absent on a failure: facts/log-tables.md §1.
                "ServicePrincipalCredentialKeyId": principal.credential_key_id if refused is None else "",
                "ClientCredentialType": attempt.credential_type,
                "ConditionalAccessStatus": "notApplied" if evaluation is None else evaluation.status,
                "ConditionalAccessPolicies": json.dumps(_applied_policies(evaluation)),
                "Agent": json.dumps(_agent(principal)),
                "AADTenantId": settings.tenant_id,
                "SourceSystem": "Azure AD",
                "Type": "AADServicePrincipalSignInLogs",
            },
        )


def client_ip(request: web.Request, principal: Principal) -> str:
    """Return where a request pretends to come from: the simulation's header, else the principal's usual place."""
    return request.headers.get(CLIENT_IP_HEADER) or principal.ip_address


def client_country(request: web.Request, principal: Principal) -> str:
    """Return the country a request pretends to come from, else the principal's usual one."""
    return request.headers.get(CLIENT_COUNTRY_HEADER) or principal.country


def client_user_agent(request: web.Request, principal: Principal) -> str:
    """Return the caller's user agent, else the principal's usual one."""
    return request.headers.get("User-Agent") or principal.user_agent


def _is_graph(resource: Resource | None) -> bool:
    return resource is GRAPH


def _headers(attempt: _Attempt) -> dict[str, str]:
    return {"x-ms-request-id": attempt.trace_id, "Cache-Control": "no-store, no-cache", "Pragma": "no-cache"}


def _credentials(request: web.Request, form: Mapping[str, str]) -> tuple[str, str | None]:
    header = request.headers.get("Authorization", "")
    if not header.lower().startswith("basic "):
        return form.get("client_id", ""), form.get("client_secret")
    try:
        decoded = base64.b64decode(header[6:], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise TokenRefusedError("invalid_request", 90013, "Invalid input received from the user.") from error
    # RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
    client_id, _, secret = decoded.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def _refuse_missing(name: str) -> NoReturn:
    raise TokenRefusedError(
        "invalid_request", 900144, f"The request body must contain the following parameter: '{name}'."
    )


def _processing_details(attempt: _Attempt) -> list[Json]:
    details = [{"key": "Azure AD App Authentication Library", "value": "Family: MSAL Library: MSAL.Python"}]
    # Whether SP rows carry this key is not confirmed (facts/log-tables.md §1, CAE).
    return [*details, {"key": "Is CAE Token", "value": "True" if attempt.cp1 else "False"}]


def _applied_policies(evaluation: Evaluation | None) -> list[Json]:
    if evaluation is None:
        return []
    return [
        {
            "id": applied.policy["id"],
            "displayName": applied.policy["displayName"],
            "result": applied.result.value,
            "enforcedGrantControls": ["Block"] if applied.matches else [],
            "enforcedSessionControls": [],
        }
        for applied in evaluation.applied
    ]


def _agent(principal: Principal) -> Json:
    match principal.agent_identity_type:
        case "agentIdentity":
            kind, parent = "agenticAppInstance", principal.agent_identity_blueprint_id
        case "agentIdentityBlueprintPrincipal":
            kind, parent = "agenticApp", None
        case _:
            kind, parent = "notAgentic", None
    return {"agentType": kind, "parentAppId": parent, "agentSubjectType": "notAgentic"}
