"""
What can be taken from a principal and given back: credentials, app roles, delegated grants.

What is gone already is no error to a removal, and a restoration reads first and makes nothing twice. So both can be
repeated after an answer that was lost. Snapshots carry nothing of a secret's value.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from clients.errors import BadRequest, Conflicting, Malformed, NotFound
from clients.fields import text
from clients.graph.calls import SERVICE, Beta, GraphCalls
from clients.terms import ObjectId, ServicePrincipal, is_guid, object_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHOWN_ONCE: Final = "secret"
CERTIFICATE: Final = "certificate"
FEDERATED: Final = "federated"


@dataclass(frozen=True, slots=True)
class Credential:
    """
    One credential: where it hangs, what it is, and what is needed to write it again.

    ``place`` is a collection of Graph, applications or servicePrincipals; ``kind`` is ``secret``, ``certificate`` or
    ``federated``; ``body`` is as much of Graph's own JSON as writing it again takes, nothing of a secret's value.
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

        Raises: NotFound; Refused (Application.Read.All); Unavailable; Malformed.
        """
        if not is_guid(principal.app_id):
            raise Malformed(SERVICE, "read credentials: a principal without appId")
        held = await self._held_at("servicePrincipals", object_id(principal.object_id))
        url = f"{self._base_url}/v1.0/applications(appId='{principal.app_id.lower()}')?$select=id"
        try:
            application = await self._read("read application", Beta(url))
        except NotFound:  # registered elsewhere: its application's credentials are not ours to see
            return CredentialSnapshot(tuple(held))
        if not is_guid(application.get("id")):
            raise Malformed(SERVICE, "application without id")
        return CredentialSnapshot((*held, *await self._held_at("applications", application["id"].lower())))

    async def _held_at(self, place: str, place_id: str) -> list[Credential]:
        return [*await self._keys_at(place, place_id), *await self._federated_at(place, place_id)]

    async def _keys_at(self, place: str, place_id: str) -> list[Credential]:
        # A certificate's public key comes only where keyCredentials are selected of a single object (keycredential.md).
        url = f"{self._base_url}/v1.0/{place}/{place_id}?$select=id,passwordCredentials,keyCredentials"
        found = await self._read("read credentials", Beta(url))
        held = []
        for kind, name in ((SHOWN_ONCE, "passwordCredentials"), (CERTIFICATE, "keyCredentials")):
            items = found.get(name)
            if not isinstance(items, list) or not all(
                isinstance(one, dict) and is_guid(one.get("keyId")) for one in items
            ):
                raise Malformed(SERVICE, f"credentials without {name}")
            held += [
                Credential(place, place_id, kind, one["keyId"].lower(), _kept(kind, one)) for one in items
            ]
        return held

    async def _federated_at(self, place: str, place_id: str) -> list[Credential]:
        url = f"{self._base_url}/v1.0/{place}/{place_id}/federatedIdentityCredentials"
        try:
            found = await self._read_all("list federated credentials", Beta(url), paced=False)
        except NotFound:
            if place == "applications":
                raise
            # Declared for service principals (v1.0 metadata), documented for applications only: the object itself was
            # read a moment ago, so what is not found is the relationship.
            return []
        if not all(text(one, "id") and text(one, "name") for one in found):
            raise Malformed(SERVICE, "federated credential without id or name")
        return [Credential(place, place_id, FEDERATED, one["id"], _kept(FEDERATED, one)) for one in found]

    async def remove_credentials(self, snapshot: CredentialSnapshot) -> None:
        """
        Remove what the snapshot lists, as far as it is still there. Tokens already issued are not affected.

        Secrets go one by one, certificates by writing the list without them (``removeKey`` wants a proof of
        possession that we do not have), federated credentials one by one.

        Raises: Refused (Application.ReadWrite.All); OutcomeUnknown; other ClientErrors; some may be gone then.
        """
        for (place, place_id), listed in _by_place(snapshot.held).items():
            base = f"{self._base_url}/v1.0/{place}/{place_id}"
            mine = {(one.kind, one.key) for one in listed}
            there = await self._keys_at(place, place_id)
            for one in there:
                if one.kind == SHOWN_ONCE and (one.kind, one.key) in mine:
                    await self._remove_secret(one, base)
            certificates = [one for one in there if one.kind == CERTIFICATE]
            left = [one for one in certificates if (one.kind, one.key) not in mine]
            if len(left) < len(certificates):
                body = {"keyCredentials": [dict(one.body) for one in left]}
                await self._send("remove certificates", base, body, method="PATCH")
            for one in listed:
                if one.kind == FEDERATED:
                    url = f"{base}/federatedIdentityCredentials/{quote(one.key, safe='')}"
                    await self._delete("remove federated credential", url)

    async def _remove_secret(self, one: Credential, base: str) -> None:
        try:
            await self._send("remove secret", f"{base}/removePassword", {"keyId": one.key})
        except (BadRequest, NotFound):
            # Of a key that is gone Graph says 400 (seen live, documented nowhere); only looking tells it from others.
            if any(other.key == one.key for other in await self._keys_at(one.place, one.place_id)):
                raise

    async def restore_credentials(self, snapshot: CredentialSnapshot) -> tuple[str, ...]:
        """
        Write certificates and federated credentials again; say in words what cannot come back.

        A secret's value is shown once, when it is made: nobody can restore it. A certificate comes back only where
        Graph gave its public key. Raises: as ``remove_credentials``.
        """
        lost = []
        for (place, place_id), listed in _by_place(snapshot.held).items():
            there = await self._held_at(place, place_id)
            missing = [one for one in listed if not any(_same(one, other) for other in there)]
            back = [one for one in missing if one.kind == CERTIFICATE and one.body.get("key")]
            lost += [_cannot_come_back(one) for one in missing if one.kind != FEDERATED and one not in back]
            base = f"{self._base_url}/v1.0/{place}/{place_id}"
            if back:
                certificates = [one for one in there if one.kind == CERTIFICATE]
                body = {"keyCredentials": [dict(one.body) for one in (*certificates, *back)]}
                await self._send("restore certificates", base, body, method="PATCH")
            for one in missing:
                if one.kind == FEDERATED:
                    url = f"{base}/federatedIdentityCredentials"
                    await self._send("restore federated credential", url, one.body, accepts=(201,))
        return tuple(lost)

    # --- app role assignments ------------------------------------------------------------------------

    async def app_role_assignments(self, principal: ServicePrincipal) -> AssignmentSnapshot:
        """Read the app roles a principal holds. Raises: Refused (Application.Read.All); Unavailable; Malformed."""
        wanted = object_id(principal.object_id)
        return AssignmentSnapshot(wanted, await self._assignments_of(wanted))

    async def _assignments_of(self, principal: ObjectId) -> tuple[dict[str, str], ...]:
        url = f"{self._base_url}/v1.0/servicePrincipals/{principal}/appRoleAssignments"
        found = await self._read_all("list app role assignments", Beta(url), paced=False)
        return _rows(found, "app role assignment", ("id", "resourceId", "appRoleId"))

    async def remove_app_role_assignments(self, snapshot: AssignmentSnapshot) -> None:
        """
        Take the app roles of the snapshot away. They sit in tokens, so it takes effect when these are renewed.

        Raises: Refused (AppRoleAssignment.ReadWrite.All); OutcomeUnknown; other ClientErrors; some may be gone then.
        """
        base = f"{self._base_url}/v1.0/servicePrincipals/{snapshot.principal}/appRoleAssignments"
        for one in snapshot.held:
            await self._delete("remove app role assignment", f"{base}/{quote(one['id'], safe='')}")

    async def restore_app_role_assignments(self, snapshot: AssignmentSnapshot) -> tuple[str, ...]:
        """
        Give the app roles of the snapshot again, as far as they are missing; say in words which Graph would not give.

        Raises: as the removal.
        """
        url = f"{self._base_url}/v1.0/servicePrincipals/{snapshot.principal}/appRoleAssignments"
        there = {_role_of(one) for one in await self._assignments_of(snapshot.principal)}
        lost = []
        for one in snapshot.held:
            resource, role = _role_of(one)
            if (resource, role) in there:
                continue
            body = {"principalId": snapshot.principal, "resourceId": resource, "appRoleId": role}
            try:
                await self._send("restore app role assignment", url, body, accepts=(201,))
            except (BadRequest, Conflicting, NotFound) as error:  # asking again would not change it
                if (resource, role) not in {
                    _role_of(now) for now in await self._assignments_of(snapshot.principal)
                }:
                    lost.append(f"app role {role} of resource {resource} was not given again: {error}")
        return tuple(lost)

    # --- delegated grants ------------------------------------------------------------------------------

    async def delegated_grants(self, principal: ServicePrincipal) -> GrantSnapshot:
        """
        Read what people let a principal do.

        Raises: Refused (Directory.Read.All or DelegatedPermissionGrant.ReadWrite.All; Application.Read.All does not
        do, says the permission file); Unavailable; Malformed.
        """
        wanted = object_id(principal.object_id)
        return GrantSnapshot(wanted, await self._grants_of(wanted))

    async def _grants_of(self, principal: ObjectId) -> tuple[dict[str, str], ...]:
        url = f"{self._base_url}/v1.0/servicePrincipals/{principal}/oauth2PermissionGrants"
        found = await self._read_all("list delegated grants", Beta(url), paced=False)
        return _rows(
            found, "delegated grant", ("id", "resourceId", "consentType"), optional=("scope", "principalId")
        )

    async def remove_delegated_grants(self, snapshot: GrantSnapshot) -> None:
        """Take the grants of the snapshot away. Raises: Refused (DelegatedPermissionGrant.ReadWrite.All); others."""
        for one in snapshot.held:
            url = f"{self._base_url}/v1.0/oauth2PermissionGrants/{quote(one['id'], safe='')}"
            await self._delete("remove delegated grant", url)

    async def restore_delegated_grants(self, snapshot: GrantSnapshot) -> tuple[str, ...]:
        """
        Give the grants of the snapshot again, as far as they are missing; say in words which did not come back.

        Graph holds one grant for a resource and a person. One that was made since is left as it is. Raises: as the
        removal.
        """
        url = f"{self._base_url}/v1.0/oauth2PermissionGrants"
        lost = []
        for one in snapshot.held:
            there = {_consent_of(now): now for now in await self._grants_of(snapshot.principal)}
            if (now := there.get(_consent_of(one))) is not None:
                missing = sorted(set(one["scope"].split()) - set(now["scope"].split()))
                if missing:
                    lost.append(
                        f"scopes {' '.join(missing)} of resource {one['resourceId']} were not given again:"
                        " somebody has granted others since"
                    )
                continue
            body = {"clientId": snapshot.principal, "resourceId": one["resourceId"], "scope": one["scope"]}
            body |= {name: one[name] for name in ("consentType", "principalId") if one[name]}
            try:
                await self._send("restore delegated grant", url, body, accepts=(201,))
            except (BadRequest, NotFound) as error:  # asking again would not change it
                lost.append(f"the grant for resource {one['resourceId']} was not given again: {error}")
        return tuple(lost)

    async def _delete(self, what: str, url: str) -> None:
        """Delete; what is gone already is no error."""
        try:
            await self._send(what, url, {}, method="DELETE")
        except NotFound:
            return


# What is kept of each: nothing that shows a secret (``secretText``, and ``hint``, its first three characters).
_KEPT: Final = {
    SHOWN_ONCE: ("keyId", "displayName", "startDateTime", "endDateTime"),
    CERTIFICATE: (
        "keyId",
        "customKeyIdentifier",
        "displayName",
        "startDateTime",
        "endDateTime",
        "type",
        "usage",
        "key",
    ),
    FEDERATED: ("name", "issuer", "subject", "audiences", "description"),
}


def _kept(kind: str, one: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: one[name] for name in _KEPT[kind] if one.get(name) is not None}
    # A public certificate's key is public. Of any other sort of key nothing is kept, whatever Graph would show.
    if (kept.get("type"), kept.get("usage")) != ("AsymmetricX509Cert", "Verify"):
        kept.pop("key", None)
    return kept


def _same(one: Credential, other: Credential) -> bool:
    """Whether two are the same credential; one that was written again may have a new id."""
    if one.kind != other.kind:
        return False
    if one.kind == FEDERATED:
        return bool(one.body["name"] == other.body["name"])
    key = one.body.get("key")
    return one.key == other.key or (key is not None and key == other.body.get("key"))


def _by_place(held: Iterable[Credential]) -> dict[tuple[str, str], list[Credential]]:
    places: dict[tuple[str, str], list[Credential]] = {}
    for one in held:
        places.setdefault((one.place, one.place_id), []).append(one)
    return places


def _cannot_come_back(one: Credential) -> str:
    where = "the application" if one.place == "applications" else "the service principal"
    if one.kind == SHOWN_ONCE:
        return f"secret {one.key} of {where} cannot be restored: whoever used it needs a new one"
    return f"certificate {one.key} of {where} cannot be restored: Graph gave no public key"


def _rows(
    found: Sequence[Mapping[str, Any]], what: str, needed: tuple[str, ...], *, optional: tuple[str, ...] = ()
) -> tuple[dict[str, str], ...]:
    rows = tuple({name: text(one, name) for name in (*needed, *optional)} for one in found)
    if not all(one[name] for one in rows for name in needed):
        raise Malformed(SERVICE, f"{what} without {' or '.join(needed)}")
    return rows


def _role_of(one: Mapping[str, str]) -> tuple[str, str]:
    return one["resourceId"].lower(), one["appRoleId"].lower()


def _consent_of(one: Mapping[str, str]) -> tuple[str, str, str]:
    return one["resourceId"].lower(), one["consentType"], one["principalId"].lower()
