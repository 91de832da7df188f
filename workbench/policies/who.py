"""Who runs the command: a person with their own sign-in. Never the app, and an application only where it is meant."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from clients.fields import token_claims
from workbench.policies.refusal import RefusedError
from workbench.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.core.credentials import AccessToken
    from azure.core.credentials_async import AsyncTokenCredential

READ: Final = ("Policy.Read.All",)
WRITE: Final = ("Policy.Read.All", "Policy.ReadWrite.ConditionalAccess", "Application.Read.All")
CLIENT_ID: Final = "AGENTBREAKER_DESK_CLIENT_ID"
CLIENT_SECRET: Final = "AGENTBREAKER_DESK_CLIENT_SECRET"  # noqa: S105  # the name of a variable


@dataclass(frozen=True, slots=True)
class Caller:
    """What a Graph token says about who holds it. It is ours, fresh from Entra over TLS, so its signature is not checked."""

    object_id: str
    tenant_id: str
    app_id: str
    is_application: bool
    permissions: frozenset[str]

    @classmethod
    def from_token(cls, token: str) -> Caller:
        """Read the claims. Raises: RefusedError where they cannot be read: then nobody can tell who this is."""
        try:
            claims = token_claims(token)
            scopes, roles = str(claims.get("scp") or "").split(), claims.get("roles") or []
            return cls(
                str(claims["oid"]).lower(),
                str(claims["tid"]).lower(),
                str(claims.get("appid") or claims.get("azp") or "").lower(),
                claims.get("idtyp") == "app" or not scopes,
                frozenset(scopes or roles),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError("the token for Graph does not say whose it is; sign in again") from error


def check(
    caller: Caller,
    tenant_id: str,
    needed: tuple[str, ...],
    *,
    app_object_id: str,
    app_client_id: str,
    application_meant: bool,
) -> None:
    """
    Refuse who must not do this. Raises: RefusedError.

    The app's own identity contains principals; with the right to change policies it could disarm its own breaker, and so
    could whoever takes it over.
    """
    if caller.tenant_id != tenant_id.lower():
        raise RefusedError(
            f"you are signed in to tenant {caller.tenant_id}, and {tenant_id} was named. Sign in to that one, as:"
            f" az login --tenant {tenant_id}"
        )
    own = caller.object_id == app_object_id.lower() or (
        caller.is_application and caller.app_id == app_client_id.lower() != ""
    )
    if own:
        raise RefusedError(
            "this is the app's own identity, which must not change policies. Sign in as a person (az login), and take"
            " Policy.ReadWrite.ConditionalAccess from the app if it has it"
        )
    if caller.is_application and not application_meant:
        raise RefusedError(
            "you are signed in as an application, and policies are changed by a person. Sign in as one (az login); for a"
            f" simulated tenant or CI set {CLIENT_ID} and {CLIENT_SECRET}"
        )
    if missing := [one for one in needed if one not in caller.permissions]:
        raise RefusedError(
            f"your token for Graph has no {', '.join(missing)}. The Azure CLI can be one of the clients that never get it:"
            " then register a public client with these delegated permissions, have an administrator consent, and use"
            " --sign-in browser --client-id ITS-ID"
        )


def credential(
    environment: Mapping[str, str],
    *,
    tenant_id: str,
    sign_in: str,
    client_id: str,
    authority: str,
    ca_bundle: str,
) -> tuple[AsyncTokenCredential, bool]:
    """Give how to sign in, and whether an application was meant. Raises: UsageError."""
    from azure.identity import InteractiveBrowserCredential  # noqa: PLC0415  # half a second, only for who signs in
    from azure.identity.aio import (  # noqa: PLC0415
        AzureCliCredential,
        ClientSecretCredential,
        DefaultAzureCredential,
    )

    ours, secret = environment.get(CLIENT_ID, ""), environment.get(CLIENT_SECRET, "")
    if ours or secret:
        if not (ours and secret):
            raise UsageError(f"set both {CLIENT_ID} and {CLIENT_SECRET}, or neither and sign in as a person")
        options: dict[str, Any] = {"connection_verify": ca_bundle} if ca_bundle else {}
        known = authority.startswith("https://login.microsoftonline.")
        return ClientSecretCredential(
            tenant_id, ours, secret, authority=authority, disable_instance_discovery=not known, **options
        ), True
    match sign_in:
        case "cli":
            return AzureCliCredential(tenant_id=tenant_id), False
        case "browser":
            if not client_id:
                raise UsageError(
                    "--sign-in browser needs --client-id: the public client that you sign in with"
                )
            return _InThread(InteractiveBrowserCredential(tenant_id=tenant_id, client_id=client_id)), False
        case _:
            # Only what a person signs in with: an identity of a machine or a pipeline is not one.
            return DefaultAzureCredential(
                authority=authority,
                exclude_managed_identity_credential=True,
                exclude_workload_identity_credential=True,
                exclude_environment_credential=True,
            ), False


class _InThread:
    """A credential that waits for a person in a browser, off the event loop."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        token: AccessToken = await asyncio.to_thread(self._inner.get_token, *scopes, **options)
        return token

    async def close(self) -> None:
        await asyncio.to_thread(self._inner.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
