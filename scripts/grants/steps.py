"""What is given, one step each: is it there, give it, take it back. Every step looks before and after it writes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ClientError, Conflicting, NotFound, NotSent, OutcomeUnknown, Refused, Throttled
from grants import api
from handlers.auth import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from grants.azure_roles import AzureRoles
    from grants.catalogue import Permission
    from grants.directory import Directory

_GRANTER: Final = (
    "You need Privileged Role Administrator (or Graph AppRoleAssignment.ReadWrite.All and Application.Read.All)"
    " active in this tenant: activate it, sign in again (az login), and repeat."
)
_REGISTRAR: Final = (
    "You need Cloud Application Administrator or Application Administrator (or Graph Application.ReadWrite.All)"
    " active in this tenant: activate it, sign in again (az login), and repeat."
)
_AZURE: Final = (
    "You need Owner, User Access Administrator or Role Based Access Control Administrator on the playbook's resource"
    " group: have it assigned, sign in again (az login), and repeat."
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, for the directory to show what was written, and how often to look."""

    total: float = 60.0
    every: float = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to give. ``take`` raises Kept where taking it back would take more than was given."""

    title: str
    why: str
    rights: str
    there: Callable[[], Awaitable[bool]]
    give: Callable[[], Awaitable[None]]
    take: Callable[[], Awaitable[None]]
    ours: Callable[[], Awaitable[bool]]
    """Whether what this script gives is (still) there; differs from ``there`` where somebody else gave the same."""
    needs: str = ""
    warning: str = ""


class Kept(Exception):
    """It is not taken back, with the reason."""


@dataclass
class Result:
    """What a run did, in words of the step's title."""

    done: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def graph_role(directory: Directory, principal: str, resource: str, role: str, right: Permission) -> Step:
    """Give an identity one application permission of Microsoft Graph."""

    async def rows() -> list[dict[str, Any]]:
        held = await directory.roles_of(principal)
        return [one for one in held if one.get("resourceId") == resource and one.get("appRoleId") == role]

    async def there() -> bool:
        return bool(await rows())

    async def give() -> None:
        await directory.assign(principal, resource, role)

    async def take() -> None:
        for one in await rows():
            await directory.write("DELETE", f"/servicePrincipals/{principal}/appRoleAssignments/{one['id']}")

    why = f"{right.why} ({'required' if right.required else 'optional'})"
    return Step(right.value, why, _GRANTER, there, give, take, there, warning=right.danger)


