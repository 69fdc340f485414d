"""Tells pickles from archives by their first bytes and member names, without opening them."""

from collections.abc import Iterable
from pathlib import Path

from workers.programs.errors import EXPORT_LINE, PickleRefused

_PICKLE_MARK = b"\x80"
_PICKLED_MEMBERS = frozenset({"data.pkl", "constants.pkl", "attributes.pkl"})


def refuse_bare_pickle(path: Path) -> None:
    """Refuses a file that begins as a pickle of protocol 2 or later does.

    So does one safetensors file in 32, with the length of its header; that is JSON from the ninth byte on.
    """
    with path.open("rb") as file:
        first = file.read(9)
        if first[:1] == _PICKLE_MARK and first[8:] != b"{":
            raise PickleRefused(_words("a pickle"))


def refuse_pickled_archive(names: Iterable[str]) -> None:
    """Refuses what `torch.save` and `torch.jit.save` write: zips with pickles at their heart."""
    tails = {name.partition("/")[2] for name in names}
    if not tails & _PICKLED_MEMBERS:
        return
    scripted = "constants.pkl" in tails or any(tail.startswith("code/") for tail in tails)
    raise PickleRefused(_words("a TorchScript archive" if scripted else "a file of torch.save"))


def _words(kind: str) -> str:
    return (
        f"This is {kind}, and opening it would run code, so it is never opened. "
        f"Export the model instead: {EXPORT_LINE}"
    )
