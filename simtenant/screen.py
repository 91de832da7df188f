"""What a person sees while the demo runs: a small live table in a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.table import Table

_WIDTH: Final = 16
_LATEST: Final = 6
_COLOURS: Final = {"proven": "bold green", "agent rogue": "bold red", "agent blocked": "bold green"}


class Screen(Protocol):
    """Where the story is shown."""

    def line(self, at: datetime, event: str, detail: str) -> None:
        """Show one event."""

    def end(self, good: bool, summary: Sequence[str]) -> None:
        """Show how it ended."""


class Lines:
    """Plain lines, on stderr where stdout belongs to the JSON."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to = sys.stderr if to_stderr else sys.stdout

    def line(self, at: datetime, event: str, detail: str) -> None:
        """Print one event."""
        print(f"{at:%H:%M:%S}  {event:<{_WIDTH}} {detail}", file=self._to, flush=True)

    def end(self, good: bool, summary: Sequence[str]) -> None:
        """Print the summary."""
        print(*(("" if good else "FAILED: ") + text for text in summary), sep="\n", file=self._to, flush=True)


class LiveTable:
    """A table of the latest events that stays small, and of all events at the end; for a terminal."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  # only a terminal needs it

        self._rows: list[tuple[datetime, str, str]] = []
        self._live = Live(self._table(()), refresh_per_second=4, transient=True)
        self._live.start()

    def line(self, at: datetime, event: str, detail: str) -> None:
        """Show an event and the few before it."""
        self._rows.append((at, event, detail))
        # A table longer than the terminal would be cut at its end, where the news is.
        self._live.update(self._table(self._rows[-_LATEST:]))

    def end(self, good: bool, summary: Sequence[str]) -> None:
        """Leave the whole story on the terminal, then the summary."""
        self._live.stop()
        self._live.console.print(self._table(self._rows))
        print(*(("" if good else "FAILED: ") + text for text in summary), sep="\n", flush=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    @staticmethod
    def _table(rows: Sequence[tuple[datetime, str, str]]) -> Table:
        """Make the table. Details are plain text: markup in a tenant's names is not interpreted."""
        from rich.table import Table  # noqa: PLC0415  # see above
        from rich.text import Text  # noqa: PLC0415  # see above

        table = Table("time", "event", "what", title="Agentbreaker demo: a simulated tenant", expand=True)
        for at, event, detail in rows:
            table.add_row(f"{at:%H:%M:%S}", Text(event, style=_COLOURS.get(event, "")), Text(detail))
        return table


@contextlib.contextmanager
def screen_for(*, as_json: bool) -> Iterator[Screen]:
    """Give the screen that fits: a live table only where a person looks at a terminal."""
    if as_json or not sys.stdout.isatty():
        yield Lines(to_stderr=as_json)
        return
    table = LiveTable()
    try:
        yield table
    finally:
        table.stop()
