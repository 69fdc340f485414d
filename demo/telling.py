"""What the demo prints: steps of a story, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from demo.digits import Digits
from demo.journey import Cleaned, Line, found_among_lowest

INSPECTED = 0.10  # of the training rows, for the table
HEADS = (
    "method",
    "influence",
    "shape",
    "seconds",
    "passes",
    "from direct",
    "solutions",
    "flipped found",
)


def step(words: str) -> None:
    """One line of the story."""
    print(f"\n• {words}", flush=True)


def table(lines: Sequence[Line], digits: Digits) -> None:
    """A line a computation: what it took, how far it is from the exact one, what it found."""
    rows = [HEADS, *(_row(line, digits) for line in lines)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    print()
    for row in rows:
        print(
            "  "
            + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def before_and_after(cleaned: Cleaned, flipped: int) -> None:
    """What dropping the suspects changed on the test digits; both numbers, whichever way they went."""
    training = cleaned.model.training
    assert training is not None
    before, after = training.parent_metrics, training.metrics
    assert before is not None
    assert after is not None
    print(
        f"      {cleaned.flipped} of the {flipped} flipped labels are among the {cleaned.dropped} dropped rows"
    )
    print(f"      loss      {before.loss:.4f} before, {after.loss:.4f} after")
    if before.accuracy is not None and after.accuracy is not None:
        print(f"      accuracy  {before.accuracy:.2%} before, {after.accuracy:.2%} after")


def _row(line: Line, digits: Digits) -> tuple[str, ...]:
    cost, summary = line.result.job.cost, line.result.info.summary
    found = ""
    if line.type == "up" and len(line.values) == len(digits.y_test):
        count, inspected = found_among_lowest(line.result, digits, INSPECTED)
        found = f"{count} of {len(digits.flipped)} in {inspected}"
    return (
        line.method,
        line.type,
        " × ".join(map(str, line.result.shape)),
        f"{cost.seconds:.2f}" if cost else "?",
        f"{cost.hessian_passes:g}" if cost else "?",
        f"{line.gap:.1e}" if line.gap else "0",
        _ended(summary),
        found,
    )


def _ended(summary: dict[str, object]) -> str:
    statuses = summary.get("statuses")
    if not isinstance(statuses, dict):
        return ""
    return ", ".join(f"{count} {name}" for name, count in statuses.items())
