"""
What we wrote: ids, hashes and earlier bodies of our policies, in files only their owner can read.

The ids decide what may be touched. A body is on disk, down to the medium, before the write that replaces it is sent.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from workbench.policies import bodies
from workbench.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from workbench.policies.bodies import Json

_FORM: Final = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One policy of ours.

    ``seen`` is the hash of the policy as it read after our last write, ``body`` that reading, ``modified`` its
    modifiedDateTime; ``since`` when it last began to cover more than before, from which on the log speaks about it.
    ``planned`` is the hash that the last plan showed. ``saved`` are files of earlier bodies, the newest last.
    """

    id: str
    seen: str
    body: Json
    modified: str
    since: str
    filling: Json = field(default_factory=dict)
    planned: str = ""
    saved: tuple[str, ...] = ()


class Book:
    """The state file of one tenant. Raises: UsageError when it is another tenant's or cannot be read."""

    def __init__(self, file: Path, tenant_id: str) -> None:
        self._file, self._tenant = file, tenant_id
        self.entries: dict[str, Entry] = {}
        self.creating: dict[str, str] = {}
        """Names that a request to create was sent for, and when, until it is known what became of it."""
        self.planned_absent: set[str] = set()
        if file.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self._file.read_bytes())
            if found["form"] != _FORM:
                raise UsageError(f"{self._file}: written by another version of this command")
            if found["tenant"] != self._tenant:
                raise UsageError(f"{self._file} is the file of another tenant; name yours with --state FILE")
            self.entries = {
                name: Entry(**{**entry, "saved": tuple(entry["saved"])})
                for name, entry in found["policies"].items()
            }
            self.creating = dict(found["creating"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{self._file} cannot be read ({type(error).__name__}). It says which policies are ours, so nothing is"
                " done without it. Restore it, or name another with --state and the policies with --policy-id"
            ) from error

    def put(self, name: str, entry: Entry | None) -> None:
        """Note a policy (None: forget it), and that nothing is under way for it any more; on disk when this returns."""
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry
        self.creating.pop(name, None)
        self._write()

    def begin_creating(self, name: str, now: datetime) -> None:
        """Note that a request to create is about to be sent."""
        self.creating[name] = now.isoformat(timespec="seconds")
        self._write()

    def plan(self, name: str, seen: str) -> None:
        """Note what a plan showed of a policy of ours."""
        self.entries[name] = replace(self.entries[name], planned=seen)
        self._write()

    def save(self, name: str, body: Json, now: datetime) -> str:
        """Keep a body before it is replaced; gives the file's name. On disk when this returns, readable by its owner only."""
        folder = self._file.with_name(self._file.name + ".bodies")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem = f"{self.entries[name].id}-{now:%Y%m%dT%H%M%S%f}-{bodies.fingerprint(body)[:8]}.json"
        _durably(folder / stem, json.dumps(body, indent=1, sort_keys=True).encode())
        return str(folder / stem)

    def _write(self) -> None:
        body: dict[str, Any] = {
            "form": _FORM,
            "tenant": self._tenant,
            "policies": {name: asdict(entry) for name, entry in self.entries.items()},
            "creating": self.creating,
        }
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _durably(self._file, json.dumps(body, indent=1, sort_keys=True).encode())


def read_saved(file: str, folder: Path) -> Json:
    """Read a saved body. Raises: UsageError."""
    from pathlib import Path as Files  # noqa: PLC0415  # only at run time: the annotation above is for reading

    path = Files(file)
    if path.parent.resolve() != folder.resolve():
        raise UsageError(f"{file} is not in {folder}: a body is only restored from where it was saved")
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"the saved body {file} cannot be read: {type(error).__name__}") from error
    if not isinstance(body, dict) or not body.get("conditions"):
        raise UsageError(f"the saved body {file} is no policy")
    return body


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the state file against a second run. Raises: UsageError when one is running."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(file.with_name(file.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another run holds {file}; wait until it has ended") from error
        yield
    finally:
        os.close(lock)


def _durably(file: Path, content: bytes) -> None:
    """Write a whole file or nothing, mode 600, down to the medium, its name in the folder included."""
    beside = file.with_name(f".{file.name}.new")
    descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "wb", closefd=False) as written:
            written.write(content)
            written.flush()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
