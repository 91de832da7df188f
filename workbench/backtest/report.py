"""
The page of a back-test: one file that needs nothing else, runs nothing and loads nothing.

Everything that came from a tenant goes through ``_said``: escaped, without control characters, and isolated, so that a
name written right to left turns nothing around it. Marks differ in shape as well as in colour.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from response.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from detections.catalog import Rule
    from workbench.backtest.replay import Span
    from workbench.backtest.verdicts import Told
    from workbench.tenant import TenantFile

_LISTED: Final = 3000  # findings in the full list; the JSON file has all
_ORDER: Final = (Verdict.CONTAIN, Verdict.ASK, Verdict.WATCH)
_WORDS: Final[Mapping[str, str]] = {
    Verdict.CONTAIN: "contain",
    Verdict.ASK: "ask a person",
    Verdict.WATCH: "watch",
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 1000, 108, 16, 24, 8
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows. ``contained`` says which principals would have been contained, and when."""

    span: Span
    rules: Sequence[Rule]
    tenant: TenantFile | None
    told: Sequence[Told]
    contained: Mapping[str, datetime]
    summary: Sequence[str]


def render(page: Page) -> str:
    """Give the page as HTML."""
    names = {rule.id: rule.name for rule in page.rules}
    people = _by_principal(page)
    since, until = page.span.since.astimezone(UTC), page.span.until.astimezone(UTC)
    body = "".join(
        (
            (
                "<header><p class='eyebrow'>Agentbreaker back-test</p>"
                f"<h1>{since:%d %B %Y %H:%M} to {until:%d %B %Y %H:%M} <small>UTC</small></h1>"
            ),
            _tiles(page, len(people)),
            "</header>",
            _notes(page.summary),
            _contained(page, names, people),
            _timelines(page, names, people),
            _noise(page, names),
            _matrix(page, names, people),
            _list(page, names),
        )
    )
    return _FRAME.replace("{title}", f"Back-test {since:%Y-%m-%d} to {until:%Y-%m-%d}").replace(
        "{body}", body
    )


def _by_principal(page: Page) -> dict[str, list[Told]]:
    """Group findings by principal, those first who need a look first."""
    groups: dict[str, list[Told]] = {}
    for told in page.told:
        groups.setdefault(told.principal_id, []).append(told)

    def rank(item: tuple[str, list[Told]]) -> tuple[bool, int, int, str]:
        id_, found = item
        boldest = min(_ORDER.index(Verdict(told.verdict)) for told in found)
        return id_ not in page.contained, boldest, -len(found), id_

    return dict(sorted(groups.items(), key=rank))


def _name(page: Page, id_: str, found: Iterable[Told]) -> str:
    listed = page.tenant.principals.get(id_) if page.tenant else None  # type: ignore[call-overload]
    if listed is not None and listed.principal.display_name:
        return str(listed.principal.display_name)
    return next((told.principal_name for told in found if told.principal_name), "") or id_


def _tiles(page: Page, people: int) -> str:
    verdicts = Counter(told.verdict for told in page.told)
    tiles = (
        (len(page.contained), "principals contained", "contain"),
        (verdicts[Verdict.ASK], "findings ask a person", "ask"),
        (verdicts[Verdict.WATCH], "findings only watched", "watch"),
        (len(page.told), f"findings about {people} principals", ""),
        (len(page.rules), "rules", ""),
    )
    cells = "".join(
        f"<div class='tile {kind}'><b>{n:,}</b><span>{what}</span></div>" for n, what, kind in tiles
    )
    return f"<div class='tiles'>{cells}</div>"


def _notes(summary: Sequence[str]) -> str:
    return (
        f"<section class='notes'><ul>{''.join(f'<li>{_said(line)}</li>' for line in summary)}</ul></section>"
    )


