"""Live modules as programs: any batch size, second derivatives, and words when it can't be."""

from __future__ import annotations

import gc
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from upweight import ExportFailed, export_program
from upweight.export import save_program


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.relu(self.norm(self.conv(x)))).flatten(1))


class Causal(nn.Module):
    """A stack that is given a mask, and maybe what it is."""

    def __init__(self, **what: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(4))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask, **self.what).mean(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(7, 2)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.embed(ids).mean(1), x], 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Calls(nn.Module):
    """Holds another module, so that a failure has a part to name."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class DecidesByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


class FixesBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 3)


class BatchSecond(nn.Module):
    """Gives the rows' states to a module that takes dimension 1 for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x, torch.zeros(1, x.shape[0], 2))[0]


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + torch.rand(())


def _normal(*shape: int) -> Any:
    return lambda n: (torch.randn(n, *shape),)


def _ids_and_numbers(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 10, (n, 3)), torch.randn(n, 3)


MODELS = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        _normal(3),
    ),
    "convolution": (Convolution, _normal(1, 8, 8)),
    "attention": (Attention, _normal(5, 16)),
    "frozen attention": (lambda: Attention().requires_grad_(False), _normal(5, 16)),
    "two inputs": (TwoInputs, _ids_and_numbers),
    "recurrent": (Recurrent, _normal(5, 3)),
}
_exported: dict[str, tuple[nn.Module, Any]] = {}


