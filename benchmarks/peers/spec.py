"""What a worker process is told, as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spec:
    """One contestant of one case."""

    case: str
    contestant: int  # its place in the case
    problem: Path
    scale: float  # of lissa
    threads: int
    memory_limit: float  # GiB of address space
    seconds: float  # no further call is begun that would not be over by then

    def write(self, path: Path) -> None:
        """See `read`."""
        path.write_text(json.dumps(asdict(self) | {"problem": str(self.problem)}))

    @classmethod
    def read(cls, path: Path) -> Spec:
        """What `write` wrote."""
        told = json.loads(path.read_text())
        return cls(**told | {"problem": Path(told["problem"])})
