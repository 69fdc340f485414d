"""How much of G may be kept, and whether that pays: by sizes and counts alone, never by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.autodiff.graph.assemble import ParameterNode
from workers.engine.autodiff.graph.linear import LinearLayer

MOST_COLUMNS = 1024
MEMORY_PART = 0.25  # of the byte budget
# Of the products that a solution takes otherwise: how many are saved, how often it is applied instead.
SAVED, APPLIED = 0.4, 0.4
# Operations: of a product with H and a pass back, times the work of a row; of an application, times
# the columns' own numbers.
PRODUCT, PASS_BACK, APPLICATION = 10.0, 4.0, 4.0


@dataclass(frozen=True)
class Sizes:
    """Of n `rows` with c `outputs` each, p `parameters`, and a column of so many numbers."""

    rows: int
    outputs: int
    parameters: int
    width: int

    def most(self, numbers: float) -> int:
        """Columns that a budget of so many numbers allows: their own, and products of all pairs."""
        fitting = int(MEMORY_PART * numbers / (self.width + 2 * MOST_COLUMNS))
        return min(MOST_COLUMNS, self.rows * self.outputs, fitting)

    def pays(self, work: int, columns: int, products: float) -> bool:
        """Whether it saves more operations of so many products than it costs; `work` is of a row."""
        made = PASS_BACK * self.outputs * self.rows * work
        made += 2.0 * columns**2 * self.width + columns**3 / 3.0
        applied = APPLIED * products * APPLICATION * columns * self.parameters
        return made + applied < SAVED * products * PRODUCT * self.rows * work


def are_outer(layers: Sequence[ParameterNode]) -> bool:
    """Whether all are linear layers of plain rows, no parameter in two of them."""
    names = [place.name for each in layers for place in each.places]
    plain = all(isinstance(each, LinearLayer) and each.inputs.ndim == 2 for each in layers)
    return plain and len(set(names)) == len(names)


def width_of(layers: Sequence[ParameterNode]) -> int:
    """Numbers of a column that is kept as inputs and error signals."""
    return sum(sum(each.weight.shape) for each in layers if isinstance(each, LinearLayer))
