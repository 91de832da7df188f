"""The zip: the same bytes for the same files, whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from packer.faults import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Fixed, so that neither the clock nor the file system is in the package.
_TIME: Final = (2020, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644
_LEVEL: Final = 9


def write_zip(target: Path, entries: Iterable[tuple[str, bytes]], *, most: int) -> int:
    """
    Write a zip of (path, content), sorted by path, in place of what is there; give its size.

    Equal entries make equal bytes with the same zlib. ``target`` is only touched once all of it is written.
    Raises: PackageError where it would be larger than ``most`` bytes.
    """
    with _in_place_of(target) as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            for path, content in sorted(entries):
                entry = zipfile.ZipInfo(path, date_time=_TIME)
                entry.create_system, entry.external_attr = (
                    3,
                    _MODE << 16,
                )  # as Unix writes it, wherever this runs
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content, compresslevel=_LEVEL)
        size = stream.seek(0, os.SEEK_END)
        if size > most:
            raise PackageError(
                f"{target.name} would have {size / 1e6:.1f} MB, {most / 1e6:.0f} at most",
                "leave something out (scripts/packer/leaving_out.py), or do without a dependency",
            )
    return size


def write_text(target: Path, text: str) -> None:
    """Write a text file in place of what is there, whole or not at all."""
    with _in_place_of(target) as stream:
        stream.write(text.encode())


@contextmanager
def _in_place_of(target: Path) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
