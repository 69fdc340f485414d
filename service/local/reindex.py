"""`python -m service.local.reindex`: `service.reindex` for the service on a folder of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service.local.operator import operate
from service.reindex.__main__ import main as reindex


def main(arguments: Sequence[str] | None = None) -> int:
    """What is not about the folder goes on to `service.reindex`."""
    return operate("upweight reindex", reindex, arguments)


if __name__ == "__main__":
    sys.exit(main())
