"""Which of our own files are deployed: what git knows, less what .funcignore names."""

from __future__ import annotations

import fnmatch
import subprocess
from typing import TYPE_CHECKING, Final

from packer.faults import PackageError

if TYPE_CHECKING:
    from pathlib import Path

NEEDED: Final = frozenset({"function_app.py", "host.json", "requirements.txt", "settings.py"})
"""Without these the host does not start the app."""


def ignored(path: str, patterns: list[str]) -> bool:
    """Tell whether a file is left out: a pattern names it, or a folder above it."""
    parts = path.split("/")
    names = [*("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)), parts[-1]]
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for name in names for pattern in patterns)


def deployed(root: Path) -> list[str]:
    """Give our files of the package, sorted. Raises: PackageError where git cannot be asked or a file is missing."""
    lines = (root / ".funcignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    listed = _git(root, "ls-files", "-z").split("\0")
    files = sorted({path for path in listed if path and not ignored(path, patterns)})
    if missing := sorted((NEEDED - set(files)) | {path for path in files if not (root / path).is_file()}):
        raise PackageError(
            f"{', '.join(missing)} would be missing from the package",
            "bring it back (git checkout -- FILE), or take it away with git rm",
        )
    return files


def refuse_changes(root: Path, files: list[str]) -> None:
    """
    Refuse where what would be packed is not what is committed.

    Raises: PackageError, naming deployed files that differ, and new ones beside them that git does not know.
    """
    lines = (root / ".funcignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    changed = []
    for entry in _git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames").split(
        "\0"
    ):
        path = entry[3:]
        if (
            path
            and not ignored(path, patterns)
            and (path in files or path.endswith((".py", ".kql", ".yaml")))
        ):
            changed.append(path)
    if changed:
        shown = ", ".join(sorted(changed)[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
        raise PackageError(
            f"not committed: {shown}; the package could not be made again from any commit",
            "commit or stash, or say --allow-dirty for a package that is only tried",
        )


def _git(root: Path, *arguments: str) -> str:
    try:
        return subprocess.run(  # noqa: S603  # fixed words
            ["git", *arguments],  # noqa: S607  # git is found on the PATH
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except FileNotFoundError as error:
        raise PackageError(
            "git was not found, and only git knows which files belong to the app", "install git"
        ) from error
    except subprocess.CalledProcessError as error:
        raise PackageError(
            f"git cannot say which files belong to the app: {error.stderr.strip().splitlines()[-1:] or 'no reason'}",
            f"run it in a clone of the repository ({root} is none, or belongs to another user)",
        ) from error
