"""
Microsoft's own KQL parser over our schemas: the gate that knows what Log Analytics would say.

The npm package ``@kusto/language-service-next`` is Kusto.Language compiled to JavaScript. It runs in V8 from the
``mini-racer`` wheel, so that no Node is needed. The DuckDB engine folds the case of names and finds type errors only
when it runs; this parser finds both in the text.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workbench import schemas

NODE_MODULES_ENV: Final = "AGENTDESK_NODE_MODULES"
PACKAGE: Final = "@kusto/language-service-next"
PINNED: Final = "12.4.1"
_SCRIPTS = ("bridge.min.js", "Kusto.Language.Bridge.min.js")
_REPOSITORY = Path(__file__).resolve().parents[1]

# Functions of a Sentinel workspace that Kusto itself does not know.
_WORKSPACE_FUNCTIONS: Final = (
    (
        "_GetWatchlist",
        "(watchlistAlias:string)",
        "{ datatable(_DTItemId:string, LastUpdatedTimeUTC:datetime, SearchKey:string)[] }",
    ),
)

# The bridge looks for a host: it must find neither a browser nor Node, see facts of the package's own loader.
_HOST = "var global=globalThis,self=globalThis,process=undefined,console={log(){},warn(){},error(){}};"
_PROGRAM = """
var L = Kusto.Language, S = L.Symbols, known = {}, ours = null;
// A symbol reads its columns when first used, most of what a check costs: one for each table, however many workspaces.
function table(name, columns) {
  var cols = '(' + columns.map(function (c) { return "['" + c[0] + "']:" + c[1]; }).join(', ') + ')', key = name + cols;
  return known[key] || (known[key] = new S.TableSymbol.$ctor7(name, cols, null));
}
function workspace(tables, fns) {
  var m = Object.entries(tables).map(function (e) { return table(e[0], e[1]); });
  fns.forEach(function (f) { m.push(new S.FunctionSymbol.$ctor16(f[0], f[1], f[2], null)); });
  var db = new S.DatabaseSymbol.ctor('workspace', m);
  return L.GlobalState.Default.WithCluster(new S.ClusterSymbol.ctor('cluster', [db])).WithDatabase(db);
}
function check(kql, where) {
  var code = L.KustoCode.ParseAndAnalyze(kql, where), ds = code.GetDiagnostics(), out = [], cols = [], i;
  for (i = 0; i < ds.Count; i++) {
    var d = ds.getItem(i);
    out.push({ code: d.Code, severity: d.Severity, start: d.Start, message: d.Message });
  }
  var rt = code.ResultType;
  if (rt && rt.Columns) {
    for (i = 0; i < rt.Columns.Count; i++) { cols.push([rt.Columns.getItem(i).Name, rt.Columns.getItem(i).Type.Name]); }
  }
  return JSON.stringify({ diagnostics: out, columns: cols });
}
"""


class ParserMissingError(Exception):
    """The npm package or mini-racer is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One objection: ``code`` as KS142, ``line`` and ``column`` from 1."""

    code: str
    severity: str
    line: int
    column: int
    message: str

    @property
    def is_error(self) -> bool:
        """Whether the query would be refused."""
        return self.severity == "Error"

    def __str__(self) -> str:
        return f"{self.line}:{self.column} {self.code} {self.message}"


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the parser says: objections, and the (name, KQL type) of each column of the answer."""

    diagnostics: tuple[Diagnostic, ...]
    columns: tuple[tuple[str, str], ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The objections for which the query would be refused."""
        return tuple(item for item in self.diagnostics if item.is_error)


def find_package(environment: Mapping[str, str] = os.environ) -> Path:
    """
    Find the folder of the npm package: in ``AGENTDESK_NODE_MODULES``, else in the repository's ``node_modules``.

    Raises: ParserMissingError when it is in neither, or is not the pinned version.
    """
    named = environment.get(NODE_MODULES_ENV)
    roots = [Path(named)] if named else [_REPOSITORY / "node_modules"]
    for root in roots:
        folder = root / PACKAGE
        if not all((folder / script).is_file() for script in _SCRIPTS):
            continue
        version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
        if version != PINNED:
            raise ParserMissingError(f"{folder} is version {version}; {PINNED} is pinned: npm install")
        return folder
    places = ", ".join(str(root) for root in roots)
    raise ParserMissingError(
        f"{PACKAGE} {PINNED} is not in {places}: run npm install, or name a node_modules folder in {NODE_MODULES_ENV}"
    )


class KqlParser:
    """
    Kusto.Language in a JavaScript engine, loaded once (~3 s, 250 MB), then ~90 ms a query.

    Not safe to use from several threads at once. Raises: ParserMissingError.
    """

    def __init__(
        self,
        package: Path | None = None,
        tables: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        folder = package or find_package()
        try:
            from py_mini_racer import MiniRacer  # noqa: PLC0415  # 25 MB of V8, only for those who check
        except ImportError as error:
            raise ParserMissingError(
                "mini-racer is not installed: pip install -r requirements-dev.txt"
            ) from error
        self._context: Any = MiniRacer()
        self._context.eval(_HOST)
        for script in _SCRIPTS:
            self._context.eval((folder / script).read_text(encoding="utf-8"))
        self._context.eval(_PROGRAM)
        ours = _workspace(tables if tables is not None else schemas.tables())
        self._context.eval(f"ours = {ours}; null")

    def check(self, kql: str, tables: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> Analysis:
        """Parse and bind one query; ``tables`` are those of another workspace, for this query only."""
        where = "ours" if tables is None else _workspace(tables)
        answer = json.loads(self._context.eval(f"check({json.dumps(kql)}, {where})"))
        return Analysis(
            tuple(_diagnostic(item, kql) for item in answer["diagnostics"]),
            tuple((str(name), str(kind)) for name, kind in answer["columns"]),
        )

    def close(self) -> None:
        """Free the JavaScript engine."""
        self._context.close()


def _workspace(tables: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    return f"workspace({json.dumps(tables)}, {json.dumps(_WORKSPACE_FUNCTIONS)})"


def _diagnostic(item: Mapping[str, Any], kql: str) -> Diagnostic:
    before = kql[: int(item["start"])]
    return Diagnostic(
        code=str(item["code"]),
        severity=str(item["severity"]),
        line=before.count("\n") + 1,
        column=len(before) - before.rfind("\n"),
        message=str(item["message"]),
    )
