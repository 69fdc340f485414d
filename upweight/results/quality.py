"""The table of a quality job: how far results, and plain baselines, predict retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from upweight.extras import needed
from upweight.schema import Noise, QualityReport, QualityRow

COLUMNS = ("result", "measure", "value", "low", "high")
BESIDE = ("method", "damping", "baseline", "n", "pearson", "interval", "note")


@dataclass(frozen=True)
class QualityTable:
    """A row for each measure of each result, at each of its λ's, and of each baseline.

    `value` is higher for better results, from `low` to `high` with 95 %; None where it is not defined, and the row's
    `note` says why. `noise`: how far trainings with other seeds agree, which bounds what a score can reach.
    """

    report: QualityReport
    job: str  # id of the quality job

    @property
    def rows(self) -> list[QualityRow]:
        """Results before baselines, measure by measure."""
        return self.report.rows

    @property
    def noise(self) -> Noise | None:
        """Of LDS, from repeats with other seeds."""
        return self.report.noise

    @property
    def warnings(self) -> list[str]:
        """What to know before the numbers are believed."""
        return self.report.warnings

    def best(self, measure: str | None = None) -> QualityRow | None:
        """The result with the highest value of a measure, by default the first one; None where none has a value."""
        measure = measure or (self.rows[0].measure if self.rows else "")
        known = [
            row
            for row in self.rows
            if row.measure == measure and not row.baseline and row.value is not None
        ]
        return max(known, key=lambda row: row.value or 0.0, default=None)

    def to_pandas(self, *, all_columns: bool = False) -> Any:
        """A DataFrame: `result`, `measure`, `value`, `low`, `high`; method, λ and more with `all_columns`.

        A result with several λ's is called by its id and λ.
        """
        pandas = needed("pandas", "to_pandas()")
        several = _several(self.rows)
        rows = [
            {**row.model_dump(include={*COLUMNS, *BESIDE}), "result": name_of(row, several)}
            for row in self.rows
        ]
        columns = [*COLUMNS, *(BESIDE if all_columns else ())]
        return pandas.DataFrame(rows, columns=columns)

    def plot(self, measure: str | None = None) -> Any:
        """Dots with their intervals, a line for each result and baseline; the noise beside. A matplotlib figure."""
        needed("matplotlib", "plot()")
        from matplotlib.figure import Figure

        measure = measure or (self.rows[0].measure if self.rows else "")
        rows = [row for row in self.rows if row.measure == measure and row.value is not None]
        figure = Figure(figsize=(7.0, 1.2 + 0.32 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(reversed(rows)):
            colour = "#888888" if row.baseline else "#1f5fae"
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            axes.plot([row.value or 0.0], [place], "o", color=colour)
        names = [_label(row) for row in reversed(rows)]
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.axvline(0.5 if measure == "mislabel" else 0.0, color="#bbbbbb", linewidth=1)
        if self.noise is not None and self.noise.ceiling is not None and measure == "lds":
            axes.axvline(self.noise.ceiling, color="#bb4444", linestyle="--", linewidth=1)
            axes.set_title(f"dashed: what noise allows, {self.noise.ceiling:.2f}", fontsize=8)
        axes.set_xlabel(measure)
        return figure

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        lines = [f"{_label(row):<44} {row.measure:<11} {_in_words(row)}" for row in self.rows]
        return "\n".join([f"<QualityTable {self.job}>", *lines, *self.remarks])

    def _repr_html_(self) -> str:
        lines = ((_label(row), row.measure, _in_words(row)) for row in self.rows)
        cells = "".join(
            f"<tr>{''.join(f'<td>{escape(each)}</td>' for each in line)}</tr>" for line in lines
        )
        below = "".join(f"<p style='font-size:85%'>{escape(line)}</p>" for line in self.remarks)
        return (
            f"<table><tr><th>result</th><th>measure</th><th>value</th></tr>{cells}</table>{below}"
        )

    @property
    def remarks(self) -> list[str]:
        """The noise and the warnings, a line each."""
        noise = self.noise
        told = (
            [f"seeds agree at {noise.value:.3f}; noise allows about {noise.ceiling or 0.0:.3f}"]
            if noise is not None and noise.value is not None
            else []
        )
        return [*told, *self.warnings]


@dataclass(frozen=True)
class Tuning:
    """What a sweep over methods and λ's found: the whole `table`, and which to use."""

    table: QualityTable
    best: dict[str, Any]  # keywords for compute_influences
    why: str
    left_out: Sequence[str] = ()  # methods that gave no result, and why

    def to_pandas(self, *, all_columns: bool = True) -> Any:
        """The table as a DataFrame."""
        return self.table.to_pandas(all_columns=all_columns)

    def plot(self, measure: str | None = None) -> Any:
        """The table as a figure."""
        return self.table.plot(measure)

    def __repr__(self) -> str:
        return "\n".join([f"<Tuning> {self.why}", *self.left_out])


def name_of(row: QualityRow, several: frozenset[str]) -> str:
    """The result's id, with λ where it has several."""
    return f"{row.result} at λ = {row.damping:g}" if row.result in several else row.result


def _several(rows: Sequence[QualityRow]) -> frozenset[str]:
    """Results with more than one λ."""
    dampings: dict[str, set[float | None]] = {}
    for row in rows:
        dampings.setdefault(row.result, set()).add(row.damping)
    return frozenset(result for result, each in dampings.items() if len(each) > 1)


def _label(row: QualityRow) -> str:
    if row.baseline:
        return row.result
    return f"{row.method}, λ = {row.damping:g} ({row.result[-6:]})"


def _in_words(row: QualityRow) -> str:
    if row.value is None:
        return f"not defined: {row.note}"
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
