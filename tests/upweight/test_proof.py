"""An exported program has the gradients of the live module, or is refused with the part that it can't be for.

Right is what plain torch says: the live module's own gradients, and Hessians by its double backward in float64.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from upweight import ExportFailed, export_program
from upweight.export import save_exported
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp(-20.0, 20.0)


class Surrogate(torch.autograd.Function):
    """A spike, with the slope of a sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * 5 * x.sigmoid() * (1 - x.sigmoid())


class Swish(torch.autograd.Function):
    """A backward of its own that is the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * (s + x * s * (1 - s))


class Net(nn.Module):
    """Two layers, and a way to compute with them."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.zeros(()))
        self._computed = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._computed(self, x)


class Applied(nn.Module):
    """A function as a part, so that it has a name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _frozen_backbone(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = torch.tanh(net.body(x))
    return net.head(hidden)


@torch.no_grad()
def _encoded(net: Net, x: Tensor) -> Tensor:
    return torch.tanh(net.body(x))


def _inference(net: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        hidden = torch.tanh(net.body(x))
    return net.head(hidden.clone())


def _switched(net: Net, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    hidden = torch.tanh(net.body(x))
    torch.set_grad_enabled(True)
    return net.head(hidden)


def _nested(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = torch.tanh(net.body(x))
        with torch.enable_grad():
            seen = net.head(hidden)
        constant = seen * hidden
    return seen * constant + net.body(x)


def _partly(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = net.body(x).softmax(-1)
    return net.head(weight * net.body(x))


def _temporal_difference(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        target = 0.9 * net.head(torch.tanh(net.body(x.flip(1)))).amax(1)
    return (net.head(torch.tanh(net.body(x))) - target[:, None]).square()


def _data(net: Net, x: Tensor) -> Tensor:
    return net.head(torch.tanh(net.body(x)).data)


def _detached_in_place(net: Net, x: Tensor) -> Tensor:
    hidden = torch.tanh(net.body(x))
    hidden.detach_()
    return net.head(hidden)


def _checkpoint(net: Net, x: Tensor) -> Tensor:
    return net.head(checkpoint(lambda rows: torch.tanh(net.body(rows)), x, use_reentrant=False))


def _autocast(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = torch.tanh(net.body(x))
    return net.head(hidden.to(net.head.weight.dtype))


def _attention_without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        each = net.body(x)[:, :, None]
        looked = F.scaled_dot_product_attention(each, each, each)[:, :, 0]
    return net.head(looked * net.body(x))


HELD: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "no_grad around the body": _frozen_backbone,
    "no_grad as a decorator": lambda net, x: net.head(_encoded(net, x)),
    "inference mode": _inference,
    "gradients switched off and on": _switched,
    "gradients within no_grad": _nested,
    "no_grad around one use of two": _partly,
    "a target of its own": _temporal_difference,
    "the data of a tensor": _data,
    "detached in place": _detached_in_place,
    "a checkpoint": _checkpoint,
    "autocast": _autocast,
    "attention under no_grad": _attention_without_gradients,
    "a backward that is the derivative": lambda net, x: net.head(Swish.apply(net.body(x))),
}


def _hooked(net: Net, x: Tensor) -> Tensor:
    hidden = net.body(x)
    if hidden.requires_grad:
        hidden.register_hook(lambda gradient: 2 * gradient)
    return net.head(hidden)


def _small_outputs(net: Net, x: Tensor) -> Tensor:
    return net.head(Straight.apply(3 * net.body(x))) * 1e-6


def _behind_a_gate(net: Net, x: Tensor) -> Tensor:
    return net.head(net.body(x)) + net.gate * Straight.apply(3 * net.body(x))


def _second_output(net: Net, x: Tensor) -> Any:
    hidden = net.body(x)
    return net.head(hidden), 1e-7 * Reversed.apply(hidden)


def _clamped_under_no_grad(net: Net, x: Tensor) -> Tensor:
    hidden = net.body(x)
    with torch.no_grad():
        hidden.clamp_(-0.1, 0.1)
    return net.head(hidden)


OUTPUT = {"a second output": 1}  # the place of what the loss takes, where there are several
LOST: dict[str, tuple[Callable[[Net, Tensor], Any], str]] = {
    "straight-through": (lambda net, x: net.head(Straight.apply(3 * net.body(x))), "Straight"),
    "gradient reversal": (lambda net, x: net.head(Reversed.apply(net.body(x))), "Reversed"),
    "clipping": (lambda net, x: net.head(Clipped.apply(net.body(x))), "Clipped"),
    "a surrogate": (lambda net, x: net.head(Surrogate.apply(net.body(x))), "Surrogate"),
    "a hook on an activation": (_hooked, "a hook on a tensor in forward"),
    "small outputs": (_small_outputs, "Straight"),
    "a gate at zero": (_behind_a_gate, "Straight"),
    "a second output": (_second_output, "Reversed"),
    "written to under no_grad": (
        _clamped_under_no_grad,
        r"writes to a tensor under torch\.no_grad",
    ),
}


def rows(count: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


def program(net: nn.Module, **options: Any) -> nn.Module:
    content = export_program(net, rows(), **options)
    loaded: nn.Module = torch.export.load(io.BytesIO(content)).module()
    return loaded


def loss(module: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(module(x), torch.arange(len(x)) % 3)


def hessian(module: nn.Module, names: list[str]) -> Tensor:
    """By double backward, in the module's own precision."""
    parameters = [module.get_parameter(name) for name in names]
    x = rows(dtype=torch.float64)

    def flat(value: Tensor, **kept: Any) -> Tensor:
        found = torch.autograd.grad(value, parameters, allow_unused=True, **kept)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
        )  # fmt: skip

    gradient = flat(loss(module, x), create_graph=True)
    rows_of_it = [
        flat(each, retain_graph=True) if each.requires_grad else torch.zeros(len(gradient))
        for each in gradient
    ]
    return torch.stack([gradient.detach(), *(row.double() for row in rows_of_it)])


