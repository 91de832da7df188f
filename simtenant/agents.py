"""
Agents that live in the simulated tenant: they ask for tokens and call services over real HTTP, as clients do.

An agent keeps its tokens until shortly before they expire, answers a claims challenge by asking for a new token with
the claims in it (``facts/entra.md`` §4), tries again what a client library would try again, and tells a callback what
happened to it. It knows nothing of the breaker.
"""

import asyncio
import base64
import json
import random
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from simtenant.population import Activity, Api, Member, Population, pooled_id
from simtenant.resources import SHAREPOINT_AUDIENCE, VAULT_AUDIENCE
from simtenant.tenant import PrincipalKind, Tenant
from simtenant.tokens import GRAPH, resource_named

GRAPH_AUDIENCE: Final = "https://graph.microsoft.com"
_EXCHANGE_SCOPE: Final = "api://AzureADTokenExchange/.default"
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_AUDIENCES: Final[Mapping[Api, str]] = {
    Api.GRAPH: GRAPH_AUDIENCE,
    Api.SHAREPOINT: SHAREPOINT_AUDIENCE,
    Api.VAULT: VAULT_AUDIENCE,
}

BLOCKED_BY_POLICY: Final = 53003
_TRIES: Final = 3
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_RENEW_BEFORE: Final = timedelta(minutes=5)
_CHALLENGE: Final = re.compile(r'error="insufficient_claims".*?claims="(?P<claims>[^"]+)"')

# No live activity is faster than this, however much time is compressed: the laptop has other things to do.
_FASTEST_SECONDS: Final = 1.0

# Fewer than any rule's floor for amounts.
_HURRIED_CALLS: Final = 4

OnEvent = Callable[[datetime, str, str, str], None]
"""Called with the tenant's time, the principal's name, what happened (see ``Agent``) and a detail in words."""


class TokenDeniedError(Exception):
    """Entra refused a token; ``number`` is the AADSTS number."""

    def __init__(self, number: int, description: str) -> None:
        super().__init__(description)
        self.number = number


class UnreachableError(Exception):
    """A service did not answer, or only with errors of its own, after the usual retries."""


@dataclass(frozen=True)
class _Token:
    value: str
    expires_at: datetime


