"""Tables on terminals of any width."""

from __future__ import annotations

import io

import pytest

from upweight.cli import table

HEADS = ("ID", "STATE", "MODEL", "METHOD", "SECONDS")
ID = "job_01JD0000000000000000000000"
ROW = (ID, "succeeded", "digits-mlp@12", "gauss_newton", "0.25")


class Terminal(io.StringIO):
    """What is written to it is kept."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("TERM", "dumb")  # no colours
    out = Terminal()
    table.show(HEADS, [ROW], out, spare=("SECONDS", "METHOD"))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("columns", "left_out"), [(90, []), (80, ["SECONDS"]), (70, ["SECONDS", "METHOD"])]
)
def test_what_a_terminal_is_too_narrow_for_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, columns: int, left_out: list[str]
) -> None:
    lines = drawn(monkeypatch, columns)
    assert max(map(len, lines)) <= columns
    (line,) = [each for each in lines if ID in each]  # whole, to be copied
    assert "digits-mlp@12" in line
    shown = [head for head in HEADS if head not in left_out]
    heads = next(each.split() for each in lines if each.split()[:1] == ["ID"])
    assert heads == shown
    told = [each for each in lines if "wider terminal" in each]
    assert bool(told) == bool(left_out)
    assert all(name in told[0] for name in left_out)


def test_an_id_is_broken_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(ID in line for line in drawn(monkeypatch, 50))
