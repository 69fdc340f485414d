"""Draws the pictures of `methods.md` beside itself: `python docs/images/draw.py`. Figures are those of `damping.json`.

`damping.json` is the table of `benchmarks.quality`, by the command that it names.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
INK, PALE, PAPER = "#222222", "#d8d8d8", "#ffffff"
# Told apart without colours, too: dashes.
LINES = {
    "Gauss-Newton": ("#0b5fa5", ""),
    "exact Hessian": ("#b3261e", "7 4"),
    "EK-FAC": ("#1b7f4d", ""),
    "K-FAC": ("#8a6d00", "2 3"),
    "identity": ("#6b6b6b", "1 4"),
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 60, 150, 34, 50
HIGHEST = 0.7
STRUCTURES = ("full", "layers", "ekfac", "diagonal", "identity")
SIDE, LAYERS = 96, (0, 40, 72, 96)  # of a matrix, and where its layers begin


def damping() -> str:
    """LDS over λ, a line a curvature."""
    found = json.loads((HERE / "damping.json").read_text())["lds"]
    powers = sorted({math.log10(float(each)) for of_one in found.values() for each in of_one})
    low, high = powers[0], powers[-1]

    def x(power: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (power - low) / (high - low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / HIGHEST

    parts = []
    for tenth in range(8):
        value = tenth / 10
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), PALE))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:.1f}", "end"))
    under = HEIGHT - BOTTOM + 18
    parts += [_text(x(power), under, f"1e{power:.0f}", "middle") for power in powers]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "λ", "middle"))
    parts.append(_text(14, TOP - 16, "LDS", "start"))
    for number, (name, (colour, dashes)) in enumerate(LINES.items()):
        points = sorted((float(each), value) for each, value in found[name].items())
        path = " ".join(f"{x(math.log10(at)):.1f},{y(value):.1f}" for at, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        )
        row = TOP + 14 + 22 * number
        parts.append(
            f'<line x1="{WIDTH - RIGHT + 12}" y1="{row}" x2="{WIDTH - RIGHT + 40}" y2="{row}" stroke="{colour}" '
            f'stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 46, row + 4, name, "start"))
    title = "How well scores predict retraining (LDS) against λ, on the digits MLP"
    return _drawn(WIDTH, HEIGHT, title, parts)


def structures() -> str:
    """What each structure keeps of a matrix of three layers: dark entries are there, pale ones are not."""
    parts, gap = [], 40
    for number, name in enumerate(STRUCTURES):
        left, top = 10 + number * (SIDE + gap), 10
        parts.append(_box(left, top, SIDE, SIDE, INK if name == "full" else PALE))
        for first, last in pairwise(LAYERS):
            if name == "layers":
                parts.append(_box(left + first, top + first, last - first, last - first, INK))
            elif name == "ekfac":
                parts += _product(left + first, top + first, last - first)
        if name in ("diagonal", "identity"):
            shade = INK if name == "diagonal" else "#8c8c8c"
            parts.append(_line(left, top, left + SIDE, top + SIDE, shade, 3))
        said = "kfac, ekfac" if name == "ekfac" else name
        parts.append(_text(left + SIDE / 2, top + SIDE + 18, said, "middle"))
    return _drawn(
        10 + len(STRUCTURES) * (SIDE + gap) - gap + 10,
        SIDE + 40,
        "What each structure keeps",
        parts,
    )


def _product(left: float, top: float, side: float) -> list[str]:
    """Of a Kronecker product: two small factors in the block's place."""
    part = side * 0.42
    middle = top + (side - part) / 2
    return [
        _box(left, top, side, side, PAPER, INK),
        _box(left + 2, middle, part, part, INK),
        _box(left + side - part - 2, middle, part, part, "#5c5c5c"),
    ]


def _box(x: float, y: float, width: float, height: float, fill: str, edge: str = "none") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" stroke="{edge}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{words}</text>'


def _drawn(width: float, height: float, title: str, parts: list[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'font-family="sans-serif" font-size="13">\n<title>{title}</title>\n'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>\n{inside}\n</svg>\n'
    )


if __name__ == "__main__":
    (HERE / "damping.svg").write_text(damping())
    (HERE / "structures.svg").write_text(structures())