class ApiSteps:
    """The API's registration, its service principal and who holds its roles."""

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory, self.name = directory, name

    async def found(self) -> dict[str, Any] | None:
        """Give our registration. Raises: ValueError when the name is taken or given twice."""
        named = await self._directory.applications_named(self.name)
        if len(named) > 1:
            raise ValueError(
                f"{len(named)} app registrations are named {self.name!r}, so none is touched. Rename or delete the"
                " ones that are not this API's, and repeat."
            )
        if named and not api.is_ours(named[0]):
            raise ValueError(
                f"An app registration named {self.name!r} is there and does not carry the tag {api.MARK}, so this"
                " script did not make it. Give another --api-name, or add the tag if it is to be used."
            )
        return named[0] if named else None

    async def resource(self) -> dict[str, Any] | None:
        """Give the API's service principal."""
        made = await self.found()
        return None if made is None else await self._directory.principal_of(str(made["appId"]))

    def registration(self) -> Step:
        """Register the API."""

        async def there() -> bool:
            made = await self.found()
            return made is not None and api.is_complete(made)

        async def give() -> None:
            made = await self.found()
            if made is None:
                body = {
                    "displayName": self.name,
                    "signInAudience": "AzureADMyOrg",
                    "tags": [api.MARK],
                    "appRoles": api.app_roles(),
                    "api": api.exposed({}),
                }
                await self._directory.write("POST", "/applications", body, accepts=(201,))
                made = await self.found()
            if made is None:
                raise NotFound("Microsoft Graph", "the registration just made is not shown yet")
            uris = dict.fromkeys([*(made.get("identifierUris") or ()), f"api://{made['appId']}"])
            body = {
                "identifierUris": list(uris),
                "groupMembershipClaims": api.group_claims(made),
                "appRoles": api.with_ours(made),
                "api": api.exposed(made.get("api") or {}),
            }
            await self._directory.write("PATCH", f"/applications/{made['id']}", body)

        async def take() -> None:
            made = await self.found()
            if made is None:
                return
            resource = await self.resource()
            others = [] if resource is None else await self._directory.assigned_to(str(resource["id"]))
            if others:
                raise Kept(f"{len(others)} assignments of its roles are left that were not named here")
            await self._directory.write("DELETE", f"/applications/{made['id']}")

        async def ours() -> bool:
            return await self.found() is not None

        why = "callers prove their role to this API; Easy Auth checks its audience"
        return Step(f"app registration {self.name}", why, _REGISTRAR, there, give, take, ours)

    def caller(self, client_id: str, registration: Step) -> Step:
        """Let a client program ask for people's tokens without consent. Roles and assignment are asked for all the same."""

        async def there() -> bool:
            made = await self.found()
            return made is not None and api.lets(made, client_id)

        async def give() -> None:
            made = await self.found()
            if made is None:
                raise NotFound("Microsoft Graph", "the registration is not shown yet")
            body = {"api": api.exposed(made.get("api") or {}, (client_id,))}
            await self._directory.write("PATCH", f"/applications/{made['id']}", body)

        async def take() -> None:
            made = await self.found()
            if made is not None:
                body = {"api": api.without(made.get("api") or {}, client_id)}
                await self._directory.write("PATCH", f"/applications/{made['id']}", body)

        return Step(
            f"{self.name} may be called with client {client_id}",
            "people get tokens with this program, as the Azure CLI, without being asked for consent",
            _REGISTRAR,
            there,
            give,
            take,
            there,
            needs=registration.title,
        )

    def principal(self, registration: Step) -> Step:
        """Make the API's service principal, which gives tokens only to those who were assigned."""

        async def there() -> bool:
            held = await self.resource()
            return held is not None and held.get("appRoleAssignmentRequired") is True

        async def give() -> None:
            made = await self.found()
            if made is None:
                raise NotFound("Microsoft Graph", "the registration is not shown yet")
            held = await self.resource()
            body: dict[str, Any] = {"appRoleAssignmentRequired": True}
            if held is None:
                new = {"appId": made["appId"], **body}
                await self._directory.write("POST", "/servicePrincipals", new, accepts=(201,))
            else:
                await self._directory.write("PATCH", f"/servicePrincipals/{held['id']}", body)

        async def nothing() -> None:
            raise Kept("it goes with its registration")

        why = "Entra gives tokens for the API only to those who were assigned a role"
        return Step(
            f"service principal of {self.name}, assignment required",
            why,
            _REGISTRAR,
            there,
            give,
            nothing,
            there,
            needs=registration.title,
        )

    def assignment(self, role: Role, holder: str, principal: Step) -> Step:
        """Assign a role of the API to an identity, person or group."""

        async def rows() -> list[dict[str, Any]]:
            resource = await self.resource()
            if resource is None:
                return []
            held = await self._directory.assigned_to(str(resource["id"]))
            wanted = (holder, api.role_id(role))
            return [one for one in held if (one.get("principalId"), one.get("appRoleId")) == wanted]

        async def there() -> bool:
            return bool(await rows())

        async def give() -> None:
            resource = await self.resource()
            if resource is None:
                raise NotFound("Microsoft Graph", "the API's service principal is not shown yet")
            await self._directory.assign(holder, str(resource["id"]), api.role_id(role))

        async def take() -> None:
            for one in await rows():
                path = f"/servicePrincipals/{one['resourceId']}/appRoleAssignedTo/{one['id']}"
                await self._directory.write("DELETE", path)

        why = "the playbook hands over incidents" if role is Role.INCIDENT_SUBMIT else "named with --assign"
        title = f"{role} of {self.name} to {holder}"
        return Step(title, why, _GRANTER, there, give, take, there, needs=principal.title)


