"""The wheels of a lock: downloaded by pip for another Python than the one that runs, and checked here again."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from packer.faults import PackageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from packer.locks import Pin

# The wheels that the C library of Azure's image takes. Newest first is pip's business.
_PLATFORMS: Final = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_ENOUGH: Final = 6  # lines of pip's own words that are shown


def download(requirements: Path, version: str, folder: Path) -> list[Path]:
    """
    Download what a requirements file with hashes names, each distribution as a wheel, none of its dependencies.

    Raises: PackageError, in words for a hash that differs, a wheel that is missing, and a network that is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    abi = f"cp{version.replace('.', '')}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp"),
        *("--python-version", version, "--abi", abi, "--abi", "abi3", "--abi", "none"),
        *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        *("--requirement", str(requirements), "--dest", str(folder)),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own words
    if done.returncode:
        raise _in_words(done.stderr, version)
    return sorted(folder.glob("*.whl"))


def fetch(pins: Sequence[Pin], lock: Path, version: str, cache: Path) -> list[Path]:
    """
    Give the wheels of a lock, from ``cache`` as far as they are there; every one is hashed before it is believed.

    Raises: as ``download``; PackageError where after it a wheel is missing.
    """
    wanted = {pin.digest: pin for pin in pins}
    have = _known(cache, wanted)
    if len(have) < len(wanted):
        for stale in set(cache.glob("*.whl")) - set(have.values()):
            stale.unlink()  # else pip would take what has the right name for the right file, and refuse
        download(lock, version, cache)
        have = _known(cache, wanted)
    if lacking := sorted(pin.name for digest, pin in wanted.items() if digest not in have):
        raise PackageError(
            f"{lock.name}: what was downloaded has not the hash that is locked: {', '.join(lacking)}",
            "do not use it; find out why the index gives another file, then make the lock again",
        )
    return sorted(have.values())


def _known(cache: Path, wanted: dict[str, Pin]) -> dict[str, Path]:
    found = {hashlib.sha256(wheel.read_bytes()).hexdigest(): wheel for wheel in cache.glob("*.whl")}
    return {digest: wheel for digest, wheel in found.items() if digest in wanted}


def _in_words(stderr: str, version: str) -> PackageError:
    lines = [
        line for line in stderr.splitlines() if line.strip() and not line.startswith("WARNING: Location")
    ]
    said = "\n    ".join(lines[-_ENOUGH:]) or "nothing"
    if re.search(r"DO NOT MATCH THE HASHES|Hashes are required|HASH", stderr):
        what = "a file has not the hash that is locked"
        remedy = (
            "do not use it: the index gave something else than what was tested. "
            "If the release was really made anew, look at what changed, then python scripts/package.py lock"
        )
    elif re.search(r"No matching distribution|Could not find a version", stderr):
        unreachable = re.search(r"Failed to establish|NewConnectionError|Retrying|Name or service", stderr)
        if unreachable:
            what, remedy = (
                "the package index was not reached",
                "look at the network and at pip's settings (pip config list)",
            )
        else:
            what = f"there is no wheel for Linux x86-64 and Python {version}"
            remedy = "pin a release that has one; a source distribution would have to be compiled on a like machine"
    elif "No module named pip" in stderr:
        what, remedy = "this Python has no pip", f"{sys.executable} -m ensurepip"
    else:
        what, remedy = (
            "pip could not download the wheels",
            "its message is above; run again once it is mended",
        )
    return PackageError(f"{what}; pip said:\n    {said}", remedy)
