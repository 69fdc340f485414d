"""Labels that are words, as class numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 10  # words of a target without class names that a message has


@dataclass(frozen=True)
class Classes:
    """Which columns are targets, and the classes' names in the order of their numbers, where the caller gave some."""

    targets: tuple[str, ...]
    names: Sequence[str]

    @classmethod
    def of(cls, targets: Sequence[str] | str | None, names: Sequence[str]) -> Classes:
        """As callers give them: `y` is the target unless something else is said."""
        if targets is None:
            return cls(("y",), names)
        return cls((targets,) if isinstance(targets, str) else tuple(targets), names)

    def numbered(self, name: str, value: Any) -> Any:
        """A target's words as class numbers, in their shape; all else as it is. Raises InvalidRequest."""
        if name not in self.targets or hasattr(value, "detach"):
            return value
        try:
            array = np.asarray(value)
        except ValueError:  # said better where all columns are read
            return value
        if array.dtype.kind in "US" or (
            array.dtype == object
            and array.size > 0
            and all(isinstance(label, str | bytes) for label in array.flat)
        ):
            return self.numbers(name, array.ravel()).reshape(array.shape)
        return value

    def numbers(self, name: str, labels: Iterable[Any]) -> NDArray[np.int64]:
        """Class numbers of labels by their words. Raises InvalidRequest."""
        known = {str(label): at for at, label in enumerate(self.names)}
        words = [_word(label) for label in labels]
        unknown = sorted(set(words) - set(known))
        if unknown and not known:
            shown = ", ".join(map(repr, unknown[:SHOWN])) + (", …" if len(unknown) > SHOWN else "")
            raise InvalidRequest(
                f"target {name!r} holds words; give class_names=[{shown}], in the order of the model's outputs"
            )
        if unknown:
            raise InvalidRequest(
                f"target {name!r} holds words, and {unknown[0]!r} is not among class_names; give "
                "class_names=[…] in the order of the model's outputs"
            )
        return np.array([known[word] for word in words], np.int64)


def _word(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
