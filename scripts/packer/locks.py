"""The lock: one file a Python version, a line a wheel with its one hash, made from requirements.txt."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packer import wheels
from packer.faults import PackageError

VERSIONS: Final = ("3.11", "3.12", "3.13")
_PLATFORM: Final = "x86_64-manylinux2014"
_UV: Final = "0.13.9"
_PIN: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<digest>[0-9a-f]{64})"
)
_DIRECT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,_-]+\])?==(?P<version>[^\s;]+)"
    r"""(\s*;\s*python_version\s*(?P<how><|>=)\s*"(?P<than>3\.\d+)")?"""
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution: its normalised name, its version, and the SHA-256 of the only wheel that will do."""

    name: str
    version: str
    digest: str


def path_of(root: Path, version: str) -> Path:
    """Give the lock's file of a Python version."""
    return root / f"requirements-py{version.replace('.', '')}.lock"


def read(root: Path, version: str) -> list[Pin]:
    """Read a lock. Raises: PackageError where it is missing or a line is not a pin with its hash."""
    path = path_of(root, version)
    again = "make it again: python scripts/package.py lock"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise PackageError(f"{path.name} is missing", again) from error
    pins = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        found = _PIN.fullmatch(line.strip())
        if found is None:
            raise PackageError(f"{path.name} has a line that is no pin with a hash: {line[:80]!r}", again)
        pins.append(Pin(normal(found["name"]), found["version"], found["digest"]))
    return pins


def out_of_step(root: Path, version: str) -> list[str]:
    """Tell in which pins of requirements.txt its lock differs; none: in step. Raises: PackageError."""
    locked = {pin.name: pin.version for pin in read(root, version)}
    return [
        f"{name}: requirements.txt {wanted}, lock {locked.get(name, 'none')}"
        for name, wanted in direct(root, version).items()
        if locked.get(name) != wanted
    ]


def direct(root: Path, version: str) -> dict[str, str]:
    """Give name and version of what requirements.txt asks for on a Python. Raises: PackageError for a line it cannot read."""
    asked = {}
    for line in (root / "requirements.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _DIRECT.fullmatch(line.strip())
        if found is None:
            raise PackageError(
                f"requirements.txt: {line[:80]!r} is not pinned as NAME==VERSION (with at most one python_version)",
                "pin it, so that what was tested is what runs",
            )
        if found["how"] is None or (found["how"] == "<") == (_number(version) < _number(found["than"])):
            asked[normal(found["name"])] = found["version"]
    return asked


def write(root: Path, version: str) -> int:
    """
    Resolve requirements.txt for Linux x86-64 and a Python version and write its lock; give the number of pins.

    uv resolves, because it judges environment markers for the target; pip judges them for itself (pip issue
    11664), so on 3.11 it would choose 3.11's azure-functions for 3.13. Then the wheels are downloaded against all
    hashes that the index names, and the hash of the one that fits is kept.

    Raises: PackageError without uv, without network, or where a wheel for the platform is missing.
    """
    with tempfile.TemporaryDirectory() as made:
        resolved = Path(made) / "resolved.txt"
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header"),
            *("--generate-hashes", "--only-binary", ":all:", "--python-version", version),
            *("--python-platform", _PLATFORM, "--output-file", str(resolved), str(root / "requirements.txt")),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own words
        if done.returncode:
            remedy = (
                f"install it: pip install uv=={_UV}"
                if "No module named uv" in done.stderr
                else "see its message"
            )
            raise PackageError(
                f"uv did not resolve requirements.txt for {version}: {done.stderr.strip()}", remedy
            )
        found = wheels.download(resolved, version, Path(made) / "wheels")
        lines = sorted(_line(wheel) for wheel in found)
    path_of(root, version).write_text(
        f"# Made by `python scripts/package.py lock` from requirements.txt: Linux x86-64, Python {version}.\n"
        "# Do not edit. One hash each: no other file of that release will do.\n" + "".join(lines)
    )
    return len(lines)


def normal(name: str) -> str:
    """Give the normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _line(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{normal(name)}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
