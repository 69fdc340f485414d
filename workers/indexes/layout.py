"""How a dataset's rows are made of texts, as its rows show: so a text becomes a row like them, or is refused.

A tokenizer's file says little of that: datasets pad, cut, shift labels and put tokens around in ways of their own. A
sample of the rows is held against each way that there is here, and what all of them fit is how the rows are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Side = Literal["left", "right"]


class Unclear(Exception):
    """Rows that don't show how they are made of texts; the message says what is unclear, of a text by its place."""

    def __init__(self, message: str, text: int | None = None) -> None:
        super().__init__(message)
        self.text = text


@dataclass(frozen=True)
class Tokenizing:
    """What a tokenizer's file says of rows; see `tokenized`."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    pad: int | None = None
    side: Side | None = None
    longest: int | None = None
    special: tuple[int, ...] = ()

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Tokenizing:
        """As the isolated child tells it."""
        lists = {name: tuple(map(int, report[name])) for name in ("before", "after", "special")}
        side: Any = report["side"] if report["side"] in ("left", "right") else None
        return cls(pad=report["pad"], side=side, longest=report["longest"], **lists)


@dataclass(frozen=True)
class Filled:
    """A column whose values follow from the tokens.

    `same`: the token itself; `next`: the one that follows; `mask`: whether there is one; `zeros`. `padding` is its
    value beside padding. `end`: that of a text's last token among `next`; None: its last token is a label alone.
    """

    kind: Literal["same", "next", "mask", "zeros"]
    padding: int = 0
    end: int | None = 0

    def of(self, row: Sequence[int], count: int) -> list[int]:
        """Its values at the first `count` tokens of a text's row."""
        match self.kind:
            case "same":
                return list(row[:count])
            case "next":
                following = list(row[1 : count + 1])
                return following + [int(self.end or 0)] * (count - len(following))
            case "mask":
                return [1] * count
            case "zeros":
                return [0] * count


@dataclass(frozen=True)
class Layout:
    """How rows are made of texts."""

    length: int
    pad: int | None
    side: Side | None
    before: tuple[int, ...]
    after: tuple[int, ...]
    longest: int | None
    filled: Mapping[str, Filled]
    pads_inside: bool = False  # some row has the token that pads in the middle of its text

    @property
    def splits(self) -> bool:
        """Whether a text's last token is a label and no input."""
        return any(each.kind == "next" and each.end is None for each in self.filled.values())

    def rows(
        self, texts: Sequence[Sequence[int]], columns: Sequence[str]
    ) -> tuple[Array, dict[str, Array]]:
        """Tokens (m, T) of texts, and these columns that follow from them. Raises Unclear."""
        made = [self._row(at, text) for at, text in enumerate(texts)]
        if any(self.filled[name].kind != "zeros" for name in columns):
            self._refuse_pads(made)
        counts = [len(row) - self.splits for row in made]
        tokens = self._padded(
            [row[:count] for row, count in zip(made, counts, strict=True)], self.pad or 0
        )
        return tokens, {
            name: self._padded(
                [self.filled[name].of(row, count) for row, count in zip(made, counts, strict=True)],
                self.filled[name].padding,
            )
            for name in columns
        }

    def _row(self, at: int, text: Sequence[int]) -> list[int]:
        most = self.length + self.splits
        around = len(self.before) + len(self.after)
        if self.longest is not None and around < self.longest <= most:
            text = text[: self.longest - around]
        row = [*self.before, *text, *self.after]
        if len(row) > most:
            raise Unclear(
                f"it has {len(row)} tokens, and rows have up to {most}; the tokenizer does not say how it cuts, so "
                "give a shorter text",
                at,
            )
        predicts = any(each.kind in ("same", "next") for each in self.filled.values())
        if len(row) < 1 + max(predicts, self.splits):
            raise Unclear("it has one token, and none to predict after it", at)
        if len(row) - self.splits < self.length and (self.pad is None or self.side is None):
            missing = "which token pads" if self.pad is None else "on which side they are padded"
            raise Unclear(
                f"it has {len(row)} tokens, and rows have {self.length}; neither they nor the tokenizer say {missing}, "
                "so give a longer text",
                at,
            )
        return row

    def _refuse_pads(self, rows: Sequence[Sequence[int]]) -> None:
        """A text's own token that pads: whether it counts there no row shows that could not be padded."""
        for at, row in enumerate(rows):
            if self.pad not in row:
                continue
            ends = [*(row[:1] if self.side != "right" else ())]
            ends += row[-1:] if self.side != "left" else ()
            if self.pad in ends or not self.pads_inside:
                where = "ends in" if self.pad == row[-1] else "has"
                raise Unclear(
                    f"it {where} the token that pads rows ({self.pad}), and the rows don't show whether that counts in "
                    "a text; leave it out of the text, or give the row in 'columns'",
                    at,
                )

    def _padded(self, rows: Sequence[Sequence[int]], fill: int) -> Array:
        found = np.full((len(rows), self.length), fill, np.int64)
        for at, row in enumerate(rows):
            start = self.length - len(row) if self.side == "left" else 0
            found[at, start : start + len(row)] = row
        return found