def _contained(page: Page, names: Mapping[str, str], people: Mapping[str, Sequence[Told]]) -> str:
    if not page.contained:
        return _section("contained", "What would have been contained", "", "<p class='none'>Nothing.</p>")
    cards = []
    for id_, since in sorted(page.contained.items(), key=lambda item: item[1]):
        found = people.get(id_, ())
        cause = next((told for told in found if told.contains), None)
        reasons = cause.reasons if cause else []
        rule = f"{cause.detection} {names.get(cause.detection, '')}" if cause else ""
        joined = sum(told.window_end > since for told in found)
        after = f"<p class='dim'>Later findings that joined it: {joined}.</p>" if joined else ""
        cards.append(
            f"<article class='card'><h3>{_said(_name(page, id_, found))}</h3><p class='id'>{_said(id_)}</p>"
            f"<p><span class='pill contain'>contained</span> {_when(since)}</p>"
            f"<p class='rule'>{_said(rule)}</p>{_reasons(reasons)}{after}</article>"
        )
    why = "In mode enforce, with everything the app knew at that moment."
    return _section(
        "contained",
        "What would have been contained, and why",
        why,
        f"<div class='cards'>{''.join(cards)}</div>",
    )


def _timelines(page: Page, names: Mapping[str, str], people: Mapping[str, Sequence[Told]]) -> str:
    shown: list[str] = []
    quiet: list[str] = []
    for id_, found in people.items():
        figure = (
            f"<figure class='timeline'><figcaption><b>{_said(_name(page, id_, found))}</b> "
            f"<span class='id'>{_said(id_)}</span>{_counts(found)}</figcaption>{_svg(page, names, id_, found)}</figure>"
        )
        loud = id_ in page.contained or any(told.verdict != Verdict.WATCH for told in found)
        (shown if loud else quiet).append(figure)
    body = "".join(shown) or "<p class='none'>Nobody was contained or asked about.</p>"
    if quiet:
        body += f"<details><summary>{len(quiet)} principals that were only watched</summary>{''.join(quiet)}</details>"
    legend = (
        "<p class='legend'>"
        + "".join(
            f"<span><svg viewBox='0 0 14 14' width='14' height='14' aria-hidden='true'>{_mark(verdict, 7, 7)}</svg> "
            f"{_WORDS[verdict]}</span>"
            for verdict in _ORDER
        )
        + "<span><i class='shade'></i> contained from here on</span></p>"
    )
    return _section(
        "timelines",
        "Timeline of each principal",
        "A mark stands where the finding begins; hover for what it says.",
        legend + body,
    )


def _svg(page: Page, names: Mapping[str, str], id_: str, found: Sequence[Told]) -> str:
    begin = min(page.span.since, *(told.time for told in found))
    end = page.span.until
    width = _WIDTH - _LEFT - _RIGHT
    whole = max((end - begin) / timedelta(seconds=1), 1.0)

    def x(moment: datetime) -> float:
        return round(_LEFT + min(max((moment - begin) / timedelta(seconds=1) / whole, 0.0), 1.0) * width, 1)

    rules = sorted({told.detection for told in found})
    bottom = _TOP + _ROW * len(rules)
    parts = []
    since = page.contained.get(id_)
    if since is not None:
        parts.append(
            f"<rect class='shade' x='{x(since)}' y='{_TOP}' width='{round(x(end) - x(since), 1)}' height='{bottom - _TOP}'/>"
            f"<line class='cut' x1='{x(since)}' x2='{x(since)}' y1='{_TOP - 4}' y2='{bottom}'/>"
        )
    for moment, label in _ticks(begin, end):
        parts.append(
            f"<line class='tick' x1='{x(moment)}' x2='{x(moment)}' y1='{_TOP}' y2='{bottom}'/>"
            f"<text class='time' x='{x(moment)}' y='{bottom + 15}' text-anchor='middle'>{label}</text>"
        )
    for number, rule in enumerate(rules):
        y = _TOP + _ROW * number + _ROW / 2
        parts.append(
            f"<line class='lane' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y}' y2='{y}'/>"
            f"<text class='lane' x='{_LEFT - 10}' y='{y + 4}' text-anchor='end'>{_text(rule)}"
            f"<title>{_text(names.get(rule, ''))}</title></text>"
        )
        # The boldest last, so that it lies on top.
        mine = [told for told in found if told.detection == rule]
        for told in sorted(mine, key=lambda told: -_ORDER.index(Verdict(told.verdict))):
            title = f"{told.time:%Y-%m-%d %H:%M} {told.detection} {told.verdict}: {'; '.join(told.reasons)}"
            lasting = x(told.last_seen) - x(told.time)
            bar = (
                f"<line class='lasts {told.verdict}' x1='{x(told.time)}' x2='{x(told.last_seen)}' y1='{y}' y2='{y}'/>"
                if lasting > 1
                else ""
            )
            parts.append(
                f"<g>{bar}{_mark(Verdict(told.verdict), x(told.time), y)}<title>{_text(title)}</title></g>"
            )
    label = _text(f"Timeline of {len(found)} findings")
    return f"<svg class='line' viewBox='0 0 {_WIDTH} {bottom + 22}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


