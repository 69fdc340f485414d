"""Writes openapi.json, or with --check says whether the one in the repository is valid and up to date."""

import argparse
import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

from openapi_spec_validator import validate

COMMITTED = Path(__file__).parent.parent / "openapi.json"


def main() -> None:
    """Exit code 1 when it is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    fresh = document()
    validate(json.loads(fresh))
    if not check:
        COMMITTED.write_text(fresh)
        return
    committed = COMMITTED.read_text() if COMMITTED.exists() else ""
    if committed != fresh:
        before, after = committed.splitlines(keepends=True), fresh.splitlines(keepends=True)
        changes = difflib.unified_diff(before, after, "openapi.json", "the service", n=2)
        sys.stdout.writelines(list(changes)[:60])
        sys.exit("openapi.json is not what the service answers: `make openapi` writes it anew")


def document() -> str:
    """The document of a service with default settings, whatever the environment says."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if name != "REDIS_URL" and not name.startswith("UPWEIGHT_")
    }
    command = [sys.executable, "-m", "service.describe"]
    return subprocess.run(command, env=plain, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
