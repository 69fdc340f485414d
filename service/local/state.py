"""What a running stack says about itself, in one file of its data folder that only its owner can read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from service.local.redis_server import write_private

FILE = "state.json"


class State(BaseModel):
    """Addresses and process ids; `redis_url` carries the password."""

    url: str
    redis_url: str
    storage: str
    pid: int
    pids: dict[str, int]
    ready: bool = False

    def write(self, data: Path) -> None:
        """Replace the file."""
        write_private(data / FILE, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, data: Path) -> State:
        """What was written last; FileNotFoundError when no stack runs on that folder."""
        return cls.model_validate_json((data / FILE).read_text())

    @staticmethod
    def forget(data: Path) -> None:
        """The stack has ended."""
        (data / FILE).unlink(missing_ok=True)
