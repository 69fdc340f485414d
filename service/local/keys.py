"""`python -m service.local.keys`: `service.keys` for the service on a folder of this machine, running or not."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service import keys
from service.local.operator import operate


def main(arguments: Sequence[str] | None = None) -> int:
    """What is not about the folder goes on to `service.keys`."""
    return operate("upweight keys", keys.main, arguments)


if __name__ == "__main__":
    sys.exit(main())