class Agent:
    """
    One principal with its client: tokens, calls, rhythm.

    Events it reports: ``token`` (a new one), ``call`` (answered below 400), ``denied`` (401 or 403), ``failed`` (any
    other status, or no answer), ``challenged`` (the token was revoked while it lived), ``blocked`` (no token, by
    Conditional Access), ``refused`` (no token, for another reason). ``blocked`` the event is set at the first such.
    """

    def __init__(
        self,
        member: Member,
        *,
        tenant: Tenant,
        base_url: str,
        session: aiohttp.ClientSession,
        on_event: OnEvent,
    ) -> None:
        self.member = member
        self.blocked = asyncio.Event()
        self.calls = 0
        self._tenant = tenant
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._on_event = on_event
        self._tokens: dict[str, _Token] = {}
        self._known_vaults: set[str] = set()
        self._random = random.Random(f"{tenant.settings.seed}/{member.name}")

    @property
    def name(self) -> str:
        """The display name of the principal."""
        return self.member.name

    def report(self, what: str, detail: str) -> None:
        """Tell the callback that something happened to this agent, now."""
        self._on_event(self._tenant.clock.now(), self.name, what, detail)

    def forget_token(self, api: Api) -> None:
        """Drop the token held for a service, as a script does that starts anew each time."""
        self._tokens.pop(_AUDIENCES[api], None)

    async def token(self, audience: str, *, challenge: Mapping[str, Any] | None = None) -> str:
        """
        Return a token for an audience (``https://...``), from memory unless a challenge asks for a new one.

        Raises: TokenDeniedError; UnreachableError.
        """
        held = self._tokens.get(audience)
        now = self._tenant.clock.now()
        if held is not None and challenge is None and held.expires_at - _RENEW_BEFORE > now:
            return held.value
        if self.member.principal.kind is PrincipalKind.MANAGED_IDENTITY:
            new = self._platform_token(audience)
        else:
            new = await self._entra_token(audience, challenge)
        self._tokens[audience] = new
        self.report("token", audience)
        return new.value

    async def call(self, api: Api, path: str, *, method: str = "GET") -> int:
        """
        Call a service once, as a client library would; returns the status, 0 without a token or an answer.

        A challenge is answered once with a new token. The outcome is reported, so nothing is raised.
        """
        url = self._url(api, path)
        audience = _AUDIENCES[api]
        what = f"{method} {path}"
        try:
            await self._greet(api, path, url)
            status, challenge = await self._send(method, url, await self.token(audience))
            if challenge is not None:
                self.report("challenged", what)
                self._tokens.pop(audience, None)
                status, _ = await self._send(method, url, await self.token(audience, challenge=challenge))
        except TokenDeniedError as denied:
            self._tokens.pop(audience, None)
            if denied.number == BLOCKED_BY_POLICY:
                self.blocked.set()
                self.report("blocked", f"{what}: AADSTS{denied.number}")
            else:
                self.report("refused", f"{what}: AADSTS{denied.number}")
            return 0
        except UnreachableError as error:
            self.report("failed", f"{what}: {error}")
            return 0
        self.calls += 1
        self.report(
            "call" if status < 400 else "denied" if status in {401, 403} else "failed", f"{what} {status}"
        )
        return status

    async def live(self, *, compression: float, hurried: int | None = None) -> None:
        """
        Go on with all activities of the profile until cancelled.

        Time runs ``compression`` times as fast, for the first ``hurried`` calls of each activity or for ever, and the
        working hours are left out: a demo at night shows work too. Failures of a profile come from the services, which
        know nothing of the profile's shares. Activities of services that only the logs know are left out.
        """
        async with asyncio.TaskGroup() as activities:
            for activity in self.member.profile.activities:
                if activity.api in _AUDIENCES and not activity.refusal:
                    activities.create_task(self._repeat(activity, compression, hurried))

    async def _repeat(self, activity: Activity, compression: float, hurried: int | None) -> None:
        usual = max(activity.every.total_seconds(), _FASTEST_SECONDS)
        pause = max(activity.every.total_seconds() / compression, _FASTEST_SECONDS)
        # Everyone starts somewhere inside the first interval, or all agents would call in step.
        await asyncio.sleep(self._random.uniform(0, pause))
        turn = self._random.randrange(len(activity.paths))
        while True:
            path = activity.paths[turn % len(activity.paths)]
            one_of = pooled_id(self.name, self._random.randrange(activity.pool))
            await self.call(activity.api, path.replace("{id}", one_of), method=activity.method)
            turn += 1
            if hurried is not None:
                hurried -= 1
                pause = pause if hurried > 0 else usual
            await asyncio.sleep(pause * self._random.uniform(0.6, 1.4))

    def _url(self, api: Api, path: str) -> str:
        match api:
            case Api.GRAPH:
                return self._base_url + path
            case Api.SHAREPOINT:
                site, _, file = path.partition("/")
                return f"{self._base_url}/sharepoint/sites/{site}/files" + (f"/{file}" if file else "")
            case Api.VAULT:
                return f"{self._base_url}/vaults/{path}"
            case Api.ARM | Api.STORAGE | Api.LOGS:
                raise ValueError(f"{api} exists in the logs only, nothing serves it")

    async def _greet(self, api: Api, path: str, url: str) -> None:
        """Call a vault without a token the first time, as the Key Vault SDKs do to learn from the challenge."""
        vault = path.partition("/")[0]
        if api is Api.VAULT and vault not in self._known_vaults:
            await self._request("GET", url, {})
            self._known_vaults.add(vault)

    async def _send(self, method: str, url: str, token: str) -> tuple[int, Mapping[str, Any] | None]:
        """Call with a token; returns the status and the claims of a challenge, if there is one."""
        status, headers, _ = await self._request(method, url, {"Authorization": f"Bearer {token}"})
        return status, _challenge(headers) if status == 401 else None

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = {"User-Agent": self.member.principal.user_agent, **headers}
        problem = ""
        for attempt in range(_TRIES):
            try:
                async with self._session.request(method, url, headers=sent, data=form) as response:
                    body = await response.read()
                    if response.status not in _RETRIED:
                        return response.status, response.headers, body
                    problem = f"status {response.status}"
                    pause = _seconds(response.headers.get("Retry-After"), default=0.2 * 2**attempt)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
                pause = 0.2 * 2**attempt
            await asyncio.sleep(pause)
        raise UnreachableError(problem)

    async def _entra_token(self, audience: str, challenge: Mapping[str, Any] | None) -> _Token:
        principal = self.member.principal
        form = {
            "grant_type": "client_credentials",
            "client_id": principal.app_id,
            "scope": f"{audience}/.default",
        }
        if principal.kind is PrincipalKind.AGENT_IDENTITY:
            form |= {
                "client_assertion": await self._blueprint_token(),
                "client_assertion_type": _ASSERTION_TYPE,
            }
        else:
            form["client_secret"] = principal.secret or ""
        claims = _claims(cp1=principal.client_capabilities_cp1, challenge=challenge)
        if claims:
            form["claims"] = json.dumps(claims)
        return await self._ask_entra(form)

    async def _blueprint_token(self) -> str:
        """Leg one of an agent identity's sign-in: its blueprint's credential buys an assertion (facts/entra.md §2)."""
        blueprint = self._tenant.principal_by_app_id(self.member.principal.agent_identity_blueprint_id or "")
        if blueprint is None:
            raise TokenDeniedError(700016, f"the blueprint of {self.name} is gone")
        form = {
            "grant_type": "client_credentials",
            "client_id": blueprint.app_id,
            "client_secret": blueprint.secret or "",
            "scope": _EXCHANGE_SCOPE,
        }
        return (await self._ask_entra(form)).value

    async def _ask_entra(self, form: Mapping[str, str]) -> _Token:
        url = f"{self._base_url}/{self._tenant.settings.tenant_id}/oauth2/v2.0/token"
        asked_at = self._tenant.clock.now()
        status, _, body = await self._request("POST", url, {}, form)
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise UnreachableError(f"the token endpoint answered {status} without JSON") from error
        if status != 200:
            numbers = answer.get("error_codes") or [0]
            raise TokenDeniedError(int(numbers[0]), str(answer.get("error_description", status)))
        return _Token(answer["access_token"], asked_at + timedelta(seconds=int(answer["expires_in"])))

    def _platform_token(self, audience: str) -> _Token:
        """
        Get a managed identity's token.

        On a real host the platform's local endpoint does that; the simulated tenant has no such endpoint, so the token
        is issued in process and the sign-in row, which carries no address or user agent, is written here.
        """
        tenant, principal = self._tenant, self.member.principal
        now, uti = tenant.clock.now(), tenant.tokens.new_uti()
        lifetime = timedelta(hours=24)
        resource = resource_named(audience) or GRAPH
        tenant.logs.write(
            "AADManagedIdentitySignInLogs",
            {
                "CreatedDateTime": now,
                "Id": tenant.new_id(),
                "CorrelationId": tenant.new_id(),
                "OperationName": "Sign-in activity",
                "Category": "ManagedIdentitySignInLogs",
                "ResultType": "0",
                "ResultSignature": "SUCCESS",
                "ServicePrincipalId": principal.object_id,
                "ServicePrincipalName": principal.display_name,
                "AppId": principal.app_id,
                "AADTenantId": tenant.settings.tenant_id,
                "ClientCredentialType": "managedIdentity",
                "ConditionalAccessStatus": "notApplied",
                "ConditionalAccessPolicies": "[]",
                "ResourceDisplayName": resource.display_name,
                "ResourceIdentity": resource.app_id,
                "UniqueTokenIdentifier": uti,
                "SourceSystem": "Azure AD",
            },
        )
        return _Token(tenant.tokens.issue(principal, audience, lifetime=lifetime, uti=uti), now + lifetime)


