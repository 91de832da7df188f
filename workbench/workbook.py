"""
``workbook``: the workbook of infra/monitoring, asked on the local engine and drawn as one page.

The queries are the workbook's own, to the letter; how the portal would draw them is not imitated. The rows are those of a
story that the app lives through in a simulated tenant (``simtenant/observed.py``).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from workbench.engine import LogEngine, Result

WORKBOOK: Final = Path(__file__).resolve().parents[1] / "infra" / "monitoring" / "workbook.json"
_STYLE: Final = """
body{font:14px/1.4 system-ui,sans-serif;margin:24px;color:#1b1f24;background:#f5f6f8;width:1240px}
h1{font-size:20px;margin:0 0 4px}p{margin:0 0 16px;color:#57606a}
main{display:grid;grid-template-columns:1fr 1fr;gap:16px}
section{background:#fff;border:1px solid #d5d9de;border-radius:6px;padding:12px 16px;overflow:hidden}
h2{font-size:14px;margin:0 0 8px}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:3px 8px 3px 0;border-bottom:1px solid #eceef1;overflow-wrap:anywhere}
td.n,th.n{text-align:right}.none{color:#57606a}svg{display:block;width:100%}
"""
_ROW: Final = 24
_LABEL: Final = 190
_WIDTH: Final = 560


@dataclass(frozen=True, slots=True)
class Tile:
    """One query of the workbook. ``chart``: drawn as bars, else as a table."""

    name: str
    title: str
    query: str
    chart: bool


def tiles(path: Path = WORKBOOK) -> tuple[Tile, ...]:
    """Read the queries of a workbook, in its order. Raises: KeyError, ValueError for a file that is none."""
    items = json.loads(path.read_text(encoding="utf-8"))["items"]
    return tuple(
        Tile(
            item["name"],
            item["content"]["title"],
            item["content"]["query"],
            item["content"]["visualization"] != "table",
        )
        for item in items
        if item["type"] == 3
    )


def ask(shown: Sequence[Tile], engine: LogEngine, now: datetime) -> dict[str, Result]:
    """Answer every tile. Raises: QueryError."""
    return {tile.name: engine.query(tile.query, now=now) for tile in shown}


def page(shown: Sequence[Tile], answers: Mapping[str, Result], note: str) -> str:
    """Draw the answers as one page without scripts; whatever a row says is escaped."""
    sections = "\n".join(
        f"<section><h2>{escape(tile.title)}</h2>{_drawn(tile, answers[tile.name])}</section>"
        for tile in shown
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Agentbreaker</title><style>{_STYLE}</style>'
        f"</head><body><h1>Agentbreaker</h1><p>{escape(note)}</p><main>{sections}</main></body></html>\n"
    )


def _drawn(tile: Tile, answer: Result) -> str:
    if not answer.rows:
        return '<p class="none">Nothing in this time.</p>'
    return _bars(answer) if tile.chart else _table(answer)


def _bars(answer: Result) -> str:
    """Draw the one column of numbers against the words of the others."""
    numbers = [at for at, (_, kind) in enumerate(answer.columns) if kind in ("long", "int", "real")]
    (value,) = numbers[-1:]
    most = max(float(row[value] or 0) for row in answer.rows) or 1.0
    lines = []
    for at, row in enumerate(answer.rows):
        label = " ".join(_text(cell) for place, cell in enumerate(row) if place != value)
        length = (_WIDTH - _LABEL - 70) * max(float(row[value] or 0), 0.0) / most
        y = at * _ROW
        lines.append(
            f'<text x="{_LABEL - 8}" y="{y + 16}" text-anchor="end" font-size="12">{escape(label[:32])}</text>'
            f'<rect x="{_LABEL}" y="{y + 4}" width="{length:.1f}" height="16" fill="#2f6fbb"/>'
            f'<text x="{_LABEL + length + 6:.1f}" y="{y + 16}" font-size="12">{escape(_text(row[value]))}</text>'
        )
    height = len(answer.rows) * _ROW
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(lines)}</svg>'


def _table(answer: Result) -> str:
    numeric = [' class="n"' if kind in ("long", "int", "real") else "" for _, kind in answer.columns]
    heads = zip(answer.columns, numeric, strict=True)
    head = "".join(f"<th{number}>{escape(name)}</th>" for (name, _), number in heads)
    rows = "".join(
        "<tr>"
        + "".join(f"<td{n}>{escape(_text(cell))}</td>" for cell, n in zip(row, numeric, strict=True))
        + "</tr>"
        for row in answer.rows
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _text(value: Any) -> str:
    match value:
        case datetime():
            return f"{value:%H:%M:%S}" if value.minute or value.second else f"{value:%d %b %H:%M}"
        case float():
            return f"{value:.2f}".rstrip("0").rstrip(".")
        case None:
            return ""
    return str(value)


def add_to(commands: Any) -> None:
    """Add the command to the desk's parser."""
    parser = commands.add_parser(
        "workbook",
        help="draw the workbook on a simulated tenant's rows",
        description="Let the app live through a story in a simulated tenant, run the workbook's own queries on what it "
        "left in the workspace, and write them as one HTML page.",
    )
    parser.add_argument("--render", type=Path, required=True, metavar="FILE", help="HTML file to write")
    parser.set_defaults(command=_run)


def _run(parsed: argparse.Namespace) -> int:
    drawn = asyncio.run(_told())
    parsed.render.parent.mkdir(parents=True, exist_ok=True)
    parsed.render.write_text(drawn, encoding="utf-8")
    print(f"{parsed.render}: {len(tiles())} queries on a simulated tenant's rows")
    return 0


async def _told() -> str:
    # The desk's other commands need no tenant and no exporter.
    from clients.telemetry import azure  # noqa: PLC0415
    from simtenant.observed import observed, tell  # noqa: PLC0415

    for name, value in azure.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as directory:
        async with observed(Path(directory)) as seen:
            await tell(seen)
            now = seen.now + timedelta(seconds=1)
            shown = tiles()
            note = f"infra/monitoring/workbook.json on the rows of a simulated tenant, {now:%Y-%m-%d %H:%M} UTC. Not a real one."
            return page(shown, ask(shown, seen.engine, now), note)
