"""
Make, lock and check the zip that is deployed; docs/package.md says what is in it.

    python scripts/package.py [build] [--python 3.13] [--allow-dirty]
    python scripts/package.py lock     make requirements-py*.lock from requirements.txt (needs uv)
    python scripts/package.py check    run the tests of production code on the package (its Python: this one's)
    python scripts/package.py host     start it in a clean environment under Microsoft's runtime, hand it an incident

Each ends with 1 and says what to do when it cannot; a build that fails leaves dist/ as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))

from packer import archive, checking, locks, sources, wheels
from packer.faults import PackageError
from packer.files import Wheels
from packer.leaving_out import Site, reduce

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
SITE: Final = ".python_packages/lib/site-packages/"
"""Where Microsoft's worker looks (azure-functions-runtime 1.3.0, utils/constants.py: CUSTOMER_PACKAGES_PATH)."""
MOST_ZIPPED: Final = 25_000_000
MOST_UNPACKED: Final = 90_000_000


def deployed() -> list[str]:
    """Give our files of the package, sorted."""
    return sources.deployed(ROOT)


def build(version: str, *, allow_dirty: bool = False, root: Path = ROOT) -> Path:
    """Build the zip for a Python version and print what is in it. Raises: PackageError, with dist/ untouched."""
    files = sources.deployed(root)
    if not allow_dirty:
        sources.refuse_changes(root, files)
    if differing := locks.out_of_step(root, version):
        raise PackageError(
            "the lock is out of step:\n    " + "\n    ".join(differing), "python scripts/package.py lock"
        )
    name = f"agentbreaker-py{version.replace('.', '')}"
    lock = locks.path_of(root, version)
    found = wheels.fetch(locks.read(root, version), lock, version, root / "dist" / "wheels" / version)
    app = {path: (root / path).read_text() for path in files if path.endswith(".py")}
    with Wheels(found) as opened:
        site = reduce(opened, app)
    entries = [(path, (root / path).read_bytes()) for path in files]
    entries += [(SITE + path, content) for path, content in site.files.items()]
    unpacked = sum(len(content) for _, content in entries)
    target = root / "dist" / f"{name}.zip"
    size = archive.write_zip(target, entries, most=MOST_ZIPPED) if unpacked <= MOST_UNPACKED else 0
    if not size:
        raise PackageError(
            f"{unpacked / 1e6:.1f} MB unpacked, {MOST_UNPACKED / 1e6:.0f} at most; the largest: {_largest(site)}",
            "leave something out (scripts/packer/leaving_out.py), or do without a dependency",
        )
    _report(target.with_suffix(".json"), site)
    _say(target, root, len(entries), size, unpacked, site)
    return target


def _say(target: Path, root: Path, count: int, size: int, unpacked: int, site: Site) -> None:
    print(
        f"{target.relative_to(root)}: {count} files, {size / 1e6:.1f} MB zipped, {unpacked / 1e6:.1f} MB unpacked "
        f"(at most {MOST_ZIPPED / 1e6:.0f} and {MOST_UNPACKED / 1e6:.0f})"
    )
    print(f"  of msgraph: {len(site.modules)} modules, all that the app can reach; of the others all modules")
    print("  removed:")
    for reason in sorted({reason for reason, _ in site.removed}):
        owners = {owner: what for (why, owner), what in site.removed.items() if why == reason}
        files, megabytes = sum(n for n, _ in owners.values()), sum(b for _, b in owners.values()) / 1e6
        largest = sorted(owners, key=lambda owner: -owners[owner][1])[:3]
        print(
            f"    {files:6d} files {megabytes:7.1f} MB  {reason} ({', '.join(largest)}{'…' if len(owners) > 3 else ''})"
        )
    print(
        f"  what was removed by package, and why it is safe: {target.with_suffix('.json').relative_to(root)}"
    )


def _report(path: Path, site: Site) -> None:
    """Write what was removed, and each function that would meet a module left out if it ran."""
    report = {
        "removed": [
            {"reason": reason, "package": owner, "files": files, "bytes": size}
            for (reason, owner), (files, size) in sorted(site.removed.items())
        ],
        "sdkModules": sorted(site.modules),
        "functionsThatNeverRun": [
            {
                "module": one.module,
                "function": one.function,
                "reason": one.reason,
                "imports": list(one.imports),
            }
            for one in site.exceptions
        ],
    }
    archive.write_text(path, json.dumps(report, indent=1) + "\n")


def _largest(site: Site) -> str:
    sizes: Counter[str] = Counter()
    for path, content in site.files.items():
        sizes[path.split("/")[0]] += len(content)
    return ", ".join(f"{top} {size / 1e6:.1f} MB" for top, size in sizes.most_common(5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. 1 when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="scripts/package.py", description="Make and check the zip that is deployed."
    )
    parser.add_argument("what", nargs="?", choices=("build", "lock", "check", "host"), default="build")
    parser.add_argument(
        "--python", choices=locks.VERSIONS, default=None, help="default: 3.13; check: this Python"
    )
    parser.add_argument("--allow-dirty", action="store_true", help="pack what is not committed, to try it")
    asked, rest = parser.parse_known_args(arguments)
    if rest and asked.what != "check":
        parser.error(f"unknown: {' '.join(rest)}")
    here = f"3.{sys.version_info.minor}"
    try:
        if asked.what == "lock":
            for version in [asked.python] if asked.python else locks.VERSIONS:
                print(f"{locks.path_of(ROOT, version).name}: {locks.write(ROOT, version)} pins")
        elif asked.what == "build":
            build(asked.python or "3.13", allow_dirty=asked.allow_dirty)
        elif asked.what == "check":
            package = build(here, allow_dirty=asked.allow_dirty)
            return checking.tests(ROOT, package, SITE, rest)
        else:
            package = build("3.13", allow_dirty=asked.allow_dirty)
            return checking.hosted(ROOT, package)
    except PackageError as error:
        print(f"package: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
