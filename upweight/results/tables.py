"""Answers with a row an item, as callers use them: iterated, counted, sliced, as DataFrames; a line at a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Self

from pydantic import PrivateAttr

import upweight.schema as schema
from upweight.extras import needed

SHOWN = 5  # items, at a prompt


class _Table:
    """What both have; `items` are the contract's."""

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        return self.items[place]

    def to_pandas(self) -> Any:
        """A DataFrame with a line an item, and its dataset rows as the index. Needs pandas."""
        pandas = needed("pandas", "to_pandas()")
        frame = pandas.DataFrame([each.model_dump() for each in self.items])
        return frame.set_index("row") if len(frame) else frame

    def _repr_html_(self) -> str:
        lines = [each.model_dump() for each in self.items]
        heads = "".join(f"<th>{escape(name)}</th>" for name in (lines[0] if lines else ()))
        cells = ("".join(f"<td>{_cell(value)}</td>" for value in line.values()) for line in lines)
        return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def _cell(value: Any) -> str:
    return (
        "" if value is None else escape(f"{value:.4g}" if isinstance(value, float) else str(value))
    )


class Ranking(_Table, schema.Ranking):
    """The k most helpful or most harmful training rows, the strongest first: each with `row` and `influence`."""

    items: list[schema.Ranked]
    _by_itself: bool = PrivateAttr(False)

    def of(self, record: schema.JobRecord) -> Self:
        """The same, told as what that job has ranked: of self-influences none is helpful or harmful."""
        self._by_itself = record.request.kind == "self_influences"
        return self

    def __iter__(self) -> Iterator[schema.Ranked]:  # type: ignore[override]
        return iter(self.items)

    def __repr__(self) -> str:
        whose = "by mean" if self.test is None else f"of test row {self.test}"
        shown = ", ".join(_named(each, f"{each.influence:+.3g}") for each in self.items[:SHOWN])
        more = ", …" if len(self.items) > SHOWN else ""
        if self._by_itself:
            end = "smallest" if self.sign in ("harmful", "raises") else "largest"
            return f"<Ranking {end} influence on itself: {shown}{more}>"
        return f"<Ranking {self.sign} {whose}: {shown}{more}>"

    __str__ = __repr__


class Bm25Ranking(_Table, schema.Bm25Ranking):
    """The training rows that share the most telling tokens with test rows: each with `row` and `score`."""

    items: list[schema.Matched]

    def __iter__(self) -> Iterator[schema.Matched]:  # type: ignore[override]
        return iter(self.items)

    def __repr__(self) -> str:
        whose = "by mean" if self.test is None else f"of test row {self.test}"
        shown = ", ".join(_named(each, f"{each.score:.3g}") for each in self.items[:SHOWN])
        return f"<Bm25Ranking {whose}: {shown}{', …' if len(self.items) > SHOWN else ''}>"

    __str__ = __repr__


def _named(each: schema.Ranked | schema.Matched, number: str) -> str:
    """By its row's id, where that is not the row's number."""
    if each.id in (None, each.row):
        return f"{each.row} ({number})"
    return f"{each.id} (row {each.row}, {number})"


class PredictedRows(_Table, schema.PredictedRows):
    """Rows with the model's loss, prediction and target."""

    items: list[schema.PredictedRow]

    def __iter__(self) -> Iterator[schema.PredictedRow]:  # type: ignore[override]
        return iter(self.items)

    def __repr__(self) -> str:
        return f"<PredictedRows {self.side}: {len(self.items)} of {self.total}>"

    __str__ = __repr__
