"""How much another λ changes the order of the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from upweight.results.blocking import RankedResult

FEWEST = 2


def damping(result: RankedResult) -> Any:
    """The rank correlation between neighbouring λ's, by λ: flat near 1 where λ hardly matters."""
    from matplotlib.figure import Figure

    values, found = curve(result)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(values, found, "o-", color="#2166ac", linewidth=2, markersize=5)
    for value in result.dampings:
        axes.axvline(value, color="#00000020", linewidth=1)
    if min(values) > 0:
        axes.set_xscale("log")
    axes.set(xlabel="λ, between two neighbours", ylabel="rank correlation of their scores")
    axes.set_ylim(top=1.02)
    axes.grid(color="#00000015")
    axes.set_title(
        f"{len(result.dampings)} λ's; the least alike: {min(found):.3f}", size=10, loc="left"
    )
    return figure


def curve(result: RankedResult) -> tuple[list[float], list[float]]:
    """Where neighbours meet, by geometric mean where both are above 0, and their correlation. Raises InvalidRequest."""
    ordered = result.dampings
    alike: Any = result.info.summary.get("rank_correlation", {})
    told = alike.get("neighbours", [])
    if len(ordered) < FEWEST or not told:
        raise InvalidRequest(
            "the picture 'damping' compares several λ's; give hessian_regularization as a list, such as [1e-3, 1e-2]"
        )
    pairs = sorted(
        ((before * after) ** 0.5 if before * after > 0 else (before + after) / 2, each)
        for before, after, each in zip(ordered, ordered[1:], told, strict=False)
        if each is not None
    )
    if not pairs:
        raise InvalidRequest("all scores of a row are the same: they have no order to compare")
    return [value for value, _ in pairs], [each for _, each in pairs]