class AgentCrew:
    """
    All agents of a population at work; an async context manager, at whose end they stop.

    ``agents`` is keyed by name. An agent that breaks (a fault of this program, not of a service) ends the crew with
    its error at the exit. After a few quick calls, so that everyone is seen at work, the benign keep the rhythm of their
    history: rules that know it would be right to report a day's work done in a minute.
    """

    def __init__(
        self,
        population: Population,
        *,
        tenant: Tenant,
        base_url: str,
        on_event: OnEvent,
        compression: float = 60.0,
    ) -> None:
        self._population = population
        self._tenant = tenant
        self._base_url = base_url
        self._on_event = on_event
        self._compression = compression
        self._stack = AsyncExitStack()
        self._work: asyncio.Task[None] | None = None
        self.agents: dict[str, Agent] = {}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=10)
        session = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        for member in self._population:
            self.agents[member.name] = Agent(
                member,
                tenant=self._tenant,
                base_url=self._base_url,
                session=session,
                on_event=self._on_event,
            )
        self._work = asyncio.create_task(self._all_live(), name="agents at work")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._work is not None:
                self._work.cancel()
                await asyncio.wait([self._work])
                if not self._work.cancelled():
                    self._work.result()
        finally:
            await self._stack.aclose()

    async def _all_live(self) -> None:
        async with asyncio.TaskGroup() as lives:
            for agent in self.agents.values():
                rogue = agent.member is self._population.rogue
                lives.create_task(
                    agent.live(compression=self._compression, hurried=None if rogue else _HURRIED_CALLS)
                )


def _claims(*, cp1: bool, challenge: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge the declared capability with the claims a challenge asks for, as client libraries do."""
    access_token: dict[str, Any] = dict((challenge or {}).get("access_token", {}))
    if cp1:
        access_token["xms_cc"] = {"values": ["cp1"]}
    return {"access_token": access_token} if access_token else {}


def _challenge(headers: Mapping[str, str]) -> Mapping[str, Any] | None:
    found = _CHALLENGE.search(headers.get("WWW-Authenticate", ""))
    if found is None:
        return None
    text = found["claims"]
    decoded = base64.b64decode(
        text + "=" * (-len(text) % 4), altchars=b"-_" if "-" in text or "_" in text else None
    )
    claims = json.loads(decoded)
    return claims if isinstance(claims, dict) else None


def _seconds(text: str | None, *, default: float) -> float:
    return float(text) if text is not None and text.isdigit() else default
