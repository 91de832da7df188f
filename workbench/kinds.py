"""
Which type a column of a query has, decided when the query is translated instead of each time it is run.

``duckdb-kql`` knows the names of columns and not their types, so it leaves the question to DuckDB: each ``tolower(x)``
becomes a ``CASE typeof(x)`` with a branch for every type, 1,200 characters long, and each ``x has "y"`` a regular
expression over all letters of Unicode, twice. DuckDB parses and binds all of that on every run: measured, nine tenths of
the time of a rule over few rows. The schemas do know the types of a table's columns, and what is made of them follows.

The rule is one that cannot go wrong by overlooking something: a name has a type only if *every* place of the query that
gives a column this name gives it that type. A name that comes from anywhere else has none, and for it the translator's
own form is kept, as it is for the whole query when it has an operator that is not known here.
"""

# ruff: noqa: SLF001 - the translator has no place for extensions; the engine pins its version, which makes this safe.

from __future__ import annotations

import contextlib
import contextvars
import itertools
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from duckdb_kql import ir, translate
from duckdb_kql.translate import functions, naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Schema = Mapping[str, Sequence[tuple[str, str]]]

_UNKNOWN: Final = "unknown"
# Lengths and sums change DuckDB's integer type, and the text of a whole number is the same in each.
_WHOLE: Final = "whole"
_OF_KQL: Final[Mapping[str, str]] = {
    "string": "string",
    "dynamic": "dynamic",
    "datetime": "datetime",
    "bool": "bool",
    "long": _WHOLE,
    "int": _WHOLE,
    "real": "real",
}
_OF_FUNCTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "tostring",
            "tolower",
            "toupper",
            "strcat",
            "strcat_array",
            "substring",
            "trim",
            "trim_start",
            "trim_end",
        ),
        "string",
    ),
    **dict.fromkeys(("extract", "replace_regex", "replace_string"), "string"),
    **dict.fromkeys(("isempty", "isnotempty", "isnull", "isnotnull", "not"), "bool"),
    **dict.fromkeys(
        ("count", "countif", "dcount", "dcountif", "strlen", "array_length", "tolong", "toint"), _WHOLE
    ),
    **dict.fromkeys(("todatetime", "startofday", "now", "ago"), "datetime"),
}
# Functions that give the type of one of their arguments, and which arguments these are.
_OF_ARGUMENTS: Final[Mapping[str, slice]] = {
    **dict.fromkeys(("min", "max", "any", "take_any", "minif", "maxif", "take_anyif"), slice(0, 1)),
    **dict.fromkeys(("iff", "iif"), slice(1, None)),
    "coalesce": slice(0, None),
}
_COMPARISONS: Final = (
    frozenset({"==", "!=", "<>", "<", "<=", ">", ">=", "and", "or"}) | translate._STRING_OPERATORS
)
_SUMS: Final = frozenset({"+", "-", "*", "/", "%"})
# A form that stands for its operand three times must not repeat a long one.
_SHORT: Final = 120
_ASCII_TERM: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _.@/-]*[A-Za-z0-9])?")


class _NotUnderstoodError(Exception):
    """The query has a part of which it is not known here which columns it makes."""


class Reading:
    """What is known of the tables before a translation, and of the query after it."""

    def __init__(self, tables: Schema, *, wants_gates: bool = False) -> None:
        self.tables = tables
        self.wants_gates = wants_gates
        self.kinds: Mapping[str, str] | None = None  # None: no query was read yet
        # Whether the answer's columns are those that the query itself writes down, whatever else its tables have.
        self.names_its_columns = False
        # SQL of filters over single tables: where none gives a row, the answer has none. None: that cannot be told.
        self.needs: tuple[str, ...] | None = None
        # SQL of longer parts, the shortest first: where any one of them has no row, the answer has none.
        self.gates: tuple[str, ...] = ()


_reading: contextvars.ContextVar[Reading | None] = contextvars.ContextVar("reading", default=None)


