"""The table of what users of other tools expect: each ✓ has a test that is there, each ✗ a reason."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (ROOT / "docs" / "expectations.md").read_text().splitlines()
    if " ✓ |" in line or " ✗ |" in line
]


def test_what_is_there_names_a_test_that_is_there() -> None:
    named = [re.findall(r"`([^`]+)::(test_\w+)`", row[3]) for row in ROWS if row[2] == "✓"]
    assert all(named)
    for file, test in (each for row in named for each in row):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_what_is_not_there_has_its_reason() -> None:
    reasons = [row[3] for row in ROWS if row[2] == "✗"]
    assert len(reasons) > 5
    assert all(len(reason.split()) > 3 for reason in reasons)
