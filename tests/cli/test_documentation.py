"""`docs/cli.md` says what the command does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.test_help import ALL
from upweight.cli.exits import Exit

PAGE = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text()


def test_every_exit_code_is_explained() -> None:
    table = PAGE.partition("| exit code |")[2]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)] == [*map(int, Exit)]


def test_every_command_is_named() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `upweight")]
    named = set()
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        noun, *verbs = first.removeprefix("upweight ").split()
        named |= {(noun, *verbs)} | {(noun, other) if verbs else (other,) for other in others}
    assert named == set(ALL)
