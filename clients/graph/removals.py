"""
What can be taken from a principal and given back: credentials, app roles, delegated grants.

Every removal reads what is there first and takes only that; every restoration reads first and makes nothing twice. So
both can be repeated after an answer that was lost. Snapshots carry no secret: Graph never shows one again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from clients.errors import Malformed, NotFound
from clients.fields import text
from clients.graph.calls import SERVICE, Beta, GraphCalls
from clients.terms import ObjectId, ServicePrincipal, is_guid, object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACES: Final = ("applications", "servicePrincipals")


@dataclass(frozen=True, slots=True)
class Credential:
    """
    One credential: where it hangs, what it is, and what is needed to write it again.

    ``kind`` is ``secret``, ``certificate`` or ``federated``; ``body`` is Graph's own JSON, without a secret's value.
    """

    place: str
    place_id: str
    kind: str
    key: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CredentialSnapshot:
    """Every credential of an application and of its service principal."""

    held: tuple[Credential, ...]

    @property
    def is_empty(self) -> bool:
        """Whether it has no way left to prove who it is."""
        return not self.held

    def to_body(self) -> dict[str, Any]:
        """Give it as JSON for the store."""
        return {"held": [asdict(one) for one in self.held]}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read back what ``to_body`` wrote. Raises: KeyError, TypeError."""
        return cls(tuple(Credential(**one) for one in body["held"]))


@dataclass(frozen=True, slots=True)
class AssignmentSnapshot:
    """App role assignments of a service principal: Graph's id, resource and role of each."""

    principal: ObjectId
    held: tuple[Mapping[str, str], ...]

    @property
    def is_empty(self) -> bool:
        """Whether it holds none."""
        return not self.held

    def to_body(self) -> dict[str, Any]:
        """Give it as JSON for the store."""
        return {"principal": self.principal, "held": [dict(one) for one in self.held]}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Read back what ``to_body`` wrote. Raises: KeyError, TypeError, ValueError."""
        return cls(object_id(body["principal"]), tuple(dict(one) for one in body["held"]))


class GrantSnapshot(AssignmentSnapshot):
    """Delegated grants of a service principal: Graph's id, resource, scope and who consented."""


