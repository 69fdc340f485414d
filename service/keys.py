"""`python -m service.keys create | list | revoke`: the operator's hand on the keys, in Redis and the storage."""

from __future__ import annotations

import argparse
import json
import sys

from service.auth import Keys, Role
from service.settings import Settings
from service.storage.objects import Objects
from service.storage.redis import connect
from upweight.errors import UpweightError

NO_SUCH_KEY = 3  # the exit code for what is not there, here as in the whole command


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    options = _parser().parse_args(arguments)
    settings = Settings()
    try:
        keys = Keys(connect(settings.redis_url), Objects.of(settings))
        return int(options.run(keys, options))
    except UpweightError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--namespace", default="default")
    create.add_argument("--role", choices=[role.value for role in Role], default=Role.WRITE.value)
    create.add_argument("--name", required=True, help="whose key it is")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="what keys there are")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)
    return parser


def _create(keys: Keys, options: argparse.Namespace) -> int:
    _, text = keys.create(options.namespace, Role(options.role), options.name)
    sys.stdout.write(f"{text}\n")
    sys.stderr.write("Keep it: only its hash is stored, and it is not shown again.\n")
    return 0


def _list(keys: Keys, options: argparse.Namespace) -> int:
    found = keys.list()
    if options.json:
        sys.stdout.writelines(json.dumps(vars(key)) + "\n" for key in found)
        return 0
    rows = [(key.id, key.namespace, key.role, key.created_at[:19], key.name) for key in found]
    for row in [("ID", "NAMESPACE", "ROLE", "CREATED", "NAME"), *rows] if rows else []:
        sys.stdout.write("{:12}  {:20}  {:5}  {:19}  {}\n".format(*row))
    return 0


def _revoke(keys: Keys, options: argparse.Namespace) -> int:
    if keys.revoke(options.id):
        return 0
    sys.stderr.write(f"there is no key {options.id}; 'list' shows what there is\n")
    return NO_SUCH_KEY


if __name__ == "__main__":
    sys.exit(main())
