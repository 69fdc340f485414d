"""Test rows with the training rows that helped and harmed them most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from upweight.results.pictures import Example, Panel
from upweight.results.pictures.examples import OF_LOSS

if TYPE_CHECKING:
    from upweight.results.blocking import RankedResult

CELL = 1.15  # inches
MARGIN, GAP = 0.1, 1.35  # in cells: before the first, and from one group to the next
HELPFUL, HARMFUL, PLAIN = "#2166ac", "#b2182b", "#333333"


def examples(result: RankedResult, test: int | Sequence[int] | None = None, k: int = 5) -> Any:
    """`test`: rows of the matrix; without, those of the largest loss. `k`: training rows of each sign."""
    from matplotlib.figure import Figure

    wanted = [test] if isinstance(test, int) else test
    panels = result.panels(wanted, k)
    columns = [MARGIN, *(MARGIN + GAP + at for at in range(k))]
    harmful = columns[-1] + GAP
    columns += [harmful + at for at in range(k)]
    width, height = columns[-1] + 1, len(panels)
    figure = Figure(figsize=(width * CELL, height * CELL * 1.5 + 0.55))
    top = 0.55 / (height * CELL * 1.5 + 0.55)
    words = panels[0].words if panels else OF_LOSS
    positive, negative = ("helped", "harmed") if words == OF_LOSS else words
    titles = [
        ("test", MARGIN, PLAIN),
        (f"{positive} most", columns[1], HELPFUL),
        (f"{negative} most", harmful, HARMFUL),
    ]
    if any(panel.doubtful for panel in panels):
        titles = [("largest influence on itself", columns[1], PLAIN)]
    for title, at, colour in titles:
        figure.text(at / width, 1 - top * 0.55, title, color=colour, weight="bold", size=10)
    for line, panel in enumerate(panels):
        for example, at, colour in _cells(panel, columns, k):
            bottom = (1 - top) * (1 - (line + 1) / height)
            box = (
                at / width,
                bottom + (1 - top) * 0.34 / height,
                1 / width * 0.92,
                (1 - top) * 0.62 / height,
            )
            _draw(figure, example, box, colour)
    return figure


def _cells(panel: Panel, columns: list[float], k: int) -> list[tuple[Example, float, str]]:
    cells = [] if panel.test is None else [(panel.test, columns[0], PLAIN)]
    cells += [(example, columns[1 + at], PLAIN) for at, example in enumerate(panel.doubtful)]
    cells += [(example, columns[1 + at], HELPFUL) for at, example in enumerate(panel.helpful)]
    cells += [(example, columns[1 + k + at], HARMFUL) for at, example in enumerate(panel.harmful)]
    return cells


def _draw(
    figure: Any, example: Example, box: tuple[float, float, float, float], colour: str
) -> None:
    axes = figure.add_axes(box)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(1.2)
    if example.picture is not None:
        axes.imshow(example.picture, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    else:
        words = example.words.replace(", ", "\n")
        axes.text(
            0.5,
            0.5,
            words,
            ha="center",
            va="center",
            size=6,
            transform=axes.transAxes,
            parse_math=False,
        )
    axes.set_xlabel("\n".join(_lines(example)), size=7, color=colour, labelpad=3, parse_math=False)


def _lines(example: Example) -> list[str]:
    lines = [example.name]
    if example.label:
        lines.append(f"label {example.label}")
    if example.predicted and example.predicted != example.label:
        lines[-1] += f", read as {example.predicted}"
    if example.influence is not None:
        lines.append(f"{example.influence:+.3g}")
    elif example.loss is not None:
        lines.append(f"loss {example.loss:.3g}")
    return lines
