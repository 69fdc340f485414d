"""A slice of the influences in diverging colours; of perturbations, one picture of the features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest
from upweight.results.pictures.slices import Slice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from upweight.results.blocking import RankedResult

LARGEST = 4_000_000  # cells: more than that no picture shows
COLOURS = "RdBu"  # blue helps, red harms
SIZES = {"auto": (9, 5.2), "equal": (5.8, 4.8)}  # inches
CLIP = 99  # percentile of |influence| where the colours end, so that outliers do not pale the rest


def heatmap(
    result: RankedResult, test: Any = None, train: Any = None, by_class: bool = True
) -> Any:
    """`test`, `train`: rows and columns of the matrix (slices, lists, `"0:40"`); `by_class`: put together by label.

    Of perturbations, one `test` and one `train` row: the influence of each feature, in the input's own shape.
    """
    from matplotlib.figure import Figure

    part = result.part(test, train, by_class)
    if part.values.size > LARGEST:
        raise InvalidRequest(
            f"a picture of {part.values.size:,} influences shows none of them; choose fewer rows"
        )
    figure = Figure(figsize=SIZES[part.aspect], layout="constrained")
    axes = figure.add_subplot()
    end = _end(part.values)
    image = axes.imshow(
        part.values, cmap=COLOURS, vmin=-end, vmax=end, aspect=part.aspect, interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, extend="both", pad=0.01)
    bar.set_label(part.scale, size=9)
    axes.set_title(part.title, size=10, loc="left")
    _label(axes, part)
    return figure


def _end(values: NDArray[Any]) -> float:
    end = float(np.percentile(np.abs(values), CLIP)) if values.size else 0.0
    return end or float(np.abs(values).max(initial=0.0)) or 1.0


def _label(axes: Any, part: Slice) -> None:
    for axis, side in ((axes.yaxis, part.down), (axes.xaxis, part.across)):
        axis.set_label_text(side.name, size=9)
        axis.set_tick_params(labelsize=7, length=0 if side.borders else 3)
        axis.set_ticks(side.ticks, side.labels, parse_math=False)
        for border in side.borders:
            line = axes.axhline if axis is axes.yaxis else axes.axvline
            line(border - 0.5, color="#00000055", linewidth=0.6)