@contextlib.contextmanager
def reading(tables: Schema, *, wants_gates: bool = False) -> Iterator[Reading]:
    """
    Let the translation in this context know the columns of these tables and their KQL types.

    Gates take half as long again to write, so they are written where they are wanted.
    """
    found = Reading(tables, wants_gates=wants_gates)
    token = _reading.set(found)
    try:
        yield found
    finally:
        _reading.reset(token)


def mentioned(kql: str, columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """
    Give those of a table's columns whose name stands anywhere in the query, in either case.

    Of two equal columns a join names the second with a number after it: ``Id1`` mentions ``Id``.
    """
    words = {word.lower() for word in re.findall(r"\w+", kql)}
    words |= {word.rstrip("0123456789") for word in words}
    return [(name, kind) for name, kind in columns if name.lower() in words]


class _Columns:
    """Every definition of every column name in a query."""

    def __init__(self, tables: Schema) -> None:
        self._tables = tables
        self._given: defaultdict[str, set[str]] = defaultdict(set)
        self._made: defaultdict[str, list[ir.Expr]] = defaultdict(list)
        self._joined = False
        self.has_wildcard = False

    def kinds(self) -> dict[str, str]:
        """Give the type of each name."""
        names = {*self._given, *self._made}
        if self._joined:
            for name in names:  # Id1 may be a join's second Id
                if (first := name.rstrip("0123456789")) != name and first in names:
                    self._given[name].add(_UNKNOWN)
        found = dict.fromkeys(names, "")
        for _ in range(len(names) + 1):
            before = dict(found)
            for name in names:
                kinds = self._given[name] | {_of(expression, before) for expression in self._made[name]}
                found[name] = _one(kinds)
            if found == before:
                break
        else:
            return {}
        return {name: kind or _UNKNOWN for name, kind in found.items()}

    def query(self, query: ir.Query) -> None:
        """Take in a query and all that is nested in it."""
        for _, value in query.lets:
            self._nested(value)
        self._source(query.source)
        for operator, following in itertools.zip_longest(query.operators, query.operators[1:]):
            self._operator(operator, following)

    def _source(self, source: ir.Source) -> None:
        match source:
            case ir.TableRef(name=name):
                # A name that is no table is a let's, whose columns are taken in where it is defined.
                self._columns(self._tables.get(name, ()))
            case ir.DataTable(columns=columns):
                self._columns(columns)
            case ir.PrintSource(expressions=expressions):
                self._named(expressions)
            case _:
                raise _NotUnderstoodError
        self._nested(source)

    def _columns(self, columns: Sequence[tuple[str, str]]) -> None:
        for column, kind in columns:
            self._given[column].add(_OF_KQL.get(kind, _UNKNOWN))

    def _operator(self, operator: ir.Operator, following: ir.Operator | None) -> None:
        match operator, following:
            case ir.Extend(), ir.MvExpand():
                # mv-expand x = list: a step that makes x, which only the next one reads, and that makes another x.
                lists = {target.column for target in following.targets if target.to_type}
                self._named([named for named in operator.expressions if named.name not in lists])
                return self._nested(operator)
        match operator:
            case ir.Project() | ir.Extend() | ir.Distinct():
                self._named(operator.expressions)
            case ir.Summarize():
                self._named(operator.aggregates)
                self._named(operator.by)
            case ir.MvExpand():
                for target in operator.targets:
                    kind = _OF_KQL[target.to_type] if target.to_type in ("string", "long") else _UNKNOWN
                    self._given[target.name or target.column].add(kind)
                if operator.item_index:
                    self._given[operator.item_index].add(_UNKNOWN)
            case ir.Join() | ir.Lookup():
                self._joined = True
            case ir.Union():
                if operator.with_source:
                    self._given[operator.with_source].add(_UNKNOWN)
            case ir.ProjectRename():
                for pair in operator.renames:  # whichever of the two is the new one
                    self._made[pair[0]].append(ir.ColumnRef(pair[1]))
                    self._made[pair[1]].append(ir.ColumnRef(pair[0]))
            case ir.Count():
                self._given[operator.name].add(_WHOLE)
            case ir.Where() | ir.Take() | ir.Sort() | ir.Top() | ir.ProjectAway():
                pass
            case _:
                raise _NotUnderstoodError
        return self._nested(operator)

    def _named(self, expressions: Sequence[ir.NamedExpr]) -> None:
        for named in expressions:
            expression = named.expr
            if isinstance(expression, ir.FunctionCall) and expression.name.lower() in ("arg_max", "arg_min"):
                # The first argument is the extreme; the others come along under their own names.
                expression, *others = expression.args
                if not all(isinstance(other, ir.ColumnRef) for other in others):
                    raise _NotUnderstoodError
            name = named.name or naming.expression_name(expression)
            if name is not None:  # else Column1, Column2: names that nothing here defines
                self._made[name].append(expression)

    def _nested(self, node: Any) -> None:
        """Take in the queries inside: of a join, a union, a ``let``, an ``in (...)``, a ``toscalar``."""
        match node:
            case ir.Query():
                self.query(node)
            case tuple() | list():
                for part in node:
                    self._nested(part)
            case ir.Wildcard():
                self.has_wildcard = True
            case ir.FunctionCall(name="pack_all"):
                self.has_wildcard = True
            case ir.Node():
                for part in vars(node).values():
                    self._nested(part)


def _one(kinds: set[str]) -> str:
    """Give the type that all agree on; nothing where none is known yet."""
    known = kinds - {""}
    return "" if not known else known.pop() if len(known) == 1 else _UNKNOWN


def _of(node: ir.Expr, kinds: Mapping[str, str]) -> str:
    """Give an expression's type, given those of the columns; nothing while it rests only on names without one yet."""
    match node:
        case ir.Literal() | ir.Parameter():
            return _OF_KQL.get(node.kind, _UNKNOWN)
        case ir.ColumnRef(name=name):
            return kinds.get(name, _UNKNOWN)
        case ir.LetRef(name=name, value=value):  # a column of that name wins
            return _one({_of(value, kinds), kinds.get(name, "")})
        case ir.PathAccess():
            return "dynamic"
        case ir.InList() | ir.Between() | ir.HasList():
            return "bool"
        case ir.BinaryOp(op=op) if op in _COMPARISONS:
            return "bool"
        case ir.BinaryOp(op=op) if op in _SUMS:
            found = _one({_of(node.left, kinds), _of(node.right, kinds)})
            return found if found in ("", _WHOLE) else _UNKNOWN
        case ir.FunctionCall():
            return _of_call(node.name.lower(), node.args, kinds)
        case _:
            return _UNKNOWN


def _of_call(name: str, args: Sequence[ir.Expr], kinds: Mapping[str, str]) -> str:
    if name in _OF_FUNCTIONS and not (name == "extract" and len(args) != 3):
        return _OF_FUNCTIONS[name]
    match name, args:
        case "case", [_, _, _, *_]:
            values = [*args[1:-1:2], args[-1]]
        case "column_ifexists", [ir.Literal(value=column), default]:
            return _one({kinds.get(str(column), ""), _of(default, kinds)})
        case (("bin" | "sum"), [value, *_]):
            found = _of(value, kinds)
            return found if found in ("", {"bin": "datetime", "sum": _WHOLE}[name]) else _UNKNOWN
        case _ if name in _OF_ARGUMENTS:
            values = list(args[_OF_ARGUMENTS[name]])
        case _:
            return _UNKNOWN
    return _one({_of(value, kinds) for value in values})


def _kind(node: ir.Expr) -> str:
    """Give an expression's type in the query that is being translated."""
    found = _reading.get()
    return _UNKNOWN if found is None or not found.kinds else _of(node, found.kinds) or _UNKNOWN


def _names_its_columns(query: ir.Query) -> bool:
    """Whether some step writes down all columns of the answer, and no later one brings columns of other tables."""
    for operator in reversed(query.operators):
        match operator:
            case ir.Project() | ir.Summarize() | ir.Count() | ir.Distinct():
                return True
            case (
                ir.Where()
                | ir.Take()
                | ir.Sort()
                | ir.Top()
                | ir.Extend()
                | ir.ProjectAway()
                | ir.ProjectRename()
            ):
                continue
            case _:
                return False
    return isinstance(query.source, (ir.PrintSource, ir.DataTable))


_Lets = dict[str, "list[ir.Query] | None"]
_KEEP_NOTHING = frozenset(
    {"inner", "innerunique", "leftouter", "leftanti", "anti", "leftantisemi", "leftsemi"}
)


# Joins of which either side without rows leaves none.
_NEED_BOTH: Final = frozenset({"inner", "innerunique", "leftsemi"})


def _needs(query: ir.Query, tables: Schema, lets: _Lets) -> list[ir.Query] | None:
    """
    Give parts of a query, each a table and the filters right behind it, of which one must have a row for an answer.

    An answer made of no rows has no rows, whatever is joined to it; a count without ``by`` has one, and then nothing
    can be told (None).
    """
    known: _Lets = dict(lets)
    for name, value in query.lets:
        known[name] = _needs(value, tables, known) if isinstance(value, ir.Query) else None
    needs, operators = _source_needs(query.source, tables, known), list(query.operators)
    filters = []
    while operators and isinstance(operators[0], ir.Where) and not _has_query(operators[0]):
        filters.append(operators.pop(0))
    if needs is not None and isinstance(query.source, ir.TableRef) and query.source.name not in known:
        needs = [ir.Query(query.source, [*filters, ir.Take(1)])]
    for operator in operators:
        match operator:
            case ir.Union():
                parts = [needs, *(_needs(branch, tables, known) for branch in operator.branches)]
                needs = None if None in parts else [need for part in parts for need in part or ()]
            case _ if not _keeps_nothing(operator):
                return None
        if needs is None:
            return None
    return needs


def _keeps_nothing(operator: ir.Operator) -> bool:
    """Whether an operator makes no rows of none."""
    match operator:
        case ir.Summarize():
            return bool(operator.by)
        case ir.Join() | ir.Lookup():
            return operator.kind in _KEEP_NOTHING
        case ir.Where() | ir.Take() | ir.Sort() | ir.Top() | ir.Extend() | ir.Project() | ir.Distinct():
            return True
        case ir.ProjectAway() | ir.ProjectRename() | ir.MvExpand():
            return True
        case _:
            return False


def _source_needs(source: ir.Source, tables: Schema, lets: _Lets) -> list[ir.Query] | None:
    match source:
        case ir.TableRef(name=name) if name in lets:
            return lets[name]
        case ir.TableRef(name=name) if name in tables:
            return []
        case ir.DataTable(values=()):
            return []
        case _:
            return None


def _gates(query: ir.Query) -> Iterator[ir.Query]:
    """
    Give queries for a first row of what must have one, each with no more lets than it reads.

    That is each such let, and the query's own beginning up to its last filter.
    """
    for name in _musts(query, {}):
        yield ir.Query(ir.TableRef(name), [ir.Take(1)], _behind({name}, query.lets), query.parameters)
    filters = [n for n, operator in enumerate(query.operators) if isinstance(operator, ir.Where)]
    if filters and all(_keeps_nothing(operator) for operator in query.operators[filters[-1] + 1 :]):
        begun = ir.Query(query.source, [*query.operators[: filters[-1] + 1], ir.Take(1)])
        begun.lets, begun.parameters = _behind(_names(begun), query.lets), query.parameters
        yield begun


def _musts(query: ir.Query, outer: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """
    Give the names of the tabular lets without a row of which a query has none.

    Those are the lets its rows come from, and those without whose rows an inner join, a semi-join or ``in`` leaves none.
    """
    if outer and query.lets:
        return frozenset()  # lets of a part may hide others of the same name
    known = dict(outer)
    for name, value in query.lets:
        if isinstance(value, ir.Query):
            known[name] = _musts(value, known) | {name}
    match query.source:
        case ir.TableRef(name=name):
            found = known.get(name, frozenset())
        case _:
            found = frozenset()
    empty = isinstance(query.source, ir.DataTable) and not query.source.values
    for operator in query.operators:
        match operator:
            case ir.Union():
                parts = [] if empty else [found]
                parts += [_musts(branch, known) for branch in operator.branches if not _is_empty(branch)]
                found, empty = frozenset.intersection(*parts) if parts else frozenset(), not parts
            case ir.Where():
                found |= _sought(operator.predicate, known)
            case ir.Join() | ir.Lookup() if operator.kind in _NEED_BOTH:
                found |= _musts(operator.right, known)
            case _ if _keeps_nothing(operator):
                pass
            case _:
                return frozenset()
    return found


def _sought(predicate: ir.Expr, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Give the lets whose rows a filter asks for: ``x in (let)``, alone or as a part of ``and``."""
    match predicate:
        case ir.BinaryOp(op="and", left=left, right=right):
            return _sought(left, known) | _sought(right, known)
        case ir.InList(negated=False, subquery=ir.Query() as asked):
            return _musts(asked, known)
        case _:
            return frozenset()


def _is_empty(query: ir.Query) -> bool:
    """Whether a query is a table written down without rows."""
    return isinstance(query.source, ir.DataTable) and not query.source.values and not query.operators


def _behind(names: set[str], lets: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Give these lets and those that they are made of, in their order."""
    wanted = set(names)
    kept: list[tuple[str, Any]] = []
    for let, value in reversed(lets):
        if let in wanted:
            wanted |= _names(value)
            kept.append((let, value))
    return kept[::-1]


def _names(node: Any) -> set[str]:
    """Give every name in a part of a query that may be that of a let."""
    match node:
        case tuple() | list():
            return {name for part in node for name in _names(part)}
        case ir.Node():
            own = {node.name} if isinstance(node, ir.TableRef | ir.LetRef | ir.ColumnRef) else set()
            return own | {name for part in vars(node).values() for name in _names(part)}
        case _:
            return set()


def _has_query(node: Any) -> bool:
    """Whether an expression asks another query, or reads a row that is not its own."""
    match node:
        case ir.Query():
            return True
        case tuple() | list():
            return any(map(_has_query, node))
        case ir.Node():
            return any(map(_has_query, vars(node).values()))
        case _:
            return False


_emit = translate.to_sql
_tostring = translate.render_kql_tostring
_may_be_dynamic = translate._may_be_dynamic
_is_dynamic_expr = translate._is_dynamic_expr
_term_match = functions.term_match_sql
_number = {name: translate._SPECIAL_FORMS[name] for name in ("tolong", "toint")}


def _typed_to_sql(query: ir.Query, schema: Any = None) -> translate.TranslationResult:
    found = _reading.get()
    if found is not None and found.kinds is None:  # else a part of a query that was read already
        columns = _Columns(found.tables)
        found.kinds = {}
        with contextlib.suppress(_NotUnderstoodError):
            columns.query(query)
            found.kinds = columns.kinds()
            found.names_its_columns = not columns.has_wildcard and _names_its_columns(query)
            needs = _needs(query, found.tables, {})
            if needs is not None:
                found.needs = tuple(str(_emit(need, schema)) for need in needs)
                if found.wants_gates:
                    found.gates = tuple(sorted({str(_emit(gate, schema)) for gate in _gates(query)}, key=len))
    return _emit(query, schema)


def _typed_tostring(node: ir.Expr) -> str:
    rendered = translate.render_expr
    match _kind(node):
        case "string" if isinstance(node, ir.Literal):
            return rendered(node)
        case "string":
            return f"coalesce({rendered(node)}, '')"
        case kind if kind == _WHOLE:
            return f"coalesce(CAST({rendered(node)} AS VARCHAR), '')"
        case "bool":
            truth = f"CAST({rendered(node)} AS VARCHAR)"
            return f"coalesce(CASE {truth} WHEN 'true' THEN 'True' WHEN 'false' THEN 'False' END, '')"
        case "dynamic":
            return translate._unwrap_json_scalar(rendered(node))
        case "datetime":
            return f"coalesce({translate._kql_datetime_text(rendered(node))}, '')"
        case _:
            return _tostring(node)


def _typed_number(call: ir.FunctionCall) -> str | None:
    """Give ``tolong`` and ``toint`` of a column of one type: the branch for that type."""
    name = call.name.lower()
    if len(call.args) != 1 or isinstance(call.args[0], ir.Literal):
        return _number[name](call)
    value = translate.render_expr(call.args[0])
    bits, sql_type = (64, "BIGINT") if name == "tolong" else (32, "INTEGER")
    match _kind(call.args[0]):
        case kind if kind == _WHOLE and name == "tolong":
            return f"TRY_CAST({value} AS BIGINT)"
        case "string":
            body = translate._integer_from_text("_v", sql_type)
        case "real":
            body = translate._integer_from_real("_v", bits)
        case _:
            return _number[name](call)
    return f"list_transform([{value}], lambda _v: {body})[1]"


def _typed_may_be_dynamic(node: ir.Expr) -> bool:
    return _may_be_dynamic(node) and _kind(node) == _UNKNOWN


def _typed_is_dynamic(node: ir.Expr) -> bool:
    return _is_dynamic_expr(node) or (isinstance(node, ir.ColumnRef) and _kind(node) == "dynamic")


def _term_match_of_ascii(haystack: str, needle: str, **options: Any) -> str:
    r"""
    Test for a term without compiling all letters of Unicode, which takes 5 ms each time the statement is bound.

    A term that stands between ASCII characters is one for either engine. Only where the two cheap patterns disagree, the
    term touches a character beyond ASCII, and the full pattern decides; it is made to depend on the row (``left(x, 0)``),
    so that it is compiled for such a row and for no other.
    """
    text = options.get("needle_text")
    whole = options.get("lead", True) and options.get("trail", True)
    full = _term_match(haystack, needle, **options)
    if (
        not isinstance(text, str)
        or _ASCII_TERM.fullmatch(text) is None
        or not whole
        or len(haystack) > _SHORT
    ):
        return full
    flag = "" if options.get("case_sensitive") else "(?i)"
    term = re.sub(r"([^A-Za-z0-9_])", r"\\\1", text)
    loose = f"regexp_matches({haystack}, '{flag}(?:^|[^A-Za-z0-9]){term}(?:$|[^A-Za-z0-9])')"
    ends = r"[^A-Za-z0-9\x{80}-\x{10ffff}]"
    strict = f"regexp_matches({haystack}, '{flag}(?:^|{ends}){term}(?:$|{ends})')"
    deciding = full.removesuffix(")") + f" || left({haystack}, 0))"
    return f"(CASE WHEN {strict} THEN TRUE WHEN NOT {loose} THEN FALSE ELSE {deciding} END)"


def _install() -> None:
    replaced = {
        "to_sql": _typed_to_sql,
        "render_kql_tostring": _typed_tostring,
        "_may_be_dynamic": _typed_may_be_dynamic,
        "_is_dynamic_expr": _typed_is_dynamic,
        "term_match_sql": _term_match_of_ascii,
    }
    for name, function in replaced.items():
        setattr(translate, name, function)
    for name in _number:
        translate._SPECIAL_FORMS[name] = _typed_number


_install()
