"""How large a program may be. Every figure is an argument, so that an operator can move it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds which are checked before the bytes behind them are read."""

    archive_bytes: int = 16 << 30
    entries: int = 20_000
    name_bytes: int = 512
    config_bytes: int = 32 << 20
    graph_bytes: int = 256 << 20
    example_bytes: int = 1 << 20
    nodes: int = 200_000
    graph_depth: int = 8
    tensor_rank: int = 16
    list_length: int = 100_000