def azure_role(roles: AzureRoles, principal: str) -> Step:
    """Let Sentinel start the playbook."""

    async def there() -> bool:
        return bool(await roles.held_by(principal))

    async def ours() -> bool:
        mine = roles.ours(principal).lower()
        try:
            return any(one.lower() == mine for one in await roles.held_by(principal))
        except NotFound:  # the group is gone, and everything on it
            return False

    async def give() -> None:
        await roles.assign(principal)

    async def take() -> None:
        if await ours():
            await roles.unassign(principal)

    title = "Microsoft Sentinel Automation Contributor on the playbook's resource group to Azure Security Insights"
    return Step(title, "automation rules start the playbook", _AZURE, there, give, take, ours)


async def apply(steps: Sequence[Step], patience: Patience, say: Callable[[str], None]) -> Result:
    """Give what is not there. A failed step keeps only those that need it from being tried."""
    result = Result()
    for step in steps:
        if step.needs in result.failed:
            result.failed[step.title] = f"not tried: it needs {step.needs}"
            continue
        try:
            if await step.there():
                result.already.append(step.title)
                continue
            await _written(step.give, step.there, patience, say, step.title)
        except (ClientError, ValueError) as error:
            result.failed[step.title] = reason(error, step)
        else:
            result.done.append(step.title)
            say(f"given: {step.title}")
    return result


async def remove(steps: Sequence[Step], patience: Patience, say: Callable[[str], None]) -> Result:
    """Take back what these steps give, last first."""
    result = Result()
    for step in reversed(steps):
        try:
            if not await step.ours():
                result.already.append(step.title)
                continue
            await _written(step.take, _not(step.ours), patience, say, step.title)
        except Kept as kept:
            result.kept.append(f"{step.title}: {kept}")
        except (ClientError, ValueError) as error:
            result.failed[step.title] = reason(error, step)
        else:
            result.done.append(step.title)
            say(f"taken back: {step.title}")
    return result


def reason(error: Exception, step: Step) -> str:
    """Say what happened, and for a missing right which one it is."""
    if isinstance(error, Refused):
        return f"{error}. {step.rights}"
    if isinstance(error, Conflicting) and error.code == "ScopeLocked":
        return (
            f"{error}. A lock forbids it, and nothing was changed: take it away (az lock delete --name"
            " agentbreaker-no-deletion --resource-group GROUP), then repeat"
        )
    if isinstance(error, OutcomeUnknown):
        return f"{error}. It may have taken effect and is not shown yet: repeat the command, it looks first."
    return str(error)


async def _written(
    write: Callable[[], Awaitable[None]],
    shown: Callable[[], Awaitable[bool]],
    patience: Patience,
    say: Callable[[str], None],
    title: str,
) -> None:
    """Write until the tenant shows it: again after 404 (not replicated yet) and 429, and after an unknown outcome look first."""
    until = time.monotonic() + patience.total
    while True:
        wait, error = patience.every, None
        try:
            await write()
        except (NotFound, Throttled, NotSent, OutcomeUnknown) as failed:
            error = failed
            if isinstance(failed, Throttled) and failed.retry_after is not None:
                wait = max(wait, failed.retry_after.total_seconds())
        while not await shown():
            if time.monotonic() + wait > until:
                raise error or OutcomeUnknown(
                    "Microsoft", f"accepted, but not shown within {patience.total:.0f} s"
                )
            say(f"waiting: {title} ({error or 'accepted, not shown yet'})")
            await asyncio.sleep(wait)
            if error is not None and not isinstance(error, OutcomeUnknown):
                break
        else:
            return


def _not(question: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return not await question()

    return answer
