"""`python -m service.retention`: what has expired and what belongs to nothing goes now, or is only named."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from service.retention.expiry import Expired, Expiry
from service.retention.orphans import Orphan, Orphans
from service.settings import Settings
from service.storage.copies import Copies
from service.storage.objects import Objects
from service.storage.records import Records
from service.storage.redis import connect
from upweight.errors import UpweightError


def main(arguments: list[str] | None = None) -> int:
    """One whole pass, a line for each thing that goes."""
    parser = argparse.ArgumentParser(prog="upweight retention", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="name what would go, delete nothing")
    parser.add_argument("--json", action="store_true", help="an object a line")
    options = parser.parse_args(arguments)
    try:
        freed, number = 0, 0
        for each in _all(Settings(), options.dry_run):
            freed, number = freed + each.size_bytes, number + 1
            sys.stdout.write(f"{json.dumps(vars(each)) if options.json else _words(each)}\n")
    except UpweightError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    if not options.json:
        verb = "would be freed" if options.dry_run else "freed"
        sys.stdout.write(f"{number} in all, {freed} bytes {verb}\n")
    return 0


def _all(settings: Settings, dry_run: bool) -> Iterator[Expired | Orphan]:
    redis, objects = connect(settings.redis_url), Objects(settings.storage)
    records, copies = Records(redis), Copies(redis, objects)
    expiry = Expiry(records, objects, settings, dry_run=dry_run)
    if expiry.wanted:
        yield from filter(None, expiry.one_pass())
    if settings.retention_bytes is not None:
        # What is kept is known now, and so what is too much.
        yield from (each for each in expiry.one_pass() if each and each.reason == "bytes")
    yield from filter(None, Orphans(records, copies, objects, settings, dry_run=dry_run).one_pass())


def _words(each: Expired | Orphan) -> str:
    if isinstance(each, Orphan):
        return f"orphan   {each.path}  {each.size_bytes} bytes"
    return f"expired  {each.namespace}/{each.job} by {each.reason}  {each.size_bytes} bytes"


if __name__ == "__main__":
    sys.exit(main())
