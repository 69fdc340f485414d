"""The JSON of an archive agrees with its bytes and with itself, or is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.programs.tampering import GRAPH, WEIGHTS, edit, first_node
from workers.programs.errors import GraphInvalid, ProgramError, TooLarge, WeightsInvalid
from workers.programs.limits import Limits
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")


def refusal(kind: type[ProgramError], path: Path, **options: Any) -> str:
    """The message with which reading is refused."""
    with pytest.raises(kind) as caught:
        read_pt2(path, **options)
    return caught.value.message


def test_too_many_nodes_are_refused(mlp: Path) -> None:
    refusal(GraphInvalid, mlp, limits=Limits(nodes=2))


def test_too_large_a_graph_is_not_parsed(mlp: Path) -> None:
    refusal(TooLarge, mlp, limits=Limits(graph_bytes=100))


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": [{"as_int": 1 << 40}, {"as_int": 4}]},
        {"sizes": [{"as_int": -1}, {"as_int": 4}]},
        {"strides": [{"as_int": 1 << 40}, {"as_int": 1}]},
        {"strides": [{"as_int": 0}, {"as_int": 0}], "sizes": [{"as_int": 1 << 30}] * 2},
        {"strides": [{"as_int": 1}]},
        {"storage_offset": {"as_int": 1}},
        {"storage_offset": {"as_int": -4}},
        {"dtype": 8},
        {"layout": 1},
        {"dtype": 29},
        {"sizes": [{"as_expr": {"expr_str": "1", "hint": None}}, {"as_int": 4}]},
        {"sizes": [{"as_int": 1}] * 40, "strides": [{"as_int": 1}] * 40},
    ],
)
def test_weights_must_fit_their_bytes(change: dict[str, Any], mlp: Path, tmp_path: Path) -> None:
    bad = edit(
        mlp,
        tmp_path / "bad.pt2",
        WEIGHTS,
        lambda d: d["config"]["0.weight"]["tensor_meta"].update(change),
    )
    with pytest.raises((WeightsInvalid, GraphInvalid)):
        read_pt2(bad)


def test_a_parameter_without_bytes_is_refused(mlp: Path, tmp_path: Path) -> None:
    bad = edit(mlp, tmp_path / "bad.pt2", WEIGHTS, lambda d: d["config"].pop("0.weight"))
    assert "0.weight" in refusal(GraphInvalid, bad)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema_version", "major"], 7),
        (["schema_version", "minor"], 99),
        (["graph_module", "unknown"], 1),
        (["graph_module", "graph", "custom_obj_values"], {"x": {"name": "x", "class_fqn": "y"}}),
        (["graph_module", "graph", "nodes"], "many"),
        (["guards_code"], [1]),
    ],
)
def test_what_the_schema_does_not_know_is_refused(
    path: list[str], value: Any, mlp: Path, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        *folders, last = path
        for folder in folders:
            document = document[folder]
        document[last] = value

    assert "model.json" in refusal(GraphInvalid, edit(mlp, tmp_path / "bad.pt2", GRAPH, change))


def test_a_name_used_before_it_is_made_is_refused(mlp: Path, tmp_path: Path) -> None:
    bad = edit(
        mlp,
        tmp_path / "bad.pt2",
        GRAPH,
        lambda d: d["graph_module"]["graph"]["nodes"].reverse(),
    )
    assert "before it is made" in refusal(GraphInvalid, bad)


def test_an_unknown_argument_is_refused(mlp: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        first_node(document, "torch.ops.aten.tanh.default")["inputs"][0]["name"] = "out"

    refusal(GraphInvalid, edit(mlp, tmp_path / "bad.pt2", GRAPH, change))


def test_many_views_of_few_bytes_are_refused(mlp: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        source = document["config"]["0.weight"]
        for i in range(1, 9):
            view = json.loads(json.dumps(source))
            view["tensor_meta"]["sizes"][0]["as_int"] = 8 - (i + 1) // 2
            view["tensor_meta"]["storage_offset"]["as_int"] = i % 2
            document["config"][f"view{i}"] = view

    bad = edit(mlp, tmp_path / "bad.pt2", WEIGHTS, change)
    assert "too many views" in refusal(WeightsInvalid, bad)


def test_a_number_in_the_place_of_a_dtype_is_refused(mlp: Path, tmp_path: Path) -> None:
    """torch would read past its table of dtypes."""

    def change(document: dict[str, Any]) -> None:
        node = first_node(document, "torch.ops.aten.tanh.default")
        node["target"] = "torch.ops.aten.to.dtype"
        node["inputs"].append({"name": "dtype", "arg": {"as_int": -1}, "kind": 1})

    path = edit(mlp, tmp_path / "m.pt2", GRAPH, change)
    assert "a number for its dtype" in refusal(GraphInvalid, path)
