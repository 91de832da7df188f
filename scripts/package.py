"""Make the zip that is deployed: what git knows, less what .funcignore names. Prints its size and what is in it."""

import fnmatch
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "dist" / "agentbreaker.zip"


def ignored(path: str, patterns: list[str]) -> bool:
    """Tell whether a file is left out: a pattern names it, or a folder above it."""
    parts = path.split("/")
    names = [*("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)), parts[-1]]
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for name in names for pattern in patterns)


def deployed() -> list[str]:
    """Give the files of the package, sorted."""
    lines = (ROOT / ".funcignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607  # git is found on the PATH
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return sorted(path for path in listed if path and not ignored(path, patterns))


def main() -> int:
    """Write the zip. 1 when something the host needs is missing."""
    files = deployed()
    missing = {"function_app.py", "host.json", "requirements.txt", "settings.py"} - set(files)
    if missing:
        print(f"package: {', '.join(sorted(missing))} would be missing", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            # A fixed time, so that the same sources make the same package.
            entry = zipfile.ZipInfo(path, date_time=(2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (ROOT / path).read_bytes())
    size = TARGET.stat().st_size / 1024
    print(
        f"{TARGET.relative_to(ROOT)}: {len(files)} files, {size:.0f} KiB; dependencies are built from requirements.txt"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