class Removals(GraphCalls):
    """Removal levers. None is retried here; each takes apart what several requests do, so a failure may be half done."""

    # --- credentials -----------------------------------------------------------------------------

    async def credentials(self, principal: ServicePrincipal) -> CredentialSnapshot:
        """
        Read every secret, certificate and federated credential of a principal and of its application.

        Raises: Refused (Application.Read.All); Unavailable; Malformed.
        """
        held = await self._keys_at("servicePrincipals", object_id(principal.object_id))
        url = f"{self._base_url}/v1.0/applications(appId='{_guid(principal.app_id)}')?$select=id"
        try:
            application = str((await self._read("read application", Beta(url)))["id"])
        except NotFound:  # registered elsewhere: its application's credentials are not ours to see
            return CredentialSnapshot(tuple(held))
        held += await self._keys_at("applications", _guid(application))
        held += await self._federated_at(_guid(application))
        return CredentialSnapshot(tuple(held))

    async def _keys_at(self, place: str, place_id: str) -> list[Credential]:
        url = f"{self._base_url}/v1.0/{place}/{place_id}?$select=id,passwordCredentials,keyCredentials"
        found = await self._read("read credentials", Beta(url))
        lists = (("secret", "passwordCredentials"), ("certificate", "keyCredentials"))
        held = []
        for kind, name in lists:
            items = found.get(name)
            if not isinstance(items, list) or not all(is_guid(one.get("keyId")) for one in items):
                raise Malformed(SERVICE, f"credentials without {name}")
            held += [
                Credential(place, place_id, kind, one["keyId"].lower(), _without_secret(one)) for one in items
            ]
        return held

    async def _federated_at(self, application: str) -> list[Credential]:
        url = f"{self._base_url}/v1.0/applications/{application}/federatedIdentityCredentials"
        found = await self._read_all("list federated credentials", Beta(url), paced=False)
        return [
            Credential("applications", application, "federated", text(one, "id"), _without_secret(one))
            for one in found
        ]

    async def remove_credentials(self, snapshot: CredentialSnapshot) -> None:
        """
        Remove what the snapshot lists, as far as it is still there. Tokens already issued are not affected.

        Secrets go one by one, certificates by writing the list without them (``removeKey`` wants a proof of
        possession that we do not have), federated credentials one by one.

        Raises: Refused (Application.ReadWrite.All); OutcomeUnknown; other ClientErrors; some may be gone then.
        """
        for one in snapshot.held:
            base = f"{self._base_url}/v1.0/{one.place}/{one.place_id}"
            if one.kind == "secret":
                await self._gone_is_fine(
                    "remove secret", f"{base}/removePassword", {"keyId": one.key}, method="POST"
                )
            elif one.kind == "federated":
                url = f"{base}/federatedIdentityCredentials/{quote(one.key, safe='')}"
                await self._gone_is_fine("remove federated credential", url, {}, method="DELETE")
        for place, place_id in dict.fromkeys(
            (one.place, one.place_id) for one in snapshot.held if one.kind == "certificate"
        ):
            mine = {one.key for one in snapshot.held if (one.place, one.place_id) == (place, place_id)}
            there = [one for one in await self._keys_at(place, place_id) if one.kind == "certificate"]
            kept = [dict(one.body) for one in there if one.key not in mine]
            url = f"{self._base_url}/v1.0/{place}/{place_id}"
            await self._send("remove certificates", url, {"keyCredentials": kept}, method="PATCH")

    async def restore_credentials(self, snapshot: CredentialSnapshot) -> tuple[str, ...]:
        """
        Write certificates and federated credentials again; say in words what cannot come back.

        A secret's value is shown once, when it is made: nobody can restore it. A certificate comes back only where
        Graph gave its public key. Raises: as ``remove_credentials``.
        """
        left = [
            f"secret {one.key} of {one.place} cannot be restored: whoever used it needs a new one"
            for one in snapshot.held
            if one.kind == "secret"
        ]
        for one in snapshot.held:
            if one.kind == "federated":
                await self._federate_again(one)
        certificates = [one for one in snapshot.held if one.kind == "certificate"]
        for place, place_id in dict.fromkeys((one.place, one.place_id) for one in certificates):
            there = [one for one in await self._keys_at(place, place_id) if one.kind == "certificate"]
            known = {one.key for one in there}
            mine = [
                one
                for one in certificates
                if (one.place, one.place_id) == (place, place_id) and one.key not in known
            ]
            back = [one for one in mine if one.body.get("key")]
            left += [
                f"certificate {one.key} of {place} cannot be restored: Graph gave no public key"
                for one in mine
                if not one.body.get("key")
            ]
            if back:
                url = f"{self._base_url}/v1.0/{place}/{place_id}"
                written = [dict(one.body) for one in (*there, *back)]
                await self._send("restore certificates", url, {"keyCredentials": written}, method="PATCH")
        return tuple(left)

    async def _federate_again(self, one: Credential) -> None:
        there = await self._federated_at(one.place_id)
        if any(text(other.body, "name") == text(one.body, "name") for other in there):
            return
        names = ("name", "issuer", "subject", "audiences", "description")
        body = {name: one.body[name] for name in names if one.body.get(name)}
        url = f"{self._base_url}/v1.0/applications/{one.place_id}/federatedIdentityCredentials"
        await self._send("restore federated credential", url, body, accepts=(201,))

    # --- app role assignments ------------------------------------------------------------------------

    async def app_role_assignments(self, principal: ServicePrincipal) -> AssignmentSnapshot:
        """Read the app roles a principal holds. Raises: Refused (Application.Read.All); Unavailable; Malformed."""
        wanted = object_id(principal.object_id)
        url = f"{self._base_url}/v1.0/servicePrincipals/{wanted}/appRoleAssignments"
        found = await self._read_all("list app role assignments", Beta(url), paced=False)
        if not all(is_guid(one.get("resourceId")) and is_guid(one.get("appRoleId")) for one in found):
            raise Malformed(SERVICE, "app role assignment without resource or role")
        names = ("id", "resourceId", "appRoleId")
        return AssignmentSnapshot(wanted, tuple({name: text(one, name) for name in names} for one in found))

    async def remove_app_role_assignments(self, snapshot: AssignmentSnapshot) -> None:
        """
        Take the app roles of the snapshot away. They sit in tokens, so it takes effect when these are renewed.

        Raises: Refused (AppRoleAssignment.ReadWrite.All); OutcomeUnknown; other ClientErrors; some may be gone then.
        """
        base = f"{self._base_url}/v1.0/servicePrincipals/{snapshot.principal}/appRoleAssignments"
        for one in snapshot.held:
            await self._gone_is_fine(
                "remove app role assignment", f"{base}/{quote(one['id'], safe='')}", {}, method="DELETE"
            )

    async def restore_app_role_assignments(self, snapshot: AssignmentSnapshot) -> tuple[str, ...]:
        """Give the app roles of the snapshot again, as far as they are missing. Raises: as the removal."""
        url = f"{self._base_url}/v1.0/servicePrincipals/{snapshot.principal}/appRoleAssignments"
        found = await self._read_all("list app role assignments", Beta(url), paced=False)
        there = {(text(one, "resourceId").lower(), text(one, "appRoleId").lower()) for one in found}
        for one in snapshot.held:
            if (one["resourceId"].lower(), one["appRoleId"].lower()) in there:
                continue
            body = {
                "principalId": snapshot.principal,
                "resourceId": one["resourceId"],
                "appRoleId": one["appRoleId"],
            }
            await self._send("restore app role assignment", url, body, accepts=(201,))
        return ()

    # --- delegated grants ------------------------------------------------------------------------------

    async def delegated_grants(self, principal: ServicePrincipal) -> GrantSnapshot:
        """Read what people let a principal do. Raises: Refused (Application.Read.All); Unavailable; Malformed."""
        wanted = object_id(principal.object_id)
        url = f"{self._base_url}/v1.0/servicePrincipals/{wanted}/oauth2PermissionGrants"
        found = await self._read_all("list delegated grants", Beta(url), paced=False)
        names = ("id", "resourceId", "scope", "consentType", "principalId")
        return GrantSnapshot(wanted, tuple({name: text(one, name) for name in names} for one in found))

    async def remove_delegated_grants(self, snapshot: GrantSnapshot) -> None:
        """Take the grants of the snapshot away. Raises: Refused (DelegatedPermissionGrant.ReadWrite.All); others."""
        for one in snapshot.held:
            url = f"{self._base_url}/v1.0/oauth2PermissionGrants/{quote(one['id'], safe='')}"
            await self._gone_is_fine("remove delegated grant", url, {}, method="DELETE")

    async def restore_delegated_grants(self, snapshot: GrantSnapshot) -> tuple[str, ...]:
        """Give the grants of the snapshot again, as far as they are missing. Raises: as the removal."""
        url = f"{self._base_url}/v1.0/servicePrincipals/{snapshot.principal}/oauth2PermissionGrants"
        found = await self._read_all("list delegated grants", Beta(url), paced=False)
        names = ("resourceId", "scope", "consentType", "principalId")
        there = [{name: text(one, name) for name in names} for one in found]
        for one in snapshot.held:
            wanted = {name: one[name] for name in names}
            if wanted in there:
                continue
            body = {
                "clientId": snapshot.principal,
                **{name: value for name, value in wanted.items() if value},
            }
            await self._send(
                "restore delegated grant",
                f"{self._base_url}/v1.0/oauth2PermissionGrants",
                body,
                accepts=(201,),
            )
        return ()

    async def _gone_is_fine(self, what: str, url: str, body: Mapping[str, Any], *, method: str) -> None:
        try:
            await self._send(what, url, body, method=method)
        except NotFound:
            return


def _guid(value: str) -> str:
    return object_id(value)


def _without_secret(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name != "secretText" and "@odata" not in name}
