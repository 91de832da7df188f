"""What of the wheels is left out, and the proof that nothing kept imports it."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packer.faults import PackageError
from packer.importing import imported, module_path
from packer.reach import reached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from packer.files import Wheels
    from packer.reach import NotReached

SDK: Final = "msgraph"
DISTRIBUTIONS: Final = frozenset(
    {
        "opentelemetry-instrumentation-asgi",
        "opentelemetry-instrumentation-dbapi",
        "opentelemetry-instrumentation-django",
        "opentelemetry-instrumentation-fastapi",
        "opentelemetry-instrumentation-flask",
        "opentelemetry-instrumentation-psycopg2",
        "opentelemetry-instrumentation-wsgi",
        "asgiref",
    }
)
"""
Instrumentations of frameworks that are not here, and what only these need.

azure-monitor-opentelemetry 1.8.11 asks for them and looks for them by entry point (``_setup_instrumentations``): one
that is not installed is not found, one whose framework is missing is skipped. Both come to the same.
"""
_SUFFIXES: Final = (
    ".pyi",
    ".pyx",
    ".pxd",
    ".pxi",
    ".c",
    ".h",
    ".cpp",
    ".hpp",
    ".rs",
    ".pyc",
    ".typed",
    ".hash",
)
_TESTING: Final = ("pytest_plugin.", "_testcapi.")
_METADATA: Final = ("METADATA", "entry_points.txt")
_GUARD: Final = "_left_out.py"
# Added to the SDK. Without it a module left out would be missed by a bare ModuleNotFoundError deep inside it.
_GUARD_SOURCE: Final = '''"""Added by scripts/package.py of Agentbreaker: names itself where a module of this SDK was left out."""

import sys


class _LeftOut:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("msgraph."):
            raise ModuleNotFoundError(
                f"{name} is not in this package: scripts/package.py of Agentbreaker found no code that reaches it and "
                "left it out. Call it by name in clients/graph/ and build the package again; docs/package.md says how "
                "reach is found.",
                name=name,
            )
        return None


sys.meta_path.append(_LeftOut)  # last: asked only for what nobody else found
'''


@dataclass(frozen=True, slots=True)
class Site:
    """Content of site-packages by path; what was removed (files and bytes by reason and owner); SDK modules kept."""

    files: Mapping[str, bytes]
    removed: Mapping[tuple[str, str], tuple[int, int]]
    modules: frozenset[str]
    exceptions: tuple[NotReached, ...]


def reduce(wheels: Wheels, app: Mapping[str, str]) -> Site:
    """
    Keep what the app can need at run time. Raises: PackageError where something kept imports what was left out.

    ``app``: source of our deployed modules by path.
    """
    reach = reached(SDK, wheels, app)
    kept, gone = [], {}
    for path in wheels:
        reason = _reason(path, wheels.owner[path], reach.kept)
        if reason:
            gone[path] = reason
        else:
            kept.append(path)
    content = {path: wheels.read(path) for path in kept}
    _prove(content, gone, reach.kept)
    if f"{SDK}/__init__.py" in content:
        content[f"{SDK}/{_GUARD}"] = _GUARD_SOURCE.encode()
        content[f"{SDK}/__init__.py"] = (
            b"from . import _left_out  # noqa: F401\n" + content[f"{SDK}/__init__.py"]
        )
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for path, reason in gone.items():
        counts[reason, wheels.owner[path]] += 1
        sizes[reason, wheels.owner[path]] += wheels.sizes[path]
    return Site(content, {key: (counts[key], sizes[key]) for key in counts}, reach.kept, reach.exceptions)


def _reason(path: str, owner: str, kept_modules: frozenset[str]) -> str:
    """Say why a file is left out; empty: it is kept."""
    parts = path.split("/")
    if owner in DISTRIBUTIONS:
        return "instrumentations of frameworks that are not here"
    if parts[0].endswith(".dist-info"):
        # Versions, requirements and entry points are read at run time; licences go with what they license.
        keep = parts[-1] in _METADATA or "licen" in path.lower() or "notice" in path.lower()
        return "" if keep else "records of the installer"
    if parts[0] == SDK and path not in kept_modules:
        return (
            "modules of the SDK that nothing reaches"
            if path.endswith(".py")
            else "records of the SDK's generator"
        )
    if parts[0].endswith("-stubs") or path.endswith(_SUFFIXES):
        return "sources in C and Cython, types, bytecode"
    if {"tests", "_tests", "__pycache__"} & set(parts[:-1]) or parts[-1].startswith(_TESTING):
        return "tests"
    return ""


def _prove(content: Mapping[str, bytes], gone: Mapping[str, str], reach: frozenset[str]) -> None:
    """
    Check that no module kept imports one left out, anywhere in it, also in functions.

    The SDK's own modules are proven by ``reach`` function by function; all others here.
    """
    lost = {path for path in gone if path.endswith(".py")}
    broken: list[str] = []
    for path, source in sorted(content.items()):
        if path.endswith(".py") and path not in reach:
            broken += [
                f"{path} imports {name} ({gone[found]})"
                for name in imported(ast.parse(source), path)
                if (found := module_path(name, lost))
            ]
    if broken:
        raise PackageError(
            "kept modules import what was left out:\n    " + "\n    ".join(broken[:10]),
            "keep it: scripts/packer/leaving_out.py says what goes and why",
        )
