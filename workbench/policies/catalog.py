"""The policies of this project: read from ``infra/conditional-access``, filled with a tenant's own ids, or refused."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clients.terms import is_guid
from workbench.policies import bodies
from workbench.policies.refusal import RefusedError
from workbench.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workbench.policies.bodies import Json

FOLDER: Final = Path(__file__).resolve().parents[2] / "infra" / "conditional-access"


@dataclass(frozen=True, slots=True)
class Filling:
    """A tenant's own ids for one policy. They are remembered, so that a later run does not drop an exclusion."""

    principals: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()

    def joined(self, other: Filling, without: Iterable[str] = ()) -> Filling:
        """Give the ids of both, without those taken out."""
        out = set(without)
        mine, theirs = asdict(self), asdict(other)
        return Filling(**{k: tuple(sorted({*mine[k], *theirs[k]} - out)) for k in mine})

    def to_body(self) -> Json:
        """Give it as JSON."""
        return {name: list(ids) for name, ids in asdict(self).items() if ids}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Filling:
        """Read back what ``to_body`` wrote."""
        return cls(**{name: tuple(ids) for name, ids in body.items()})


PLACES: Final = {
    "principals": ("clientApplications", "excludeServicePrincipals"),
    "agents": ("clientApplications", "excludeAgentIdServicePrincipals"),
    "users": ("users", "excludeUsers"),
    "groups": ("users", "excludeGroups"),
    "locations": ("locations", "excludeLocations"),
}
"""Where each field of a filling stands in a policy's conditions."""


def names(folder: Path = FOLDER) -> list[str]:
    """Give the names of the policies in the folder."""
    return sorted(file.stem for file in folder.glob("*.json"))


def load(name: str, folder: Path = FOLDER) -> Json:
    """Read a policy. Raises: UsageError for a name that is none, and for a file that would not start as report-only."""
    if name not in names(folder):
        raise UsageError(
            f"no policy {bodies.printable(name)} in {folder}; there are {', '.join(names(folder))}"
        )
    try:
        body = json.loads((folder / f"{name}.json").read_bytes())
    except ValueError as error:
        raise UsageError(f"{folder / name}.json: no JSON: {error}") from error
    if not isinstance(body, dict) or body.get("displayName") != name:
        raise UsageError(f"{folder / name}.json: displayName must be {name}, the name of the file")
    if body.get("state") != bodies.REPORT_ONLY:
        raise UsageError(
            f"{folder / name}.json: state must be {bodies.REPORT_ONLY}: what is created only reports"
        )
    return body


def filled(body: Mapping[str, Any], filling: Filling) -> Json:
    """Fill a policy with the ids that it has a place for; others are left out. Raises: RefusedError (template not filled)."""
    made = copy.deepcopy(dict(body))
    for name, (part, field) in PLACES.items():
        there, ids = _part(made, part), getattr(filling, name)
        if field in there:
            # A location takes the place of the template's "<...>".
            kept = [one for one in there[field] if not (name == "locations" and ids and one.startswith("<"))]
            there[field] = sorted({*kept, *ids})
    if missing := bodies.unfilled(made):
        raise RefusedError(
            f"{made['displayName']} is a template and not filled ({'; '.join(missing)}): without an allowed location it"
            " would block every sign-in. Name the locations your agents run in with --location ID"
        )
    return made


def has_place_for(body: Mapping[str, Any], filling: Filling) -> Filling:
    """Give the part of a filling that this policy has a place for."""
    places = {name for name, (part, field) in PLACES.items() if field in _part(body, part)}
    return replace(filling, **{name: () for name in PLACES if name not in places})


def held_in(body: Mapping[str, Any]) -> Filling:
    """Give the ids that a policy of the tenant has in the places of a filling."""
    lists = {name: _part(body, part).get(field) for name, (part, field) in PLACES.items()}
    return Filling(
        **{
            name: tuple(sorted(one for one in ids if isinstance(one, str)))
            for name, ids in lists.items()
            if isinstance(ids, list)
        }
    )


def _part(body: Mapping[str, Any], part: str) -> dict[str, Any]:
    return (body.get("conditions") or {}).get(part) or {}


def object_ids(given: Iterable[str], option: str) -> tuple[str, ...]:
    """Read object ids of an option. Raises: UsageError for what is no GUID."""
    ids = tuple(given)
    if wrong := [one for one in ids if not is_guid(one)]:
        raise UsageError(f"{option} {bodies.printable(wrong[0])}: not an object id (a GUID with hyphens)")
    return tuple(sorted({one.lower() for one in ids}))
