"""
``tenant.json``: what a back-test has to know of the principals, because it asks no tenant.

    {"tenantId": "…", "principals": [{"objectId": "…", "appId": "…", "name": "…", "kind": "application",
      "ownerTenant": "…", "declaredResources": ["…"], "grantedRoles": ["…"], "protected": false, "enabled": true,
      "created": "2026-01-31T00:00:00Z", "armed": true}]}

A list of principals alone is read too. Graph's own names (``id``, ``displayName``, ``appOwnerOrganizationId``,
``accountEnabled``, ``createdDateTime``) mean the same. What is not written is not known, and what is not known never
contains anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from clients.terms import MICROSOFT_TENANTS, AppId, Kind, ObjectId, ServicePrincipal, TenantId, object_id

AUTOMATIC_PER_HOUR: Final = 3  # default of AGENTBREAKER_AUTOMATIC_PER_HOUR
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        spelling: name
        for name, spellings in {
            "objectId": "objectid id principalid serviceprincipalid",
            "appId": "appid applicationid clientid",
            "name": "name displayname principalname",
            "kind": "kind type serviceprincipaltype",
            "ownerTenant": "ownertenant ownertenantid appownerorganizationid appownertenantid",
            "declaredResources": "declaredresources",
            "grantedRoles": "grantedroles roles approles",
            "protected": "protected isprotected",
            "enabled": "enabled accountenabled",
            "created": "created createdat createddatetime",
            "armed": "armed",
        }.items()
        for spelling in spellings.split()
    }
)
_KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        **{kind.value.replace("_", ""): kind for kind in Kind},
        "singletenantapplication": Kind.APPLICATION,
        "app": Kind.APPLICATION,
        "serviceprincipal": Kind.APPLICATION,
        "multitenant": Kind.MULTITENANT_APPLICATION,
        "agentidentityblueprint": Kind.AGENT_BLUEPRINT,
        "agentidentityblueprintprincipal": Kind.AGENT_BLUEPRINT,
        "blueprint": Kind.AGENT_BLUEPRINT,
        "microsoftapplication": Kind.MICROSOFT,
        "microsoftfirstparty": Kind.MICROSOFT,
    }
)


class TenantFileError(Exception):
    """``tenant.json`` cannot be used; the message names the field and says what to write."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One principal of the file. ``armed`` None: not written; single-tenant applications are assumed to be armed."""

    principal: ServicePrincipal
    declared_resources: tuple[str, ...]
    granted_roles: tuple[str, ...]
    protected: bool
    created: datetime | None
    armed: bool | None


@dataclass(frozen=True, slots=True)
class TenantFile:
    """The file: principals by object id, the storm brake's limit, and what in it was not understood."""

    principals: Mapping[ObjectId, Listed]
    automatic_per_hour: int
    ignored: tuple[str, ...]

    @property
    def protected(self) -> frozenset[str]:
        """Object ids that nothing may contain."""
        return frozenset(id_ for id_, listed in self.principals.items() if listed.protected)

    def inventory(self) -> list[dict[str, str]]:
        """
        Give rows of the watchlist ``AgentInventory`` for principals with declared resources.

        Without an end, so that they can make a finding more certain and silence nothing (``docs/rules.md``).
        """
        return [
            {
                "SearchKey": id_,
                "DisplayName": listed.principal.display_name,
                "Role": "agent",
                "DeclaredResources": " ".join(listed.declared_resources),
                "ExpiresOn": "",
            }
            for id_, listed in self.principals.items()
            if listed.declared_resources
        ]


def load_tenant(file: Path) -> TenantFile:
    """Read the file. Raises: TenantFileError naming the first field that is wrong."""
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise TenantFileError(f"{file}: {error.strerror}; name a file that can be read") from error
    except (ValueError, UnicodeError) as error:
        raise TenantFileError(f"{file}: no JSON: {error}") from error
    if isinstance(document, list):
        document = {"principals": document}
    if not isinstance(document, dict) or not isinstance(document.get("principals"), list):
        raise TenantFileError(f"{file}: principals: missing or no list; see docs/backtest.md for the form")
    reader = _Reader(str(file))
    home = document.get("tenantId")
    if home is not None:
        home = TenantId(reader.guid("tenantId", home))
    limit = document.get("automaticPerHour", AUTOMATIC_PER_HOUR)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise reader.wrong("automaticPerHour", limit, "a whole number from 0 on")
    armed = document.get("armed")
    if armed is not None and not isinstance(armed, bool):
        raise reader.wrong("armed", armed, "true or false")
    reader.ignored += [
        f"{file}: {name}: no such field, ignored"
        for name in document
        if name not in ("tenantId", "automaticPerHour", "armed", "principals")
    ]
    principals: dict[ObjectId, Listed] = {}
    for number, entry in enumerate(document["principals"]):
        listed = reader.principal(f"principals[{number}]", entry, home)
        if listed.principal.object_id in principals:
            raise reader.wrong(
                f"principals[{number}].objectId", listed.principal.object_id, "each principal once"
            )
        principals[listed.principal.object_id] = (
            replace(listed, armed=armed) if listed.armed is None else listed
        )
    return TenantFile(MappingProxyType(principals), limit, tuple(reader.ignored))


