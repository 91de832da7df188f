"""Checks of a finished package: the tests of production code on it, and a start under Microsoft's own runtime."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packer.faults import PackageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PRODUCTION: Final = ("tests/clients", "tests/handlers", "tests/response", "tests/safety", "tests/telemetry")
"""Tests that drive production code through real sockets and SDKs."""
RUNTIME: Final = "azure-functions-runtime==1.3.0"


def tests(root: Path, package: Path, site: str, chosen: Sequence[str]) -> int:
    """
    Run tests with the package's site-packages before everything else; give pytest's result.

    ``chosen``: pytest's own arguments, instead of the folders in ``PRODUCTION``. Prints how many ran, and which modules
    of the SDK that were kept no test has loaded. Raises: PackageError where our files in the package are not the tree's.
    """
    with tempfile.TemporaryDirectory(prefix="agentbreaker-package-") as made:
        where, trace = Path(made) / "app", Path(made) / "trace"
        trace.mkdir()
        unpack(package, where)
        for path in (found for found in where.rglob("*") if found.is_file()):
            name = path.relative_to(where)
            if not name.as_posix().startswith(site) and path.read_bytes() != (root / name).read_bytes():
                raise PackageError(f"{name} in {package.name} is not the one here", "build the package again")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "packer.traced",
            "-q",
            *chosen,
            *([] if _names_tests(root, chosen) else PRODUCTION),
        ]
        done = subprocess.run(command, check=False, cwd=root, env=_environment(where / site, root, trace))  # noqa: S603
        loaded = {name for one in trace.glob("*.json") for name in json.loads(one.read_text())}
        kept = {_module(path.relative_to(where / site)) for path in (where / site / "msgraph").rglob("*.py")}
    print(
        f"package: msgraph has {len(kept)} modules; the tests loaded {len(loaded & kept)}. Not loaded by any test:"
    )
    print("\n".join(f"  {name}" for name in sorted(kept - loaded)) or "  none")
    return done.returncode


def unpack(package: Path, where: Path) -> None:
    """Unpack a package. Raises: PackageError for what is none."""
    try:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(where)  # our own, made by ``archive``
    except (OSError, zipfile.BadZipFile) as error:
        raise PackageError(f"{package} cannot be unpacked: {error}", "build it again") from error


def hosted(root: Path, package: Path) -> int:
    """
    Start the package in a new environment under Microsoft's runtime and hand it an incident; print what came of it.

    Nothing but the runtime and what it needs is installed there. Needs Python 3.13 and the desk's Functions host
    (AGENTDESK_SHARED, by default ../shared); without one of them it says so and gives 3: not run is not passed.
    """
    shared = Path(os.environ.get("AGENTDESK_SHARED", root.parent / "shared"))
    host = shared / "tools" / "functions_host.py"
    python = python313()
    if not host.is_file() or python is None:
        print(
            f"NOT RUN: {'no Python 3.13 found (python3.13 on the PATH, or pyenv)' if python is None else f'{host} is absent (set AGENTDESK_SHARED)'}",
            file=sys.stderr,
        )
        return 3
    with tempfile.TemporaryDirectory(prefix="agentbreaker-host-") as made:
        place = Path(made)
        app, clean = place / "app", place / "clean"
        unpack(package, app)
        _install(python, clean)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "scripts")])}
        command = [
            sys.executable,
            "-m",
            "packer.hosted",
            str(app),
            str(clean / "bin" / "python"),
            str(host),
            str(place),
        ]
        return subprocess.run(command, check=False, cwd=root, env=environment).returncode  # noqa: S603  # our own words


def python313() -> str | None:
    """Give a Python 3.13 that starts: this one, the one on the PATH, or one of pyenv's."""
    own = [sys.executable] if sys.version_info[:2] == (3, 13) else []
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.13.*/bin/python3.13"))
    for candidate in filter(None, (*own, shutil.which("python3.13"), *map(str, pyenv))):
        if not subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode:  # noqa: S603
            return candidate
    return None


def _install(python: str, clean: Path) -> None:
    for command in (
        [python, "-m", "venv", str(clean)],
        [
            str(clean / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            RUNTIME,
        ],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own words
        if done.returncode:
            raise PackageError(
                f"no clean environment with {RUNTIME}: {done.stderr.strip()[-400:]}",
                "look at the network and at pip",
            )


def _environment(site: Path, root: Path, trace: Path) -> dict[str, str]:
    paths = [str(site), str(root / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PACKAGE_CHECK_SITE": str(site),
        "PACKAGE_CHECK_TRACE": str(trace),
    }


def _module(path: Path) -> str:
    return re.sub(r"\.__init__$", "", path.with_suffix("").as_posix().replace("/", "."))


def _names_tests(root: Path, chosen: Sequence[str]) -> bool:
    """Tell whether arguments for pytest name tests; options alone do not."""
    return any((root / word.split("::")[0]).exists() for word in chosen if not word.startswith("-"))
