"""A progress bar where somebody watches, plain lines where nobody does. On standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_EVERY = 10.0  # seconds


class Bar(Protocol):
    """Shows how far it is."""

    def say(self, line: str) -> None:
        """Tell something once."""

    def at(self, done: int, total: int, what: str) -> None:
        """Show how much is done."""


@contextlib.contextmanager
def bar() -> Iterator[Bar]:
    """Give a bar for as long as it is needed: rich's on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415  # half a second that only a terminal needs
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        yield _Rich(shown)


class _Lines:
    def __init__(self) -> None:
        self._told = 0.0

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def at(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self._told >= _LINE_EVERY or done == total:
            self._told = now
            print(f"{done}/{total} hours: {what}", file=sys.stderr, flush=True)


class _Rich:
    def __init__(self, shown: object) -> None:
        from rich.progress import Progress  # noqa: PLC0415

        if not isinstance(shown, Progress):
            raise TypeError(shown)
        self._shown = shown
        self._task = shown.add_task("replay", total=None)

    def say(self, line: str) -> None:
        # Text of the tenant may look like rich's markup.
        self._shown.console.print(line, markup=False, highlight=False)

    def at(self, done: int, total: int, what: str) -> None:
        self._shown.update(self._task, completed=done, total=total, description=what)
