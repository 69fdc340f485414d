"""The loss takes the tensor that is named, of all that a model returns; nothing is taken because it comes first."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.programs.tampering import GRAPH, edit
from upweight.export import exported, save_exported, save_program
from upweight.export.outputs import OutputUnclear
from workers.programs.check import exercise
from workers.programs.errors import GraphInvalid, OutputUnsupported
from workers.programs.outputs import as_tuple, return_chosen
from workers.programs.pt2 import Pt2Policy, read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")


class Pair(NamedTuple):
    features: Tensor
    logits: Tensor


@dataclasses.dataclass
class Scores:
    features: Tensor
    logits: Tensor
    extra: Tensor | None = None


@dataclasses.dataclass
class Plain:
    """Not known to torch's pytree."""

    features: Tensor
    logits: Tensor


torch.export.register_dataclass(Scores, serialized_type_name="tests.Scores")

Wrap = Callable[[Tensor, Tensor], Any]
WAYS: dict[str, tuple[Wrap, Any]] = {
    "a tuple": (lambda f, z: (f, z), 1),
    "a list": (lambda f, z: [f, z], 1),
    "a named tuple": (Pair, "logits"),
    "a place of a named tuple": (Pair, 1),
    "a dict": (lambda f, z: {"features": f, "logits": z}, "logits"),
    "a place of a dict": (lambda f, z: {"features": f, "logits": z}, 1),
    "an ordered dict": (lambda f, z: OrderedDict(z=f, a=z), "a"),
    "a dict in a dict": (lambda f, z: {"aux": f, "heads": {"a": f, "b": z}}, "heads.b"),
    "a tuple in a tuple": (lambda f, z: (f, (f, z)), "1.1"),
    "the one tensor of a part": (lambda f, z: {"loss": z.mean(), "out": (None, z)}, "out"),
    "a registered dataclass": (Scores, "logits"),
    "a scalar loss before it": (lambda f, z: {"loss": z.mean(), "logits": z}, "logits"),
    "integers beside it": (lambda f, z: (z.argmax(1), z), 1),
    "numbers beside it": (lambda f, z: (f, 3, None, z), 3),
}


