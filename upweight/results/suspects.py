"""The training rows whose labels deserve a look, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, overload

import upweight.late.numpy as np
from upweight.extras import needed
from upweight.schema import Suspect, Suspects

if TYPE_CHECKING:
    from numpy.typing import NDArray


_SHOWN = 10  # rows of a table in a shell or a notebook


@dataclass(frozen=True, repr=False, eq=False)
class SuspectTable:
    """Training rows, the most suspect first. As a sequence, and as an array of NumPy's, it is the rows' numbers.

    `by`: `self_influences` or `mean`, what rows are ranked by. `total`: how many rows are ranked in all.
    """

    by: Literal["self_influences", "mean"]
    total: int
    items: tuple[Suspect, ...]

    @classmethod
    def of(cls, pages: Sequence[Suspects]) -> SuspectTable:
        """Of answers that follow each other."""
        items = tuple(item for page in pages for item in page.items)
        return cls(pages[0].by, pages[0].total, items)

    @property
    def ids(self) -> list[int | str]:
        """Of each row; where the dataset has no ids, the rows' numbers."""
        return [item.id for item in self.items]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the training dataset."""
        return np.array([item.row for item in self.items], np.int64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """From 0 to 1, low is suspect: the share of rows that are more suspect, of equal ones the half."""
        return np.array([item.score for item in self.items], np.float64)

    @property
    def influences(self) -> NDArray[np.float64]:
        """What the rows are ranked by."""
        return np.array([item.influence for item in self.items], np.float64)

    def to_pandas(self) -> Any:
        """A DataFrame with `id`, `row`, `score`, `label`, `predicted`. Needs pandas."""
        pandas = needed("pandas", "to_pandas()")
        return pandas.DataFrame(
            {
                "id": self.ids,
                "row": self.rows,
                "score": self.scores,
                "label": [item.label for item in self.items],
                "predicted": [item.predicted for item in self.items],
            }
        )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return (item.row for item in self.items)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> SuspectTable: ...
    def __getitem__(self, index: int | slice) -> int | SuspectTable:
        if isinstance(index, slice):
            return SuspectTable(self.by, self.total, self.items[index])
        return self.items[index].row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.rows if dtype is None else self.rows.astype(dtype)

    def __repr__(self) -> str:
        lines = [f"<Suspects {len(self)} of {self.total} rows, by {self.by}>"]
        lines += ["\t".join(cells) for cells in self._cells()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *body = (
            "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
            for tag, cells in zip(["th", *["td"] * _SHOWN], self._cells(), strict=False)
        )
        rows = "".join(f"<tr>{cells}</tr>" for cells in (head, *body))
        more = f"{len(self)} of {self.total} rows, the most suspect first, by {escape(self.by)}"
        return f"<table>{rows}</table><p>{more}</p>"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        yield ("id", "row", "score", "label", "predicted")
        for item in self.items[:_SHOWN]:
            yield (
                str(item.id),
                str(item.row),
                f"{item.score:.4f}",
                *map(_plain, (item.label, item.predicted)),
            )


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
