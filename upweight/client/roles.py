"""Which of a dataset's columns are inputs, and which are targets."""

from __future__ import annotations

from collections.abc import Sequence

from upweight.errors import InvalidRequest


def roles(
    names: list[str], inputs: Sequence[str] | str | None, targets: Sequence[str] | str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which columns are inputs and which are targets: `y` is the target unless something else is said."""
    given_in = (inputs,) if isinstance(inputs, str) else inputs
    given_out = (targets,) if isinstance(targets, str) else targets
    if given_out is None:
        given_out = [name for name in names if name == "y" and name not in (given_in or ())]
    if given_in is None:
        given_in = [name for name in names if name not in given_out]
    missing = sorted({*given_in, *given_out} - set(names))
    if missing:
        raise InvalidRequest(f"there is no column {missing[0]!r}; the columns are {names}")
    unused = [name for name in names if name not in (*given_in, *given_out)]
    if unused:
        raise InvalidRequest(
            f"column {unused[0]!r} is neither among the inputs {list(given_in)} nor the targets "
            f"{list(given_out)}; name it there or leave it out"
        )
    return tuple(given_in), tuple(given_out)