class Net(nn.Module):
    """Features and logits, put into something."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.wrap, self.body, self.head = wrap, nn.Linear(5, 3), nn.Linear(3, 4)

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh())

    def forward(self, x: Tensor) -> Any:
        features = self.body(x).tanh()
        return self.wrap(features, self.head(features))


def net(wrap: Wrap) -> Net:
    torch.manual_seed(0)
    return Net(wrap).eval()


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def foreign(module: nn.Module, path: Path) -> Path:
    """As a user saves it, with all that the module returns."""
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(module, (X,), dynamic_shapes=batch), path)
    return path


@pytest.mark.parametrize("policy", [Pt2Policy.SANITIZED, Pt2Policy.TRUSTED])
@pytest.mark.parametrize("way", [each for each in WAYS if "named" not in each])
def test_an_archive_gives_what_is_named(way: str, policy: Pt2Policy, tmp_path: Path) -> None:
    wrap, output = WAYS[way]
    module = net(wrap)
    program = read_pt2(foreign(module, tmp_path / "m.pt2"), output=output, policy=policy)
    torch.testing.assert_close(program.module(X), module.logits(X))
    assert [each.shape for each in program.outputs] == [(None, 4)]
    exercise(program)


@pytest.mark.parametrize("way", WAYS)
def test_a_live_module_is_exported_with_what_is_named_alone(way: str, tmp_path: Path) -> None:
    wrap, output = WAYS[way]
    module = net(wrap)
    program = exported(module, X, output=output)
    save_exported(program, tmp_path / "m.pt2")
    (name,) = program.module()(X)
    read = read_pt2(tmp_path / "m.pt2", output=name)
    torch.testing.assert_close(read.module(X), module.logits(X))
    assert [each.name for each in read.outputs] == [name]
    assert not module._forward_hooks


def test_a_dataclass_that_torch_does_not_know_can_be_exported(tmp_path: Path) -> None:
    module = net(Plain)
    save_program(module, X, tmp_path / "m.pt2", output="logits")
    program = read_pt2(tmp_path / "m.pt2", output="logits")
    torch.testing.assert_close(program.module(X), module.logits(X))


@pytest.mark.parametrize("way", WAYS)
def test_a_live_module_with_several_outputs_is_refused_without_a_name(way: str) -> None:
    with pytest.raises(OutputUnclear, match=r"returns \d tensors.*output=.*float32 \(n, 4\)"):
        exported(net(WAYS[way][0]), X)


@pytest.mark.parametrize("policy", [Pt2Policy.SANITIZED, Pt2Policy.TRUSTED])
def test_an_archive_with_several_outputs_is_refused_with_their_names_and_shapes(
    policy: Pt2Policy, tmp_path: Path
) -> None:
    path = foreign(net(WAYS["a dict in a dict"][0]), tmp_path / "m.pt2")
    with pytest.raises(OutputUnsupported) as caught:
        read_pt2(path, policy=policy)
    assert caught.value.field == "/output"
    for each in ("'aux' float32 (n, 3)", "'heads.a' float32 (n, 3)", "'heads.b' float32 (n, 4)"):
        assert each in caught.value.message
    for wanted in ("logits", "heads", 7, "head"):
        with pytest.raises(OutputUnsupported, match=r"heads\.b"):
            read_pt2(path, policy=policy, output=wanted)


@pytest.mark.parametrize(
    "wrap", [lambda f, z: z, lambda f, z: (z,), lambda f, z: {"a": None, "b": z}]
)
def test_one_tensor_needs_no_name(wrap: Wrap, tmp_path: Path) -> None:
    module = net(wrap)
    program = read_pt2(foreign(module, tmp_path / "m.pt2"))
    torch.testing.assert_close(program.module(X), module.logits(X))
    save_program(module, X, tmp_path / "n.pt2")
    torch.testing.assert_close(read_pt2(tmp_path / "n.pt2").module(X), module.logits(X))


def test_what_is_named_must_have_rows_and_be_of_real_numbers(tmp_path: Path) -> None:
    path = foreign(net(lambda f, z: (z.mean(), z.argmax(1), z)), tmp_path / "m.pt2")
    with pytest.raises(OutputUnsupported, match="one row per example"):
        exercise(read_pt2(path, output=0))
    with pytest.raises(OutputUnsupported, match=r"int64.*scores"):
        exercise(read_pt2(path, output=1))
    exercise(read_pt2(path, output=2))


def test_two_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    module = net(lambda f, z: {"features": f, "logits": z})
    program = read_pt2(foreign(module, tmp_path / "m.pt2"), output=("logits", "features"))
    logits, features = as_tuple(program.module(X))
    assert (logits.shape, features.shape) == ((6, 4), (6, 3))
    assert [each.name for each in program.outputs] == ["logits", "features"]


def test_a_module_that_says_what_it_returns_only_when_it_runs_is_refused_then() -> None:
    module = net(Plain)
    return_chosen(module, None)
    with pytest.raises(OutputUnsupported, match="'logits' float32"):
        module(X)
    module = net(Plain)
    return_chosen(module, "logits")
    torch.testing.assert_close(module(X), module.logits(X))


@pytest.mark.parametrize(
    "spec",
    [
        "[", "[]", "{}", "[1, {}]", '[1, {"type": "builtins.tuple", "context": "null"}]',
        '[1, {"type": null, "context": null, "children_spec": []}]', "[" * 100_000,
        '[1, {"type": "builtins.dict", "context": "[", "children_spec": []}]',
    ],
)  # fmt: skip
def test_a_description_of_outputs_that_is_not_torchs_is_refused(spec: str, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec

    path = foreign(net(WAYS["a dict"][0]), tmp_path / "m.pt2")
    with pytest.raises(GraphInvalid):
        read_pt2(edit(path, tmp_path / "edited.pt2", GRAPH, change), output=0)