def _mark(verdict: Verdict, x: float, y: float) -> str:
    match verdict:
        case Verdict.CONTAIN:
            return f"<rect class='mark contain' x='{x - 5.5}' y='{y - 5.5}' width='11' height='11' rx='1.5'/>"
        case Verdict.ASK:
            return f"<path class='mark ask' d='M{x} {y - 6.5}L{x + 6.5} {y + 5}L{x - 6.5} {y + 5}Z'/>"
        case Verdict.WATCH:
            return f"<circle class='mark watch' cx='{x}' cy='{y}' r='4.5'/>"


def _ticks(begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """Give about eight round moments and their labels."""
    steps = [timedelta(minutes=n) for n in (5, 15, 30, 60, 120, 180, 360, 720)] + [
        _DAY * n for n in (1, 2, 7, 14, 28)
    ]
    step = next((s for s in steps if (end - begin) / s <= 9), _DAY * math.ceil((end - begin) / _DAY / 9))
    midnight = begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight + math.ceil((begin - midnight) / step) * step
    found = []
    while at <= end:
        form = "%d %b" if step >= _DAY or (at.hour, at.minute) == (0, 0) else "%H:%M"
        found.append((at, at.strftime(form)))
        at += step
    return found


def _noise(page: Page, names: Mapping[str, str]) -> str:
    """Draw how many findings each rule has a day."""
    if not page.told:
        return ""
    first = min(page.span.since, *(told.window_end for told in page.told)).astimezone(UTC).date()
    last = page.span.until.astimezone(UTC).date()
    days = [first + _DAY * n for n in range((last - first).days + 1)]
    counts = Counter((told.detection, told.window_end.astimezone(UTC).date()) for told in page.told)
    most = max(counts.values())
    head = "".join(f"<th scope='col'>{day:%d %b}</th>" for day in days)
    rows = []
    for rule in page.rules:
        total = sum(counts[rule.id, day] for day in days)
        cells = "".join(_heat(counts[rule.id, day], most) for day in days)
        silent = "" if total else " class='silent'"
        rows.append(
            f"<tr{silent}><th scope='row'>{_said(rule.id)} <span>{_said(rule.name)}</span></th>{cells}<td class='sum'>{total}</td></tr>"
        )
    sums = "".join(f"<td class='sum'>{sum(counts[rule.id, day] for rule in page.rules)}</td>" for day in days)
    table = (
        f"<div class='scroll'><table class='heat'><thead><tr><th></th>{head}<th scope='col'>all</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody><tfoot><tr><th scope='row'>all</th>{sums}<td class='sum'>{len(page.told)}</td></tr></tfoot></table></div>"
    )
    return _section(
        "noise",
        "Noise per rule and day",
        f"Findings by the day they would have come up; {names and len(names)} rules.",
        table,
    )


def _heat(count: int, most: int) -> str:
    level = 0 if count == 0 else 1 + min(3, int(4 * (count - 1) / max(most, 1)))
    return f"<td class='h{level}'>{count or '·'}</td>"


def _matrix(page: Page, names: Mapping[str, str], people: Mapping[str, Sequence[Told]]) -> str:
    """List findings per rule and principal."""
    rows = []
    for rule, name in names.items():
        mine = [(id_, [told for told in found if told.detection == rule]) for id_, found in people.items()]
        lines = "".join(
            f"<tr><td>{_said(_name(page, id_, found))} <span class='id'>{_said(id_)}</span></td><td>{len(found)}</td>"
            f"<td>{_counts(found)}</td><td>{_when(min(t.time for t in found))}</td></tr>"
            for id_, found in mine
            if found
        )
        if lines:
            total = sum(len(found) for _, found in mine)
            rows.append(
                f"<details><summary><b>{_said(rule)}</b> {_said(name)} <span class='dim'>{total} findings, "
                f"{sum(bool(found) for _, found in mine)} principals</span></summary>"
                f"<div class='scroll'><table><thead><tr><th>principal</th><th>findings</th><th>verdicts</th><th>first</th></tr></thead>"
                f"<tbody>{lines}</tbody></table></div></details>"
            )
    return _section(
        "rules", "Findings per rule and principal", "", "".join(rows) or "<p class='none'>None.</p>"
    )


def _list(page: Page, names: Mapping[str, str]) -> str:
    if not page.told:
        return ""
    lines = "".join(
        f"<tr><td>{_when(told.time)}</td><td title='{_text(names.get(told.detection, ''))}'>{_said(told.detection)}</td>"
        f"<td>{_said(_name(page, told.principal_id, [told]))}</td><td>{_said(told.tier)}</td>"
        f"<td><span class='pill {told.verdict}'>{told.verdict}</span></td><td>{_reasons(told.reasons)}</td>"
        f"<td>{told.window_end:%H:%M}</td></tr>"
        for told in page.told[:_LISTED]
    )
    more = len(page.told) - _LISTED
    rest = f"<p class='dim'>{more} more are in the JSON file.</p>" if more > 0 else ""
    table = (
        "<details><summary>Show the list</summary><div class='scroll'><table><thead><tr><th>began</th><th>rule</th><th>principal</th>"
        f"<th>tier</th><th>verdict</th><th>why</th><th>found</th></tr></thead><tbody>{lines}</tbody></table></div>{rest}</details>"
    )
    return _section("findings", "All findings", "In the order in which they would have come up.", table)


def _section(id_: str, title: str, about: str, body: str) -> str:
    intro = f"<p class='dim'>{about}</p>" if about else ""
    return f"<section id='{id_}'><h2>{title}</h2>{intro}{body}</section>"


def _counts(found: Iterable[Told]) -> str:
    verdicts = Counter(told.verdict for told in found)
    return "".join(
        f"<span class='pill {verdict}'>{verdicts[verdict]} {verdict}</span>"
        for verdict in _ORDER
        if verdicts[verdict]
    )


def _reasons(reasons: Sequence[str]) -> str:
    return f"<ul class='reasons'>{''.join(f'<li>{_said(reason)}</li>' for reason in reasons if reason)}</ul>"


def _when(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"<time datetime='{utc:%Y-%m-%dT%H:%M:%SZ}'>{utc:%d %b %H:%M}</time>"


def _said(text: str) -> str:
    """Make text of the tenant harmless inside an element."""
    return f"<bdi>{_text(text)}</bdi>"


def _text(text: str) -> str:
    """Make text of the tenant harmless inside an attribute or an SVG title, where no element may stand."""
    return html.escape(_CONTROL.sub(" ", text), quote=True)


_FRAME: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --ink:#1b2430; --dim:#5b6878; --paper:#f5f6f8; --card:#fff; --line:#dde2e8;
  --contain:#c62f36; --ask:#b26a00; --watch:#3b6fb5; --shade:rgba(198,47,54,.09);
  --h1:#e3ecf8; --h2:#bcd3f0; --h3:#84aee2; --h4:#3f77c4; --h4ink:#fff; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e9f0; --dim:#97a4b5; --paper:#11161d; --card:#1a212b; --line:#2c3643;
  --contain:#ff6b70; --ask:#f0ad4e; --watch:#79a9ea; --shade:rgba(255,107,112,.13);
  --h1:#1f2e45; --h2:#28426a; --h3:#315a96; --h4:#4d86d8; --h4ink:#0b1017; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 80px; }
.eyebrow { margin: 0; color: var(--dim); font-size: 13px; letter-spacing: .04em; }
h1 { font-size: 28px; line-height: 1.2; margin: 4px 0 20px; font-weight: 650; }
h1 small { color: var(--dim); font-size: 15px; font-weight: 400; }
h2 { font-size: 19px; margin: 0 0 4px; font-weight: 650; }
h3 { font-size: 16px; margin: 0; overflow-wrap: anywhere; }
section { margin-top: 44px; }
.dim, .none { color: var(--dim); margin: 0 0 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 30px; line-height: 1.15; font-variant-numeric: tabular-nums; font-weight: 650; }
.tile span { color: var(--dim); font-size: 13px; }
.tile.contain b { color: var(--contain); } .tile.ask b { color: var(--ask); } .tile.watch b { color: var(--watch); }
.notes { margin-top: 16px; } .notes ul { margin: 0; padding-left: 18px; color: var(--dim); font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 14px; margin-top: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--contain); border-radius: 10px; padding: 14px 16px; }
.card p { margin: 6px 0; } .card .rule { font-weight: 600; } .card .dim { margin-bottom: 0; font-size: 14px; }
.id { font: 12px/1.4 ui-monospace, "Cascadia Mono", Menlo, monospace; color: var(--dim); }
.pill { display: inline-block; border-radius: 99px; padding: 0 9px; font-size: 12px; line-height: 20px; border: 1px solid; margin-left: 6px; white-space: nowrap; }
.card .pill, td .pill:first-child { margin-left: 0; }
.pill.contain { color: var(--contain); } .pill.ask { color: var(--ask); } .pill.watch { color: var(--watch); }
.reasons { margin: 4px 0; padding-left: 18px; overflow-wrap: anywhere; } .reasons li { margin: 2px 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--dim); font-size: 13px; margin: 8px 0 12px; }
.legend svg { vertical-align: -2px; } i.shade { display: inline-block; width: 22px; height: 12px; background: var(--shade); border-left: 2px solid var(--contain); vertical-align: -1px; }
.timeline { margin: 0 0 14px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px 6px; }
figcaption { margin-bottom: 4px; overflow-wrap: anywhere; }
svg.line { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
.tick { stroke: var(--line); stroke-width: 1; } line.lane { stroke: var(--line); stroke-width: 1; stroke-dasharray: 2 4; }
text.lane { fill: var(--ink); } text.time { fill: var(--dim); font-size: 11px; }
rect.shade { fill: var(--shade); } .cut { stroke: var(--contain); stroke-width: 2; }
.mark { stroke: var(--card); stroke-width: 1.5; } .mark.contain { fill: var(--contain); } .mark.ask { fill: var(--ask); } .mark.watch { fill: var(--watch); }
.lasts { stroke-width: 4; opacity: .35; } .lasts.contain { stroke: var(--contain); } .lasts.ask { stroke: var(--ask); } .lasts.watch { stroke: var(--watch); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-top: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; } thead th { color: var(--dim); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; } tbody th span { font-weight: 400; color: var(--dim); }
.heat td, .heat thead th:not(:first-child) { text-align: center; min-width: 52px; } .heat td { border-left: 1px solid var(--line); }
.heat .h0 { color: var(--dim); opacity: .6; } .h1 { background: var(--h1); } .h2 { background: var(--h2); } .h3 { background: var(--h3); } .h4 { background: var(--h4); color: var(--h4ink); }
.heat .sum, tfoot th { font-weight: 600; } tfoot > tr > * { border-top: 1px solid var(--line); border-bottom: 0; } .silent th, .silent .sum { color: var(--dim); font-weight: 400; }
details { margin-top: 8px; } summary { cursor: pointer; padding: 6px 2px; } summary .dim { margin-left: 8px; }
time { white-space: nowrap; }
@media print { details { break-inside: avoid; } .card, .timeline { break-inside: avoid; } }
</style>
</head>
<body><main>{body}</main></body>
</html>
"""