def program(kind: str) -> tuple[nn.Module, Any]:
    """The model, and its program as a worker sees it; exported once, from a batch of one."""
    if kind not in _exported:
        torch.manual_seed(0)
        build, rows = MODELS[kind]
        model = build()
        loaded = torch.export.load(io.BytesIO(export_program(model, rows(1))))
        _exported[kind] = model.eval(), loaded.module()
    return _exported[kind]


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("n", [1, 5, 33])
@pytest.mark.parametrize("kind", MODELS)
def test_program_gives_what_the_module_gives_at_any_batch_size(kind: str, n: int) -> None:
    model, exported = program(kind)
    inputs = MODELS[kind][1](n)
    torch.testing.assert_close(exported(*inputs), model(*inputs))


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "recurrent"])
def test_program_has_second_derivatives_both_ways(kind: str) -> None:
    _, exported = program(kind)
    inputs = MODELS[kind][1](4)
    parameters = {name: value.detach() for name, value in exported.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return functional_call(exported, values, inputs).square().mean()

    _, forward = jvp(grad(loss), (parameters,), (parameters,))
    backward = vjp(grad(loss), parameters)[1](parameters)[0]
    for name in parameters:
        torch.testing.assert_close(forward[name], backward[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["perceptron", "convolution", "attention"])
def test_program_has_a_gradient_per_example(kind: str) -> None:
    _, exported = program(kind)
    (x,) = MODELS[kind][1](4)
    parameters = {name: value.detach() for name, value in exported.named_parameters()}

    def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(exported, values, (row[None],)).square().mean()

    batched = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for name, value in grad(loss)(parameters, x[2]).items():
        torch.testing.assert_close(batched[name][2], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_program_names_parameters_as_the_module_does(kind: str) -> None:
    model, exported = program(kind)
    assert {n for n, _ in exported.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_inputs_may_be_named_and_arrays() -> None:
    ids, x = _ids_and_numbers(2)
    content = export_program(TwoInputs(), {"x": x.numpy(), "ids": ids.numpy()})
    exported = torch.export.load(io.BytesIO(content)).module()
    ids, x = _ids_and_numbers(5)
    assert exported(ids=ids, x=x).shape == (5, 2)


def test_module_is_left_as_it_was() -> None:
    model = Convolution()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_program(model, torch.randn(2, 1, 8, 8))
    assert model.training
    assert model.drop.training
    assert not model.norm.training
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_program_holds_no_line_or_path_of_the_source(kind: str) -> None:
    build, rows = MODELS[kind]
    with zipfile.ZipFile(io.BytesIO(export_program(build(), rows(2)))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in members.items():
        for telling in (b"test_export.py", b"self.head", b"site-packages", b"stack_trace"):
            assert telling not in content, name


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_module_gives_the_same_bytes_under_any_name(kind: str, tmp_path: Path) -> None:
    model, rows = program(kind)[0], MODELS[kind][1](2)
    contents = set()
    for name in ("one", "another"):
        save_program(model, rows, tmp_path / f"{name}.pt2")
        contents.add((tmp_path / f"{name}.pt2").read_bytes())
    assert len(contents) == 1


def test_a_torch_whose_archives_are_pickles_is_told_before_anything_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    with pytest.raises(ExportFailed, match=r"torch 2\.7\.1.*pip install 'torch>=2\.9'"):
        export_program(nn.Linear(2, 1), torch.zeros(2, 2))


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_garbage_collector_is_left_as_it_was(collecting: bool, frozen: bool) -> None:
    try:
        if frozen:
            gc.freeze()
        if not collecting:
            gc.disable()
        export_program(nn.Linear(3, 2), torch.randn(2, 3))
        assert gc.isenabled() == collecting
        assert (gc.get_freeze_count() > 0) == frozen
    finally:
        gc.unfreeze()
        gc.enable()


def test_program_holds_no_rows_of_the_example() -> None:
    secret = torch.full((2, 3), 0.123456789)
    content = export_program(nn.Linear(3, 2), secret)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert not any(secret[0, :1].numpy().tobytes() in body for body in members.values())


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (Calls(DecidesByValue()), torch.randn(2, 3), r"inner \(DecidesByValue\).*torch\.where"),
        (Calls(FixesBatch()), torch.randn(2, 3), r"inner \(FixesBatch\).*batch size is fixed"),
        (Draws(), torch.randn(2, 3), "random numbers"),
        (
            Calls(nn.BatchNorm1d(3, track_running_stats=False)),
            torch.randn(2, 3),
            r"inner \(BatchNorm1d.*GroupNorm",
        ),
        (nn.Linear(3, 2), "text", "no tensor"),
        (nn.Linear(3, 2), torch.tensor(1.0), "dimension 0 must be the batch"),
        (nn.Linear(3, 2), torch.randn(0, 3), "at least one"),
        (TwoInputs(), (torch.zeros(2, 3), torch.zeros(3, 3)), "same number of rows"),
        (nn.Linear(3, 2), np.zeros((2, 4), np.float32), "takes 3 features, the example has 4"),
        (Convolution(), torch.zeros(2, 3, 8, 8), "takes 1 channels, the example has 3"),
        (
            Convolution(),
            torch.zeros(2, 1, 9, 9),
            r"head \(Linear\) takes 144 features and gets 196",
        ),
        (nn.Linear(3, 2), torch.zeros(3), r"example of \(3,\) float32;.*give one row as x\[None\]"),
        (nn.Linear(3, 2), torch.zeros(7, 4), r"the example: \(7, 4\) float32"),
        (TwoInputs(), (torch.tensor([[10]]), torch.zeros(1, 3)), "takes 10 different tokens"),
        (nn.Linear(3, 2), np.zeros((2, 3)), "takes float32 and gets float64"),
        (TwoInputs(), torch.zeros(2, 3).long(), "missing 1 required positional argument: 'x'"),
        (BatchSecond(), torch.zeros(3, 5, 3), r"rnn \(RNN\) needs batch_first=True"),
        (Causal(), torch.zeros(2, 4, 8), r"encoder \(TransformerEncoder\).*is_causal=False"),
    ],
    ids=[
        "value",
        "batch",
        "random",
        "statistics",
        "text",
        "scalar",
        "empty",
        "ragged",
        "features",
        "channels",
        "size",
        "one row",
        "shape as given",
        "tokens",
        "dtype",
        "arguments",
        "batch second",
        "mask",
    ],
)
def test_what_cannot_be_exported_names_the_part_and_the_way_out(
    model: nn.Module, example: Any, words: str
) -> None:
    with pytest.raises(ExportFailed, match=words):
        export_program(model, example)
    assert model.training


@pytest.mark.parametrize("causal", [False, True])
def test_a_stack_that_is_told_what_its_mask_is_is_exported(causal: bool) -> None:
    assert export_program(Causal(is_causal=causal), torch.zeros(2, 4, 8))


class OwnLikelihood(nn.Module):
    """Its own loss by torch's function, which looks at the sign of the variances; here, of a row below eps, too."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        variance = nn.functional.softplus(self.variance(x)) * (x[:, :1] != 0)
        return nn.functional.gaussian_nll_loss(
            self.mean(x), y, variance, full=True, eps=1e-2, reduction="none"
        )[:, 0]


def test_a_gaussian_likelihood_within_forward_is_exported_as_torch_computes_it() -> None:
    torch.manual_seed(0)
    module, x, y = OwnLikelihood(), torch.randn(5, 3), torch.randn(5, 1)
    x[2, 0] = 0
    program = torch.export.load(io.BytesIO(export_program(module, (x[:3], y[:3])))).module()
    torch.testing.assert_close(program(x, y), module(x, y))
    wanted = torch.autograd.grad(module(x, y).sum(), list(module.parameters()))
    found = torch.autograd.grad(program(x, y).sum(), list(program.parameters()))
    torch.testing.assert_close(found, wanted)
