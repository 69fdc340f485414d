"""Known vulnerabilities of what requirements.lock pins: of the advisory service, or offline of a file of advisories.

`ADVISORIES=FILE make audit` takes a file of the OSV format: the export of the ecosystem PyPI as osv.dev publishes it
(`PyPI/all.zip`), a JSON list of such records, or a folder of them. It says of which day the file is, and refuses one
that is older than `--days`. Without a file it asks the service by pip-audit.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parent.parent
NEEDS = """\
The advisory service can't be reached from here. Fetch a file of advisories where there is a network,
https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, and name it: make audit ADVISORIES=all.zip"""
UNREACHABLE = ("ConnectionError", "Could not connect", "Max retries", "Temporary failure")
NOT_THERE = (
    "Dependency not found on PyPI and could not be audited"  # an index that has no advisories
)


def main(arguments: list[str] | None = None) -> int:
    """0: none known. 1: some are, and are printed. 2: it could not be found out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--advisories", type=Path)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--days", type=int, default=30, help="an older file is refused")
    options = parser.parse_args(arguments)
    if options.advisories is None:
        return asked()
    try:
        advisories = list(read(options.advisories))
        newest = max(moment(each["modified"]) for each in advisories)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        print(f"{options.advisories} is no file of OSV advisories: {error!r}", file=sys.stderr)
        return 2
    age = (datetime.now(UTC) - newest).days
    print(f"{options.advisories}: {len(advisories)} advisories, the newest of {newest:%Y-%m-%d}")
    if age > options.days:
        print(f"That is {age} days old, more than {options.days}: {NEEDS}", file=sys.stderr)
        return 2
    found = list(matching(advisories, pinned(options.lock)))
    for line in found:
        print(line)
    print(f"{len(found)} known vulnerabilities in what {options.lock.name} pins")
    return 1 if found else 0


def asked() -> int:
    """By pip-audit, of the service."""
    command = [
        str(Path(sys.executable).with_name("pip-audit")),
        *("--requirement", str(ROOT / "requirements.hashes.txt"), "--disable-pip"),
        *("--require-hashes", "--progress-spinner", "off", "--strict"),
    ]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if ended.returncode and any(each in ended.stderr for each in (*UNREACHABLE, NOT_THERE)):
        print(NEEDS, file=sys.stderr)
        return 2
    sys.stderr.write(ended.stderr)
    return ended.returncode


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records that are not withdrawn."""
    if path.is_dir():
        texts: Iterable[bytes] = (each.read_bytes() for each in sorted(path.glob("*.json")))
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        texts = (archive.read(name) for name in archive.namelist() if name.endswith(".json"))
    else:
        texts = [path.read_bytes()]
    for text in texts:
        content = json.loads(text)
        for record in content if isinstance(content, list) else [content]:
            if not record.get("withdrawn"):
                yield record


def pinned(lock: Path) -> dict[str, Version]:
    """Name and version of each line."""
    lines = [Requirement(line) for line in lock.read_text().splitlines() if line[:1].isalnum()]
    return {
        canonicalize_name(each.name): Version(str(each.specifier).removeprefix("=="))
        for each in lines
    }


def matching(advisories: Iterable[dict[str, Any]], have: dict[str, Version]) -> Iterator[str]:
    """A line for each advisory about a version that is pinned."""
    for record in advisories:
        for affected in record.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(package.get("name", ""))
            if package.get("ecosystem") != "PyPI" or name not in have:
                continue
            if is_affected(have[name], affected):
                yield f"{name} {have[name]}: {record['id']} {record.get('summary', '')}".strip()
                break


def is_affected(version: Version, affected: dict[str, Any]) -> bool:
    """As OSV says: a version that is listed, or within a range of versions; in doubt, yes."""
    if any(_same(version, each) for each in affected.get("versions", [])):
        return True
    ranges = [each for each in affected.get("ranges", []) if each.get("type") == "ECOSYSTEM"]
    try:
        return any(within(version, each.get("events", [])) for each in ranges)
    except InvalidVersion:
        return True


def within(version: Version, events: list[dict[str, str]]) -> bool:
    """Events in the order of their versions: introduced, then fixed or last affected."""
    inside = False
    for event in sorted(events, key=lambda each: Version(next(iter(each.values())))):
        ((kind, at),) = event.items()
        if kind == "introduced" and version >= Version(at):
            inside = True
        elif (kind == "fixed" and version >= Version(at)) or (
            kind == "last_affected" and version > Version(at)
        ):
            inside = False
    return inside


def moment(text: str) -> datetime:
    """A moment of OSV's."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _same(version: Version, other: str) -> bool:
    try:
        return version == Version(other)
    except InvalidVersion:
        return False


if __name__ == "__main__":
    sys.exit(main())
