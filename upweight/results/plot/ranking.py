"""How soon wrong labels are found when training rows are looked at from the most harmful on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight.results.blocking import RankedResult

MARKS = (0.05, 0.10, 0.20)  # shares of the rows that people care about


def ranking(result: RankedResult, flipped: Sequence[int] | NDArray[Any] | None = None) -> Any:
    """`flipped`: the training rows whose labels are known to be wrong."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    if flipped is None or not len(flipped):
        raise InvalidRequest(
            "the ranking needs flipped=[…]: the training rows whose labels are known to be wrong"
        )
    rows = result.suspects().rows
    shares, found = curve(rows, np.asarray(flipped))
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(shares, found, color="#2166ac", linewidth=2, label="by influence")
    perfect = len(np.intersect1d(rows, flipped)) / len(rows)
    axes.plot(
        [0, perfect, 1], [0, 1, 1], color="#777777", linewidth=1, linestyle=":", label="perfect"
    )
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=1, linestyle="--", label="at random")
    marks = np.interp(MARKS, shares, found)
    axes.plot(MARKS, marks, "o", color="#2166ac", markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="training rows inspected, most suspicious first",
             ylabel="wrong labels found")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#00000015")
    axes.legend(loc="lower right", frameon=False)
    marked = ", ".join(f"{at:.0%} in {share:.0%}" for share, at in zip(MARKS, marks, strict=True))
    title = f"{len(flipped)} wrong labels among {len(rows):,} rows; found: {marked}"
    axes.set_title(title, size=10, loc="left")
    return figure


def curve(ranked: NDArray[Any], flipped: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shares inspected and found, from 0 to 1, both with a point a row. Raises InvalidRequest."""
    hits = np.isin(ranked, flipped)
    if not hits.any():
        raise InvalidRequest(
            "none of the rows in 'flipped' is among the training rows of this result"
        )
    count = len(ranked)
    return np.arange(count + 1) / count, np.concatenate([[0], np.cumsum(hits)]) / hits.sum()
