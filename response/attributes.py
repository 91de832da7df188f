"""
Filters on custom security attributes, as Conditional Access writes them. Pure.

The grammar is what is documented and published of it, and no more: comparisons
``CustomSecurityAttribute.<Set>_<Attribute> -eq "value"`` with the operators of filters, joined with ``-and``, ``-or``,
``-not`` and parentheses. Whatever else a rule says, the answer is None: not known. Sources: Entra "Conditional Access:
Filter for applications" (text attributes only), Graph "conditionalAccessFilter" and "conditionalAccessClientApplications"
(dynamic-servicePrincipal-syntax), precedence from "Rules for dynamic membership groups" (-not, -and, -or).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

Attributes: TypeAlias = Mapping[str, str | frozenset[str]]
"""A principal's custom security attributes by ``Set_Attribute``: a text, or a set where several may be assigned."""

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<mark>[()\[\],])|(?P<operator>-[A-Za-z]+)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
    r"""|(?P<name>[Cc]ustom[Ss]ecurity[Aa]ttribute\.[\w.]+))"""
)
_LONGEST_RULE: Final = 4096
_DEEPEST: Final = 40
_NEGATED: Final = {
    "-ne": "-eq",
    "-notcontains": "-contains",
    "-notin": "-in",
    "-notstartswith": "-startswith",
    "-notendswith": "-endswith",
}
_COMPARISONS: Final = frozenset({*_NEGATED, *_NEGATED.values()})


def matches(rule: str, attributes: Attributes | None) -> bool | None:
    """Tell whether ``rule`` matches; None when it cannot be told: attributes not read, or a rule not understood."""
    if attributes is None or len(rule) > _LONGEST_RULE:
        return None
    try:
        return _Rule(rule, {name.casefold(): value for name, value in attributes.items()}).outcome()
    except _NotUnderstood:
        return None


class _NotUnderstood(Exception):
    """The rule says something that this grammar does not have."""


class _Rule:
    """A recursive descent over one rule, evaluating as it goes. True, False or None (not known)."""

    def __init__(self, rule: str, attributes: Attributes) -> None:
        self._tokens, self._at, self._attributes, self._depth = _tokens(rule), 0, attributes, 0

    def outcome(self) -> bool | None:
        found = self._any()
        if self._at != len(self._tokens):
            raise _NotUnderstood
        return found

    def _any(self) -> bool | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NotUnderstood
        found = self._all()
        while self._took("-or"):
            found = either(found, self._all())
        self._depth -= 1
        return found

    def _all(self) -> bool | None:
        found = self._one()
        while self._took("-and"):
            other = self._one()
            found = negated(either(negated(found), negated(other)))
        return found

    def _one(self) -> bool | None:
        if self._took("-not"):
            self._expect("(")
            return negated(self._bracketed())
        if self._took("("):
            return self._bracketed()
        kind, name = self._next()
        operator_kind, operator = self._next()
        if kind != "name" or operator_kind != "operator" or operator not in _COMPARISONS:
            raise _NotUnderstood
        _, _, attribute = name.partition(".")
        held = self._attributes.get(attribute.replace(".", "_").casefold())
        return _compared(held, operator, self._operand(operator))

    def _bracketed(self) -> bool | None:
        found = self._any()
        self._expect(")")
        return found

    def _operand(self, operator: str) -> tuple[str, ...]:
        if operator not in ("-in", "-notin"):
            return (self._text(),)
        self._expect("[")
        values = [self._text()]
        while self._took(","):
            values.append(self._text())
        self._expect("]")
        return tuple(values)

    def _text(self) -> str:
        kind, value = self._next()
        if (
            kind != "text"
        ):  # a bare true or 1: attributes of other types never match, and how is not documented
            raise _NotUnderstood
        return value

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise _NotUnderstood
        self._at += 1
        return self._tokens[self._at - 1]

    def _took(self, token: str) -> bool:
        kind, value = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind == "text" or value != token:
            return False
        self._at += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._took(token):
            raise _NotUnderstood


def _tokens(rule: str) -> list[tuple[str, str]]:
    found, at, end = [], 0, len(rule.rstrip())
    while at < end:
        token = _TOKEN.match(rule, at)
        if token is None:
            raise _NotUnderstood
        kind, value = token.lastgroup or "", token[token.lastgroup or 0]
        if kind in ("double", "single"):
            found.append(("text", value))
        else:
            found.append((kind, value.lower() if kind == "operator" else value))
        at = token.end()
    return found


def _compared(held: str | frozenset[str] | None, operator: str, operand: tuple[str, ...]) -> bool | None:
    positive = _NEGATED.get(operator, operator)
    if held is None:
        # Without a value nothing equals; whether it is then "not equal" is not documented.
        return False if positive == operator else None
    if not isinstance(held, str):
        # A collection is asked for a member; what the other operators do with one is not documented.
        found = _is_one_of(held, operand) if positive == "-contains" else None
    elif positive in ("-eq", "-in"):
        found = _is_one_of(frozenset({held}), operand)
    elif positive == "-contains":
        # Part of a text, or member of a collection of one? Only where both agree it is known.
        whole = _is_one_of(frozenset({held}), operand)
        found = None if whole is False and operand[0].casefold() in held.casefold() else whole
    elif positive == "-startswith":
        found = _begins(held, operand[0])
    else:
        found = _begins(held[::-1], operand[0][::-1])
    return found if positive == operator else negated(found)


def _is_one_of(held: frozenset[str], operand: tuple[str, ...]) -> bool | None:
    if not held.isdisjoint(operand):
        return True
    # Whether letter case counts is not documented: what differs in nothing else is not known.
    return None if {h.casefold() for h in held} & {o.casefold() for o in operand} else False


def _begins(held: str, start: str) -> bool | None:
    if held.startswith(start):
        return True
    return None if held.casefold().startswith(start.casefold()) else False


def either(one: bool | None, other: bool | None) -> bool | None:
    """Give "or" of three values."""
    if one is True or other is True:
        return True
    return None if one is None or other is None else False


def negated(value: bool | None) -> bool | None:
    """Give "not" of three values."""
    return None if value is None else not value
