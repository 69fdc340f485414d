"""What is replaced for one thread alone, as long as a block of code lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """`owner.name` does something else, in this thread alone: others may be training meanwhile."""
    before, thread = getattr(owner, name), threading.get_ident()
    own = vars(owner).get(name)
    here = getattr(replacement, "__func__", replacement)

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (here if threading.get_ident() == thread else before)(*args, **kwargs)

    setattr(owner, name, staticmethod(chosen) if here is not replacement else chosen)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
