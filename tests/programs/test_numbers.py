"""A program computes what the user's model computes, under every transform that influence needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.programs.tampering import GRAPH, edit
from tests.programs.zoo import CASES
from workers.engine import NoSuchParameter
from workers.engine.model.wrapping import observable
from workers.programs.outputs import return_chosen
from workers.programs.program import Program
from workers.programs.pt2 import read_pt2

ArchiveOf = Callable[[str], Path]
every_case = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore")


def _eager(name: str) -> nn.Module:
    model = CASES[name].model()
    return_chosen(model, None)
    return model


@every_case
def test_output_equals_eager_at_any_batch_size(name: str, archive_of: ArchiveOf) -> None:
    program, model = read_pt2(archive_of(name)), _eager(name)
    exact = not CASES[name].decomposed
    for n in (1, 5, 33):
        rows = CASES[name].rows(n)
        got, expected = program.module(*rows), model(*rows)
        torch.testing.assert_close(got, expected, **({"rtol": 0, "atol": 0} if exact else {}))


@every_case
def test_parameters_keep_names_order_values_and_ties(name: str, archive_of: ArchiveOf) -> None:
    program, model = read_pt2(archive_of(name)), _eager(name)
    got, expected = dict(program.module.named_parameters()), dict(model.named_parameters())
    assert list(got) == list(expected)
    assert [spec.name for spec in program.parameters] == list(expected)
    for key, value in expected.items():
        assert torch.equal(got[key], value)
        assert got[key].requires_grad == value.requires_grad


@every_case
def test_transforms_equal_eager(name: str, archive_of: ArchiveOf) -> None:
    program, model = read_pt2(archive_of(name)), _eager(name)
    rows = CASES[name].rows(3)
    with sdpa_kernel(SDPBackend.MATH):
        got, expected = _transforms(program.module, rows), _transforms(model, rows)
    for a, b in zip(got, expected, strict=True):
        for key in b:
            torch.testing.assert_close(a[key], b[key], rtol=2e-4, atol=2e-5, msg=key)


def _transforms(module: nn.Module, rows: tuple[torch.Tensor, ...]) -> list[dict[str, torch.Tensor]]:
    """Gradients a row, and the Hessian's product with θ, forward over reverse and twice reverse."""
    theta = {k: v.detach() for k, v in module.named_parameters() if v.requires_grad}

    def one(parameters: dict[str, torch.Tensor], *row: torch.Tensor) -> torch.Tensor:
        return functional_call(module, parameters, tuple(x[None] for x in row)).square().sum()

    def whole(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(module, parameters, rows).square().mean()

    def along(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum((g * theta[k]).sum() for k, g in grad(whole)(parameters).items())

    per_row = vmap(grad(one), (None, *(0 for _ in rows)))(theta, *rows)
    forward = jvp(grad(whole), (theta,), (theta,))[1]
    return [per_row, forward, grad(along)(theta)]


def test_tied_weights_are_one_parameter(archive_of: ArchiveOf) -> None:
    module = read_pt2(archive_of("attention")).module
    assert module.get_parameter("head.weight") is module.get_parameter("embed.weight")
    assert next(name for name, _ in module.named_parameters()) == "embed.weight"


def test_buffers_are_there_under_their_names(archive_of: ArchiveOf) -> None:
    buffers = dict(read_pt2(archive_of("attention")).module.named_buffers())
    assert float(buffers["scale"]) == 2.0
    assert float(buffers["hidden"]) == 0.5


def test_interface_is_described(archive_of: ArchiveOf) -> None:
    program: Program = read_pt2(archive_of("attention"))
    (ids,) = program.inputs
    assert (ids.name, ids.dtype, ids.shape, ids.example) == ("ids", "int64", (None, None), (4, 7))
    (output,) = program.outputs
    assert (output.name, output.shape) == ("logits", (None, None, 20))


def test_several_inputs_keep_names_and_order(archive_of: ArchiveOf) -> None:
    program = read_pt2(archive_of("loss"))
    assert [spec.name for spec in program.inputs] == ["input", "target"]
    assert [each.shape for each in program.outputs] == [(None,)]
    assert [spec.trainable for spec in program.parameters] == [False, True, True, True, True]


def test_a_copy_of_the_module_computes_the_same(archive_of: ArchiveOf) -> None:
    import copy

    program, rows = read_pt2(archive_of("residual")), CASES["residual"].rows(5)
    twin = copy.deepcopy(program.module)
    assert torch.equal(twin(*rows), program.module(*rows))
    assert [k for k, _ in twin.named_parameters()] == [s.name for s in program.parameters]


class _Inner(nn.Module):
    """A module in a module, called once."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": nn.Linear(4, 3)})
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body["first"](x)))


def _exported(model: nn.Module, path: Path) -> Path:
    rows = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(model.eval(), (torch.ones(2, 4),), dynamic_shapes=rows), path
    )
    return path


def test_the_output_of_an_inner_module_can_be_seen_and_changed(tmp_path: Path) -> None:
    model = _Inner()
    program = read_pt2(_exported(model, tmp_path / "inner.pt2")).module
    x = torch.randn(5, 4)
    seen: list[torch.Tensor] = []

    def halve(_module: nn.Module, _arguments: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output)
        return output / 2

    called, place = observable(program, "body.first")
    place.register_forward_hook(halve)
    changed = called(x)
    (inner,) = seen
    assert torch.equal(inner, model.body["first"](x))
    assert torch.equal(changed, model.head(torch.tanh(inner / 2)))
    assert torch.equal(program(x), model(x))


@pytest.mark.parametrize("path", ["body.first'", "body.first\nimport os", "x" * 30_000, "a..b"])
def test_names_of_modules_that_are_no_names_are_passed_over(path: str, tmp_path: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            node["metadata"]["nn_module_stack"] = f"key,{path},type"

    archive = _exported(_Inner(), tmp_path / "inner.pt2")
    program = read_pt2(edit(archive, tmp_path / "renamed.pt2", GRAPH, rename)).module
    assert program(torch.ones(3, 4)).shape == (3, 2)
    with pytest.raises(NoSuchParameter):
        observable(program, path)
