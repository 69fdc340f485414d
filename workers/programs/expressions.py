"""Symbolic sizes as text, such as `Mul(Integer(2), Symbol('s77', positive=True, integer=True))`.

Read by a grammar of our own, never by sympy, whose parser is Python's `eval`. Nothing is computed:
sizes come from `sym_size` at run time, and the text only tells which dimensions are dynamic.

    expression = NUMBER | NAME "(" [argument {"," argument}] ")"
    argument   = expression | STRING | NAME "=" (NUMBER | "True" | "False" | "None")
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from workers.programs.errors import TORCH, GraphInvalid
from workers.programs.names import names

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d{1,40}(?:\.\d{1,40})?(?:e[+-]?\d{1,3})?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]{0,60})"
    r"|'(?P<string>[A-Za-z0-9_.+-]{1,100})'"
    r"|(?P<mark>[(),=]))"
)
_FUNCTIONS = names(
    """
    Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv
    ModularIndexing Where IntTrueDiv FloatTrueDiv ToFloat TruncToInt TruncToFloat CeilToInt
    FloorToInt RoundToInt RoundDecimal PowByNatural FloatPow Identity LShift RShift Eq Ne
    Equality Unequality Lt Le Gt Ge StrictLessThan LessThan StrictGreaterThan GreaterThan And Or
    Not Abs floor ceiling OpaqueUnaryFn_sqrt
    """
)
_LITERALS = frozenset({"True", "False", "None"})
_CONSTANTS = frozenset({"true", "false", "Half", "oo", "int_oo"})
_DEPTH = 60


@dataclass(frozen=True)
class Symbolic:
    """What an expression is about: its symbols, and whether it is nothing but one of them."""

    symbols: frozenset[str]
    bare: bool


def parse_expression(text: str) -> Symbolic:
    """The symbols of `text`; anything outside the grammar is refused."""
    parser = _Parser(_tokens(text), text)
    symbols = parser.expression(0)
    if parser.tokens:
        parser.refuse()
    return Symbolic(symbols, bare=text.strip().startswith("Symbol("))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            _refuse(text)
        kind = match.lastgroup or ""
        tokens.append((kind, match.group(kind)))
        position = match.end()
    tokens.reverse()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]], text: str) -> None:
        self.tokens = tokens
        self.text = text

    def expression(self, depth: int) -> frozenset[str]:
        kind, value = self._take()
        if depth > _DEPTH or kind not in {"number", "name"}:
            self.refuse()
        if kind == "number" or value in _CONSTANTS:
            return frozenset()
        if value not in _FUNCTIONS:
            self.refuse()
        self._expect("(")
        if value == "Symbol":
            return self._symbol(depth)
        return self._arguments(depth)

    def _symbol(self, depth: int) -> frozenset[str]:
        kind, name = self._take()
        if kind != "string":
            self.refuse()
        if self._next_is(","):
            self._take()
            self._arguments(depth)
        else:
            self._expect(")")
        return frozenset({name})

    def _arguments(self, depth: int) -> frozenset[str]:
        symbols: frozenset[str] = frozenset()
        while not self._next_is(")"):
            symbols |= self._argument(depth)
            if not self._next_is(")"):
                self._expect(",")
        self._expect(")")
        return symbols

    def _argument(self, depth: int) -> frozenset[str]:
        if self.tokens and self.tokens[-1][0] == "string":
            self._take()
            return frozenset()
        if len(self.tokens) > 1 and self.tokens[-2] == ("mark", "="):
            self._keyword()
            return frozenset()
        return self.expression(depth + 1)

    def _keyword(self) -> None:
        name, _ = self._take()
        self._expect("=")
        kind, value = self._take()
        if name != "name" or not (kind == "number" or value in _LITERALS):
            self.refuse()

    def _next_is(self, mark: str) -> bool:
        return bool(self.tokens) and self.tokens[-1] == ("mark", mark)

    def _expect(self, mark: str) -> None:
        if self._take() != ("mark", mark):
            self.refuse()

    def _take(self) -> tuple[str, str]:
        if not self.tokens:
            self.refuse()
        return self.tokens.pop()

    def refuse(self) -> NoReturn:
        _refuse(self.text)


def _refuse(text: str) -> NoReturn:
    raise GraphInvalid(f"{text[:120]!r} is not a symbolic size; export again with {TORCH}")
