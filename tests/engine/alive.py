"""How much memory tensors take at once, whatever the process has beside them."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is on, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        given = {_key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and _key(each) not in given | self._sizes.keys():
                storage = each.untyped_storage()
                self._sizes[_key(each)] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, _key(each))
        self.peak = max(self.peak, self._now)
        return found

    def _gone(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
