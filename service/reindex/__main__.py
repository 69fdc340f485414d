"""`python -m service.reindex`: rebuilds Redis from the object storage."""

from __future__ import annotations

import argparse
import json
import sys

from service.reindex.rebuild import Rebuild, Rebuilt
from service.settings import Settings
from service.storage.objects import Objects
from service.storage.queue import TaskQueue
from service.storage.redis import connect
from upweight.errors import UpweightError


def main(arguments: list[str] | None = None) -> int:
    """Rebuilds and says what it did; 1 when something could not be read."""
    parser = argparse.ArgumentParser(prog="upweight reindex", description=__doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is missing, change nothing"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    settings = Settings()
    try:
        redis = connect(settings.redis_url)
        queue = TaskQueue(redis, settings.queue_length)
        objects = Objects.of(settings)
        rebuilt = Rebuild(redis, objects, queue, dry_run=options.dry_run).run()
    except UpweightError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    text = json.dumps(rebuilt.as_json()) if options.json else _words(rebuilt, options.dry_run)
    sys.stdout.write(f"{text}\n")
    return 1 if rebuilt.unreadable else 0


def _words(rebuilt: Rebuilt, dry_run: bool) -> str:
    verb = "would be restored" if dry_run else "restored"
    kinds = ("key", "model", "dataset", "job", "quality")
    lines = [
        f"{kind:8}  {rebuilt.restored[kind]:8} {verb}  {rebuilt.there[kind]:8} there already"
        for kind in kinds
    ]
    lines.append(f"{rebuilt.queued} of them {'would be queued' if dry_run else 'queued'} again")
    lines += [f"unreadable: {path}" for path in rebuilt.unreadable]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