def layout_of(
    tokens: Array, others: Mapping[str, Array], targets: Mapping[str, int], tokenizing: Tokenizing
) -> Layout:
    """As rows of tokens (s, T) show it, with their other columns. Raises Unclear.

    `targets`: of those that are labels of positions the label that does not count.
    """
    pad, side = _padding(tokens, tokenizing)
    used = tokens != pad if pad is not None else np.ones(tokens.shape, bool)
    if pad is not None and pad in (*tokenizing.before[:1], *tokenizing.after[-1:]):
        raise Unclear(
            "its padding is a token that the tokenizer puts around texts, so that rows don't show where a text ends"
        )
    some = used.any(1)  # not of padding alone
    tokens, used = tokens[some], used[some]
    if not len(tokens):
        raise Unclear("its rows have no token")
    inside = _filled_from(used, side)
    return Layout(
        tokens.shape[1],
        pad,
        side,
        _before(tokens, inside, tokenizing.before),
        _after(tokens, inside, tokenizing.after),
        tokenizing.longest,
        {
            name: found
            for name, values in others.items()
            if (found := _found(values[some], tokens, inside, targets.get(name), pad)) is not None
        },
        bool((inside & ~used).any()),
    )


def _padding(tokens: Array, tokenizing: Tokenizing) -> tuple[int | None, Side | None]:
    """The token that pads, and on which side; None where neither the file nor the rows say."""
    pad = tokenizing.pad
    if pad is None:
        ends = {
            side: _repeated(tokens, side) & set(tokenizing.special) for side in ("left", "right")
        }
        both = ends["left"] | ends["right"]
        if len(both) != 1:
            return None, None
        (pad,) = both
    first, last = tokens[:, 0] == pad, tokens[:, -1] == pad
    whole = (tokens == pad).all(1)
    left, right = bool((first & ~whole).any()), bool((last & ~whole).any())
    if left and right:
        raise Unclear("some of its rows begin with padding, and some end with it")
    return pad, "left" if left else "right" if right else tokenizing.side


def _repeated(tokens: Array, side: str) -> set[int]:
    """Tokens that rows have twice at one end."""
    if tokens.shape[1] < 2:
        return set()
    ends = tokens[:, :2] if side == "left" else tokens[:, -2:]
    return set(ends[ends[:, 0] == ends[:, 1], 0].tolist())


def _filled_from(used: Array, side: Side | None) -> Array:
    """Where texts are: from their first to their last token."""
    if side == "left":
        return np.maximum.accumulate(used, 1)
    if side == "right":
        return np.maximum.accumulate(used[:, ::-1], 1)[:, ::-1]
    return np.ones_like(used)


def _before(tokens: Array, inside: Array, wanted: tuple[int, ...]) -> tuple[int, ...]:
    starts = inside.argmax(1)
    found = [
        tuple(row[start : start + len(wanted)]) == wanted
        for row, start in zip(tokens.tolist(), starts, strict=True)
    ]
    return wanted if _all_or_none(found, "begin") else ()


def _after(tokens: Array, inside: Array, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Rows that are full may have been cut."""
    lengths = inside.sum(1)
    stops = inside.shape[1] - inside[:, ::-1].argmax(1)
    found = [
        tuple(row[max(0, stop - len(wanted)) : stop]) == wanted
        for row, stop in zip(tokens.tolist(), stops, strict=True)
    ]
    short = [own for own, length in zip(found, lengths, strict=True) if length < inside.shape[1]]
    return wanted if _all_or_none(short or found, "end") else ()


def _all_or_none(found: Sequence[bool], end: str) -> bool:
    if any(found) and not all(found):
        raise Unclear(
            f"some of its rows {end} with what the tokenizer puts around texts, and some do not"
        )
    return all(found)


def _found(
    values: Array, tokens: Array, inside: Array, ignored: int | None, pad: int | None
) -> Filled | None:
    """How a column follows from the tokens; None where it does not."""
    if values.shape != tokens.shape:
        return None
    if ignored is None:
        if bool((values == inside).all()):
            return Filled("mask")
        return None if values.any() else Filled("zeros")
    beside = _one_of(values[~inside], (ignored, pad))
    if beside is None:
        return None
    if bool((values == tokens)[inside].all()):
        return Filled("same", beside)
    following = np.zeros_like(inside)
    following[:, :-1] = inside[:, :-1] & inside[:, 1:]
    follows = (values[:, :-1] == tokens[:, 1:])[following[:, :-1]]
    if not follows.size or not follows.all():
        return None
    last = inside & ~following
    short = last & (inside.sum(1) < inside.shape[1])[:, None]
    ends = values[short if short.any() else last]
    end = _one_of(ends, (ignored, pad))
    labelled = (
        end is None
        and not np.isin(ends, [each for each in (ignored, pad) if each is not None]).any()
    )
    return Filled("next", beside, end) if end is not None or labelled else None


def _one_of(values: Array, choices: Sequence[int | None]) -> int | None:
    """Which of these all values are."""
    return next(
        (each for each in choices if each is not None and bool((values == each).all())), None
    )