class _Reader:
    """Reads fields into their types and names the one that is wrong."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.ignored: list[str] = []

    def wrong(self, field: str, value: object, instead: str) -> TenantFileError:
        shown = "missing" if value is None else f"{json.dumps(value, default=str)[:80]} is wrong"
        return TenantFileError(f"{self._file}: {field}: {shown}; write {instead}")

    def guid(self, field: str, value: object) -> str:
        try:
            return object_id(value)
        except ValueError as error:
            raise self.wrong(field, value, "a GUID with hyphens") from error

    def principal(self, path: str, entry: object, home: TenantId | None) -> Listed:
        if not isinstance(entry, dict):
            raise self.wrong(path, entry, "an object with objectId, appId, name, kind, …")
        values: dict[str, Any] = {}
        for key, value in entry.items():
            name = _NAMES.get("".join(letter for letter in key.lower() if letter.isalnum()))
            if name is None:
                self.ignored.append(f"{self._file}: {path}.{key}: no such field, ignored")
            else:
                values.setdefault(name, value)
        owner = self._optional_guid(f"{path}.ownerTenant", values.get("ownerTenant"))
        kind = self._kind(f"{path}.kind", values.get("kind"))
        if owner is None and kind is Kind.APPLICATION:
            owner = home  # a single-tenant application is this tenant's own
        return Listed(
            principal=ServicePrincipal(
                object_id=ObjectId(self.guid(f"{path}.objectId", values.get("objectId"))),
                app_id=AppId(self._optional_guid(f"{path}.appId", values.get("appId")) or ""),
                display_name=self._text(f"{path}.name", values.get("name")),
                kind=_kind_of(kind, owner, home),
                owner_tenant=None if owner is None else TenantId(owner),
                account_enabled=self._flag(f"{path}.enabled", values.get("enabled")),
            ),
            declared_resources=self._words(f"{path}.declaredResources", values.get("declaredResources")),
            granted_roles=self._words(f"{path}.grantedRoles", values.get("grantedRoles")),
            protected=self._flag(f"{path}.protected", values.get("protected")) is True,
            created=self._moment(f"{path}.created", values.get("created")),
            armed=self._flag(f"{path}.armed", values.get("armed")),
        )

    def _optional_guid(self, field: str, value: object) -> str | None:
        return None if value in (None, "") else self.guid(field, value)

    def _text(self, field: str, value: object) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        raise self.wrong(field, value, "a text")

    def _flag(self, field: str, value: object) -> bool | None:
        if value is None or isinstance(value, bool):
            return value
        raise self.wrong(field, value, "true or false, without quotes")

    def _kind(self, field: str, value: object) -> Kind:
        if value is None:
            return Kind.OTHER
        if isinstance(value, str):
            kind = _KINDS.get("".join(letter for letter in value.lower() if letter.isalpha()))
            if kind is not None:
                return kind
        raise self.wrong(field, value, f"one of {', '.join(Kind)}")

    def _words(self, field: str, value: object) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, str):
            return tuple(value.split())
        if isinstance(value, Sequence) and all(isinstance(word, str) for word in value):
            return tuple(value)
        raise self.wrong(field, value, "a list of texts")

    def _moment(self, field: str, value: object) -> datetime | None:
        if value in (None, ""):
            return None
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            moment = None
        if moment is None:
            raise self.wrong(field, value, "a time in ISO 8601, as 2026-01-31T00:00:00Z")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _kind_of(kind: Kind, owner: str | None, home: TenantId | None) -> Kind:
    """Correct what the owner contradicts: Graph's ``Application`` says nothing about whose application it is."""
    if kind is not Kind.APPLICATION or owner is None:
        return kind
    if owner in MICROSOFT_TENANTS:
        return Kind.MICROSOFT
    return Kind.FOREIGN_APPLICATION if home is not None and owner != home else kind
