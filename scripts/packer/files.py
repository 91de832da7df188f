"""Trees of files by path, wherever they lie: in wheels, in a folder."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Protocol, Self

from packer.faults import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Files(Protocol):
    """Files by their path below site-packages, with ``/``."""

    def __contains__(self, path: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def read(self, path: str) -> bytes:
        """Give a file's content. Raises: KeyError."""
        ...


class Folder:
    """The Python files of some packages in a folder, such as site-packages."""

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self._root = root
        self._paths = {
            found.relative_to(root).as_posix() for name in packages for found in (root / name).rglob("*.py")
        }

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._paths))

    def read(self, path: str) -> bytes:
        """Give a file's content. Raises: KeyError."""
        if path not in self._paths:
            raise KeyError(path)
        return (self._root / path).read_bytes()


class Wheels:
    """
    What wheels would install into site-packages, read where it lies; a context manager.

    Programs (``.data/scripts``), headers and data for other places are no part of it: nothing imports them.
    Raises on opening: PackageError for a file that is no wheel, or where two wheels hold different files of one name.
    Source: the binary distribution format of packaging.python.org ("The .data directory").
    """

    def __init__(self, wheels: Sequence[Path]) -> None:
        self._open: list[zipfile.ZipFile] = []
        self._where: dict[str, tuple[zipfile.ZipFile, str]] = {}
        self.sizes: dict[str, int] = {}
        self.owner: dict[str, str] = {}
        try:
            for wheel in sorted(wheels):
                self._add(wheel)
        except BaseException:
            self.close()
            raise

    def _add(self, wheel: Path) -> None:
        try:
            archive = zipfile.ZipFile(wheel)
        except (OSError, zipfile.BadZipFile) as error:
            raise PackageError(
                f"{wheel.name} is not a readable wheel ({error})", "delete it and run again"
            ) from error
        self._open.append(archive)
        distribution = wheel.name.split("-")[0].replace("_", "-").lower()
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            path = _installed(entry.filename)
            if path is None:
                continue
            if path.startswith("/") or ".." in path.split("/"):
                raise PackageError(
                    f"{wheel.name} holds {path!r}, which lies outside", "do not use that release"
                )
            if path in self._where and self.read(path) != archive.read(entry):
                raise PackageError(
                    f"{path} is in {self.owner[path]} and, different, in {distribution}",
                    "one of the two has to go from requirements.txt",
                )
            self._where[path] = archive, entry.filename
            self.sizes[path], self.owner[path] = entry.file_size, distribution

    def __contains__(self, path: object) -> bool:
        return path in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._where))

    def read(self, path: str) -> bytes:
        """Give a file's content. Raises: KeyError."""
        archive, name = self._where[path]
        return archive.read(name)

    def close(self) -> None:
        """Close the wheels."""
        for archive in self._open:
            archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _installed(name: str) -> str | None:
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    kind, _, path = rest.partition("/")
    return path if kind in ("purelib", "platlib") else None
