"""How figures are printed: the median, and the range beside it, since these machines are noisy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def told(name: str, values: Sequence[float], unit: str, target: str = "") -> None:
    """One line: median, smallest and largest of several runs, and the target."""
    line = f"{name:<58} {median(values):>9.2f} {unit:<6} ({min(values):.2f} to {max(values):.2f}, {len(values)} runs)"
    print(line + (f"   target: {target}" if target else ""), flush=True)
