"""Nothing in a graph can become code: not a target, an argument, a name or a text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.programs.tampering import GRAPH, WEIGHTS, edit, first_node, members_of, write
from workers.programs.errors import GraphInvalid, OperatorRefused, ProgramError
from workers.programs.pt2 import read_pt2

ArchiveOf = Callable[[str], Path]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "target",
    [
        "_operator.attrgetter",
        "_operator.methodcaller",
        "_operator.__call__",
        "_operator.pow",
        "_operator.lshift",
        "_operator.setitem",
        "builtins.eval",
        "math.os.system",
        "torch.load",
        "torch.ops.load_library",
        "torch.hub.load",
        "torch._dynamo.config",
        "torch.serialization.pickle.loads",
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.relu.default.__class__",
        "torch.ops.aten.relu",
        "torch.ops.aten.relu.out",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten._unsafe_index.Tensor",
        "torch.ops.aten._print.default",
        "torch.ops.aten.add.str",
        "torch.ops.aten.mul.left_t",
        "torch.ops.aten.select.t",
        "torch.ops.aten.pow.int",
        "torch.ops.prims.rng_prims",
        "torch.ops.inductor.accumulate_grad_.default",
        "torch.ops.higher_order.cond",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "torch.ops.higher_order.aoti_call_delegate",
        "#namespace:op",
        "torch.ops.aten.linear.default\nimport os",
        "",
    ],
)
def test_only_listed_operators_are_called(target: str, mlp: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        first_node(document, "torch.ops.aten.linear.default")["target"] = target

    with pytest.raises(OperatorRefused):
        read_pt2(edit(mlp, tmp_path / "bad.pt2", GRAPH, change))


@pytest.mark.parametrize(
    "argument",
    [
        {"as_custom_obj": {"name": "x", "class_fqn": "y"}},
        {"as_operator": "torch.ops.aten.relu.default"},
        {"as_string_to_argument": {"a": {"as_int": 1}}},
        {"as_int": 1, "as_float": 2.0},
        {},
        {"as_expr": "1"},
        {"as_tensor": {"name": "x", "more": 1}},
        {"as_tensor": {"name": "x); import os; ("}},
    ],
)
def test_arguments_outside_the_schema_are_refused(
    argument: dict[str, Any], mlp: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.linear.default")
        node["inputs"][0]["arg"] = argument

    with pytest.raises(GraphInvalid):
        read_pt2(edit(mlp, tmp_path / "bad.pt2", GRAPH, change))


@pytest.mark.parametrize("name", ["x): import os #", "x\ny", "a b", "é", "", "1", "x=1", "'"])
def test_names_which_would_be_code_are_refused(name: str, mlp: Path, tmp_path: Path) -> None:
    members = members_of(mlp)
    text = members[GRAPH].decode().replace('"input"', json.dumps(name))
    with pytest.raises(ProgramError):
        read_pt2(write(tmp_path / "bad.pt2", {**members, GRAPH: text.encode()}))


@pytest.mark.parametrize(
    "name", ['0"); import os; ("', "__class__.x", "forward", "a..b", "graph", "class", "0.weight.x"]
)
def test_parameter_names_which_would_be_code_are_refused(
    name: str, mlp: Path, tmp_path: Path
) -> None:
    members = members_of(mlp)
    for member in (GRAPH, WEIGHTS):
        text = members[member].decode().replace('"2.weight"', json.dumps(name))
        members[member] = text.encode()
    with pytest.raises(ProgramError):
        read_pt2(write(tmp_path / "bad.pt2", members))


def test_text_arguments_are_only_ever_text(archive_of: ArchiveOf, tmp_path: Path) -> None:
    source = archive_of("loss")

    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.gelu.default")
        node["inputs"].append(
            {"name": "approximate", "arg": {"as_string": "'); import os; ('"}, "kind": 2}
        )

    program = read_pt2(edit(source, tmp_path / "bad.pt2", GRAPH, change))
    assert "import os" in program.module.code
    with pytest.raises(RuntimeError, match="approximate argument must be"):
        program.module(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