@pytest.mark.parametrize("kind", HELD)
def test_gradient_and_hessian_of_the_program_are_those_of_the_module(kind: str) -> None:
    net = Net(HELD[kind]).double()
    names = [name for name, _ in net.named_parameters()]
    held = torch.export.load(io.BytesIO(export_program(net, rows(dtype=torch.float64)))).module()
    torch.testing.assert_close(hessian(held, names), hessian(net, names), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["no_grad around the body", "gradients within no_grad"])
def test_a_program_of_ones_own_keeps_its_regions_where_a_worker_reads_it(
    kind: str, tmp_path: Path
) -> None:
    net = Net(HELD[kind]).double().eval()
    shapes = ({0: torch.export.Dim("batch")},)
    own = torch.export.export(net, (rows(dtype=torch.float64),), dynamic_shapes=shapes)
    save_exported(own, tmp_path / "own.pt2")
    names = [name for name, _ in net.named_parameters()]
    held = read_pt2(tmp_path / "own.pt2").module
    torch.testing.assert_close(hessian(held, names), hessian(net, names), rtol=1e-12, atol=1e-12)


def test_a_backward_that_fails_is_told() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        hidden = net.body(x).sigmoid()
        seen = net.head(hidden)
        hidden.mul_(2)
        return seen

    with pytest.raises(ExportFailed, match=r"its backward fails.*modified by an inplace operation"):
        export_program(Net(forward), rows())


@pytest.mark.parametrize("kind", LOST)
def test_a_backward_that_a_graph_cannot_hold_is_refused(kind: str) -> None:
    forward, words = LOST[kind]
    net = Net(forward)
    with pytest.raises(ExportFailed, match=f"Net: its backward is not the derivative.*{words}"):
        export_program(net, rows(), output=OUTPUT.get(kind))


def test_the_refusal_names_the_innermost_part_and_a_way_out() -> None:
    quantised = nn.Sequential(nn.Linear(4, 4), Applied(Straight.apply), nn.Linear(4, 3))
    net = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"quantised": quantised})["quantised"])
    with pytest.raises(ExportFailed, match=r"^1\.1 \(Applied\).*Straight.*\.detach\(\)"):
        export_program(net, rows())


