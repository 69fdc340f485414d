"""The grammar of symbolic sizes."""

import pytest
import torch

from workers.engine.model.training import training_behaviour
from workers.programs.errors import GraphInvalid
from workers.programs.expressions import Symbolic, parse_expression
from workers.programs.operators import ALLOWED

S77 = "Symbol('s77', positive=True, integer=True)"


@pytest.mark.parametrize(
    ("text", "symbols", "bare"),
    [
        (S77, {"s77"}, True),
        ("Symbol('s0')", {"s0"}, True),
        ("Integer(4)", set(), False),
        (f"Mul(Integer(2), {S77})", {"s77"}, False),
        (
            f"Add(Mul(Integer(-1), {S77}), Symbol('u0', integer=True), Integer(3))",
            {"s77", "u0"},
            False,
        ),
        (f"FloorDiv({S77}, Integer(2))", {"s77"}, False),
        (f"Pow({S77}, Rational(1, 2))", {"s77"}, False),
        ("Float('0.5', precision=53)", set(), False),
        ("-3", set(), False),
    ],
)
def test_sizes_are_understood(text: str, symbols: set[str], bare: bool) -> None:
    assert parse_expression(text) == Symbolic(frozenset(symbols), bare)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s77",
        "__import__('os').system('true')",
        "Symbol('s77').__class__",
        "Symbol('a', b=exec('x'))",
        "Lambda(Symbol('x'), Symbol('x'))",
        "Function('f')(Integer(1))",
        "Symbol('s77'))",
        "Symbol(",
        "Symbol()",
        "Mul(Integer(2)",
        "Integer(2) Integer(3)",
        "Integer(1)+Integer(2)",
        "Symbol('s\\'7')",
        "[1]",
        "Mul(" * 500 + "Integer(1)" + ")" * 500,
        "9" * 10_000,
        "Symbol('s77', positive=Symbol('x'))",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(GraphInvalid):
        parse_expression(text)


def test_every_allowed_operator_exists() -> None:
    assert [name for name in sorted(ALLOWED) if not hasattr(torch.ops.aten, name)] == []


def test_no_allowed_operator_is_random_but_by_an_argument_that_is_checked() -> None:
    switched_on = {"train": True, "training": True, "p": 0.5, "dropout": 0.5, "dropout_p": 0.5}
    found = 0
    for name in ALLOWED:
        packet = getattr(torch.ops.aten, name)
        for overload in (getattr(packet, each) for each in packet.overloads()):
            if torch.Tag.nondeterministic_seeded in overload.tags:
                assert training_behaviour(overload, switched_on) == "chance", overload
                found += 1
    assert found > 5


def test_uninitialised_memory_and_files_are_out_of_reach() -> None:
    assert not {
        name for name in ALLOWED
        if name.startswith(("empty", "new_empty", "from_", "set", "resize", "as_strided", "_print"))
    }  # fmt: skip
