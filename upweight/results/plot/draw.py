"""From a kind's name to its figure, and from a figure to a file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upweight.errors import InvalidRequest
from upweight.extras import needed
from upweight.results.plot.damping import damping
from upweight.results.plot.examples import examples
from upweight.results.plot.heatmap import heatmap
from upweight.results.plot.ranking import ranking

if TYPE_CHECKING:
    from upweight.results.blocking import RankedResult

KINDS: dict[str, Callable[..., Any]] = {
    "top": examples,
    "heatmap": heatmap,
    "ranking": ranking,
    "damping": damping,
}
ENDINGS = (".png", ".svg", ".pdf")
DPI = 160


def drawn(
    result: RankedResult, kind: str, path: str | os.PathLike[str] | None, options: dict[str, Any]
) -> Any:
    """The figure; written into the file as well, if there is to be one."""
    needed("matplotlib", "plot()")
    if kind not in KINDS:
        raise InvalidRequest.field(
            "/kind", f"there is no picture {kind!r}; there are {', '.join(KINDS)}", kind
        )
    if path is not None and Path(path).suffix not in ENDINGS:
        raise ValueError(
            f"pictures are saved as {', '.join(ENDINGS)}; {Path(path).name!r} is none of these"
        )
    taken = list(inspect.signature(KINDS[kind]).parameters)[1:]
    for name in options:
        if name not in taken:
            raise InvalidRequest.field(
                f"/{name}", f"{kind!r} takes {', '.join(taken)}, not {name!r}", None
            )
    figure = KINDS[kind](result, **options)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _save(figure: Any, path: Path) -> None:
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=DPI)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
