"""
The OData query options that Graph's lists take: the part that is used here.

``$filter`` with eq, ne, in, startsWith, endsWith, and, or, not and parentheses,
``$select``, ``$top``, ``$count``, one ``$orderby`` and paging. An option or
operator outside it is refused loudly rather than ignored: a list that silently
was not filtered would be worse than an error.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

Json = dict[str, Any]
Predicate = Callable[[Mapping[str, Any]], bool]

_OPTIONS: Final = frozenset({"$filter", "$select", "$top", "$count", "$orderby", "$skiptoken", "$format"})


class QueryError(Exception):
    """
    A query option is malformed or not supported; ``code`` is Graph's error code.

    Codes: ``BadRequest`` and ``Request_UnsupportedQuery`` as the directory
    services give them (from memory; facts/entra.md has no list of codes).
    """

    def __init__(self, message: str, *, code: str = "BadRequest") -> None:
        super().__init__(message)
        self.code = code


_TOKEN: Final = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<punct>[(),])|(?P<word>[A-Za-z0-9_@.:/+-]+))"
)
_LITERALS: Final[Mapping[str, object]] = {"true": True, "false": False, "null": None}
_FUNCTIONS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
}
_ADVANCED: Final = frozenset({"ne", "not", "endswith"})


class _Parser:
    """A recursive descent over one ``$filter``; ``words`` collects the operators used."""

    def __init__(self, text: str, properties: frozenset[str]) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._properties = properties
        self.words: set[str] = set()

    def parse(self) -> Predicate:
        found = self._or()
        if self._peek() is not None:
            raise QueryError(f"Invalid filter clause: unexpected '{self._peek()}'.")
        return found

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise QueryError("Invalid filter clause: it ends too early.")
        self._at += 1
        return token

    def _expect(self, wanted: str) -> None:
        token = self._next()
        if token != wanted:
            raise QueryError(f"Invalid filter clause: expected '{wanted}', found '{token}'.")

    def _takes(self, word: str) -> bool:
        if (self._peek() or "").lower() == word:
            self._at += 1
            return True
        return False

    def _or(self) -> Predicate:
        either = [self._and()]
        while self._takes("or"):
            either.append(self._and())
        return either[0] if len(either) == 1 else lambda row: any(one(row) for one in either)

    def _and(self) -> Predicate:
        every = [self._not()]
        while self._takes("and"):
            every.append(self._not())
        return every[0] if len(every) == 1 else lambda row: all(one(row) for one in every)

    def _not(self) -> Predicate:
        if self._takes("not"):
            self.words.add("not")
            inner = self._not()
            return lambda row: not inner(row)
        if self._takes("("):
            inner = self._or()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Predicate:
        word = self._next()
        if word.lower() in _FUNCTIONS and self._peek() == "(":
            return self._function(word.lower())
        name = self._property(word)
        operator = self._next().lower()
        self.words.add(operator)
        match operator:
            case "eq":
                wanted = self._literal()
                return lambda row: _same(row.get(name), wanted)
            case "ne":
                wanted = self._literal()
                return lambda row: not _same(row.get(name), wanted)
            case "in":
                several = self._literals()
                return lambda row: any(_same(row.get(name), one) for one in several)
            case _:
                raise QueryError(
                    f"Operator '{operator}' is not supported here.", code="Request_UnsupportedQuery"
                )

    def _function(self, word: str) -> Predicate:
        self.words.add(word)
        test = _FUNCTIONS[word]
        self._expect("(")
        name = self._property(self._next())
        self._expect(",")
        wanted = str(self._literal()).lower()
        self._expect(")")
        return lambda row: test(str(row.get(name) or "").lower(), wanted)

    def _property(self, name: str) -> str:
        if name not in self._properties:
            raise QueryError(
                f"Property '{name}' is not supported in a filter here.", code="Request_UnsupportedQuery"
            )
        return name

    def _literals(self) -> list[object]:
        self._expect("(")
        several = [self._literal()]
        while self._takes(","):
            several.append(self._literal())
        self._expect(")")
        return several

    def _literal(self) -> object:
        text = self._next()
        if text.startswith("'"):
            return text[1:-1].replace("''", "'")
        if text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        if text in {"(", ")", ","}:
            raise QueryError(f"Invalid filter clause: unexpected '{text}'.")
        # A GUID, number or time without quotes.
        return text


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise QueryError(f"Invalid filter clause: syntax error at position {at}.")
        found.append(match.group().strip())
        at = match.end()
    return found


def _same(value: object, wanted: object) -> bool:
    # Entra compares directory strings without regard to case.
    if isinstance(value, str) and isinstance(wanted, str):
        return value.lower() == wanted.lower()
    return value == wanted


@dataclass(frozen=True, slots=True)
class Query:
    """The query options of one list request, checked."""

    keep: Predicate
    select: tuple[str, ...]
    top: int | None
    count: bool
    order_by: tuple[str, bool] | None
    skip: int

    @classmethod
    def parse(
        cls,
        options: Mapping[str, str],
        *,
        filterable: frozenset[str],
        max_top: int,
        advanced: bool | None = None,
    ) -> Self:
        """
        Read the options of a list.

        ``advanced`` is whether the request asked for eventual consistency, which
        directory lists want for $count, ne, not and endsWith; ``None`` for lists
        that do not care. Source: graph docs "Advanced query capabilities on
        Microsoft Entra objects" (from memory).

        Raises: QueryError.
        """
        unknown = sorted(name for name in options if name.startswith("$") and name not in _OPTIONS)
        if unknown:
            raise QueryError(f"{unknown[0]} is not simulated.", code="Request_UnsupportedQuery")
        keep: Predicate = lambda _: True  # noqa: E731 (a named function would say no more)
        words: set[str] = set()
        if "$filter" in options:
            parser = _Parser(options["$filter"], filterable)
            keep, words = parser.parse(), parser.words
        count = options.get("$count", "false").lower() == "true"
        if advanced is False and (count or words & _ADVANCED):
            raise QueryError(
                "This query needs the header 'ConsistencyLevel: eventual' and $count=true.",
                code="Request_UnsupportedQuery",
            )
        return cls(
            keep=keep,
            select=tuple(name.strip() for name in options.get("$select", "").split(",") if name.strip()),
            top=_top(options.get("$top"), max_top),
            count=count,
            order_by=_order_by(options.get("$orderby")),
            skip=_skip(options.get("$skiptoken")),
        )

    def page(self, rows: Sequence[Json], page_size: int) -> tuple[list[Json], int, str | None]:
        """
        Filter, order and cut rows.

        Returns: the rows of this page, how many match in all, and the skip token
        of the next page if there is one.
        """
        kept = [row for row in rows if self.keep(row)]
        if self.order_by is not None:
            name, descending = self.order_by
            kept.sort(key=lambda row: str(row.get(name) or ""), reverse=descending)
        size = self.top or page_size
        end = self.skip + size
        token = urlsafe_b64encode(str(end).encode()).decode() if end < len(kept) else None
        return [self.narrow(row) for row in kept[self.skip : end]], len(kept), token

    def narrow(self, row: Json) -> Json:
        """Keep the selected properties; control information (``@odata.…``) always stays."""
        return narrow(row, self.select)


def narrow(row: Json, select: Sequence[str]) -> Json:
    """Keep the selected properties of an object, everything if none is selected."""
    if not select:
        return row
    return {name: value for name, value in row.items() if name in select or name.startswith("@odata.")}


def _top(text: str | None, max_top: int) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= max_top:
        raise QueryError(f"Invalid page size specified: '{text}'. Must be between 1 and {max_top} inclusive.")
    return int(text)


def _order_by(text: str | None) -> tuple[str, bool] | None:
    if text is None:
        return None
    name, _, direction = text.strip().partition(" ")
    if not name or direction.strip().lower() not in {"", "asc", "desc"} or "," in text:
        raise QueryError("Only one property with asc or desc is supported in $orderby.")
    return name, direction.strip().lower() == "desc"


def _skip(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return max(0, int(urlsafe_b64decode(text.encode())))
    except ValueError as error:
        raise QueryError("Invalid $skiptoken.", code="Directory_ExpiredPageToken") from error
