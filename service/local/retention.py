"""`python -m service.local.retention`: `service.retention` for the service on a folder of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from service.local.operator import operate
from service.retention.__main__ import main as retention


def main(arguments: Sequence[str] | None = None) -> int:
    """What is not about the folder goes on to `service.retention`."""
    return operate("upweight retention", retention, arguments)


if __name__ == "__main__":
    sys.exit(main())