WRITTEN: dict[str, Callable[[Tensor], None]] = {
    "under torch.no_grad": lambda hidden: torch.no_grad()(lambda: hidden.mul_(2))(),
    "through .data": lambda hidden: hidden.data.clamp_(-0.1, 0.1),
    "puts other numbers into a tensor": lambda hidden: setattr(hidden, "data", hidden.data * 2),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_the_line_that_writes_to_a_tensor_behind_autograd_is_named(how: str) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        hidden = net.body(x)
        WRITTEN[how](hidden)
        return net.head(hidden)

    with pytest.raises(ExportFailed, match=rf"^Net: .*`.*lambda hidden: .*`, which .*{how}"):
        export_program(Net(forward), rows())


def test_a_part_in_torchscript_is_named_with_the_way_out() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    net = nn.Sequential(nn.Linear(4, 4), scripted)
    with pytest.raises(
        ExportFailed, match=r"^1 \(scripted Sequential\) is TorchScript.*state_dict"
    ):
        export_program(net, rows())
    with pytest.raises(ExportFailed, match=r"^Sequential is TorchScript"):
        export_program(scripted, rows())


def test_the_way_out_for_a_straight_through_estimator_is_taken() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        hidden = 3 * net.body(x)
        return net.head(hidden + (hidden.round() - hidden).detach())

    straight = Net(lambda net, x: net.head(Straight.apply(3 * net.body(x))))
    held, names = program(Net(forward)).double(), ["body.weight", "head.weight"]
    torch.testing.assert_close(
        hessian(held, names), hessian(straight.double(), names), rtol=1e-9, atol=1e-9
    )


def test_hooks_on_a_parameter_and_on_a_module_are_refused_with_its_name() -> None:
    hooked = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    hooked[0].weight.register_hook(lambda gradient: gradient / 2)
    with pytest.raises(ExportFailed, match=r"^0 \(Linear\).*a hook on the parameter 'weight'"):
        export_program(hooked, rows())
    halved = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    halved[1].register_full_backward_hook(lambda _part, into, _out: (into[0] / 2,))
    with pytest.raises(ExportFailed, match=r"^1 \(Tanh\).*a backward hook on itself"):
        export_program(halved, rows())


def test_hooks_that_only_look_are_no_difference() -> None:
    seen: list[Tensor] = []
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    net[0].weight.register_hook(lambda gradient: seen.append(gradient))
    net[1].register_forward_hook(lambda *_: None)
    export_program(net, rows())
    assert seen


def test_what_is_frozen_is_compared_when_it_is_chosen_and_stays_frozen() -> None:
    net = Net(lambda net, x: net.head(Reversed.apply(net.body(x.detach()))))
    net.body.requires_grad_(False)
    held = torch.export.load(io.BytesIO(export_program(net, rows())))
    trains = {name: value.requires_grad for name, value in held.state_dict.items()}
    assert trains == {name: value.requires_grad for name, value in net.named_parameters()}
    with pytest.raises(ExportFailed, match=r"'body\.(weight|bias)'"):
        export_program(net, rows(), parameters=["body.*"])
    assert not net.body.weight.requires_grad


def test_the_comparison_leaves_parameters_and_gradients_alone() -> None:
    net = Net(HELD["no_grad around one use of two"])
    before = copy.deepcopy(net.state_dict())
    places = {name: value.data_ptr() for name, value in net.named_parameters()}
    export_program(net, rows())
    assert all(value.grad is None for value in net.parameters())
    assert places == {name: value.data_ptr() for name, value in net.named_parameters()}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


GOOD = {
    "numbers that made-up rows have none of": lambda x: x.abs().log(),
    "a logarithm of the inputs": lambda x: (x - x.detach().amin() + 1).log(),
    "chaos": lambda x: torch.sin(1e6 * x),
    "gradients that cancel": lambda x: F.layer_norm(x.softmax(-1), (4,)),
    "small outputs": lambda x: 1e-7 * x.tanh(),
}


@pytest.mark.parametrize("kind", [*GOOD, "half precision", "attention", "recurrent"])
def test_good_models_are_not_refused_for_rounding(kind: str) -> None:
    torch.manual_seed(0)
    x = rows()
    net: nn.Module = nn.Sequential(nn.Linear(4, 4), Applied(GOOD.get(kind, torch.tanh)))
    if kind == "half precision":
        net, x = net.bfloat16(), x.bfloat16()
    if kind == "attention":
        net, x = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), x[:, None].repeat(1, 3, 1)
    if kind == "recurrent":
        net, x = nn.GRU(4, 3, batch_first=True), x[:, None].repeat(1, 3, 1)
        export_program(net, x, output=0)
        return
    export_program(net, x)
