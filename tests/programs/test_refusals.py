"""Programs that can't be used are refused, with the way out in the message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.programs.zoo import BATCH
from workers.programs.check import exercise
from workers.programs.errors import (
    BatchNotDynamic,
    InputUnsupported,
    OperatorRefused,
    OutputUnsupported,
    PolicyRefused,
    ProgramError,
    RandomOperator,
    TrainMode,
)
from workers.programs.pt2 import Pt2Policy, read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")
Exporter = Callable[..., Path]


class Plain(nn.Module):
    """A module of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, *rows: torch.Tensor) -> Any:
        return self.function(self, *rows)


@pytest.fixture
def exported(tmp_path: Path) -> Exporter:
    """Exports a function of (module, x) or a module, and says where to."""

    def export(
        model: Any,
        *rows: torch.Tensor,
        dynamic: Any = None,
        train: bool = False,
        core: bool = False,
    ) -> Path:
        rows = rows or (torch.randn(4, 3),)
        module = model if isinstance(model, nn.Module) else Plain(model)
        shapes = dynamic or tuple({0: BATCH} for _ in rows)
        if isinstance(module, Plain):
            shapes = (shapes,)
        program = torch.export.export(module.train(train), rows, dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if core else program, tmp_path / "m.pt2")
        return tmp_path / "m.pt2"

    return export


def refusal(kind: type[ProgramError], path: Path, **options: Any) -> str:
    """The message with which reading is refused."""
    with pytest.raises(kind) as caught:
        read_pt2(path, **options)
    assert type(caught.value) is kind
    assert caught.value.field.startswith("/program")
    return caught.value.message


def test_static_batch_says_how_to_make_it_dynamic(exported: Exporter) -> None:
    path = exported(nn.Linear(3, 2), dynamic=({0: None},))
    words = refusal(BatchNotDynamic, path)
    assert 'dynamic_shapes=({0: torch.export.Dim("batch")},)' in words
    assert "[4, 3]" in words


def test_one_static_input_among_several_is_refused(exported: Exporter) -> None:
    rows = (torch.randn(4, 3), torch.randn(3, 3))
    path = exported(lambda _, x, w: x @ w, *rows, dynamic=({0: BATCH}, {0: None}))
    assert "rows_1" in refusal(BatchNotDynamic, path)


def test_large_minimum_of_the_batch_is_refused(exported: Exporter) -> None:
    path = exported(nn.Linear(3, 2), dynamic=({0: torch.export.Dim("batch", min=3)},))
    assert "without min" in refusal(InputUnsupported, path)


def test_maximum_of_the_batch_is_told(exported: Exporter) -> None:
    path = exported(nn.Linear(3, 2), dynamic=({0: torch.export.Dim("batch", min=2, max=64)},))
    assert read_pt2(path).batch_maximum == 64


@pytest.mark.parametrize("core", [False, True])
def test_batch_norm_in_training_mode_is_refused(exported: Exporter, core: bool) -> None:
    path = exported(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), train=True, core=core)
    assert "model.eval()" in refusal(TrainMode, path)


def test_dropout_in_training_mode_is_refused(exported: Exporter) -> None:
    path = exported(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), train=True)
    assert "model.eval()" in refusal(RandomOperator, path)


def test_random_numbers_are_refused(exported: Exporter) -> None:
    path = exported(lambda _, x: x + torch.randn_like(x))
    assert "random" in refusal(RandomOperator, path)


def test_a_buffer_that_is_written_to_is_refused(exported: Exporter) -> None:
    def count(self: Plain, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return x * self.seen

    assert "buffer" in refusal(TrainMode, exported(count))


def test_an_input_that_is_written_to_is_refused(exported: Exporter) -> None:
    path = exported(lambda _, x: x.mul_(2))
    assert "input" in refusal(OperatorRefused, path)
    path = exported(lambda _, x: x.mul_(2), core=True)
    assert "input" in refusal(OutputUnsupported, path)


def test_writing_through_a_view_asks_for_decompositions(exported: Exporter) -> None:
    def zero_first(self: Plain, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        y[:, 0] = 0
        return y

    assert "run_decompositions" in refusal(OperatorRefused, exported(zero_first))
    program = read_pt2(exported(zero_first, core=True))
    assert torch.all(program.module(torch.randn(5, 3))[:, 0] == 0)


def test_writing_in_place_is_seen_by_later_readers(exported: Exporter) -> None:
    def twice(self: Plain, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        z = y.relu_()
        z += 1
        return y * z

    module, x = Plain(twice), torch.randn(5, 3)
    assert torch.equal(read_pt2(exported(module)).module(x), module(x))


def test_writing_to_outer_tensors_without_gradients_is_refused(exported: Exporter) -> None:
    def clip(self: Plain, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        with torch.no_grad():
            y.clamp_(max=0.5)
        return y

    refusal(OperatorRefused, exported(clip))


@pytest.mark.parametrize("layer", [nn.PReLU(), nn.Dropout(0.5), nn.Upsample(scale_factor=2)])
def test_layers_in_place_after_composites_work(exported: Exporter, layer: nn.Module) -> None:
    module, x = (
        nn.Sequential(nn.Conv1d(2, 2, 3), layer, nn.Hardswish(inplace=True)).eval(),
        (torch.randn(4, 2, 8)),
    )
    if isinstance(layer, nn.Dropout):
        layer.inplace = True
    assert torch.equal(read_pt2(exported(module, x)).module(x), module(x))


def test_instance_norm_is_per_example(exported: Exporter) -> None:
    module, x = (
        nn.Sequential(nn.Conv1d(2, 2, 3), nn.InstanceNorm1d(2, affine=True)),
        torch.randn(4, 2, 8),
    )
    for core in (False, True):
        program = read_pt2(exported(module, x, core=core))
        torch.testing.assert_close(program.module(x), module.eval()(x))
        assert set(exercise(program)[0]["transforms"].values()) == {None}


def test_in_place_keeps_the_dtype(exported: Exporter) -> None:
    def low(self: Plain, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x).half()
        y += x
        return y

    assert read_pt2(exported(low)).module(torch.randn(2, 3)).dtype == torch.float16


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.linear(x).mean(),
        lambda m, x: m.linear(x).sum(0),
        lambda m, x: m.linear.weight,
    ],
)
def test_outputs_without_rows_are_refused(exported: Exporter, function: Any) -> None:
    program = read_pt2(exported(function))
    with pytest.raises(OutputUnsupported, match="one row per example"):
        exercise(program)


def test_no_tensor_output_is_refused(exported: Exporter) -> None:
    path = exported(lambda m, x: x.shape[0])
    assert "no tensor" in refusal(OutputUnsupported, path)


def test_data_dependent_shapes_are_refused(exported: Exporter) -> None:
    path = exported(lambda m, x: functional.relu(x) * torch.unique(x).shape[0])
    refusal(OperatorRefused, path)


def test_sparse_gradients_are_refused(exported: Exporter) -> None:
    path = exported(nn.Embedding(5, 3, sparse=True), torch.zeros(4, dtype=torch.int64))
    assert "sparse=False" in refusal(OperatorRefused, path)


def test_policy_reject_reads_nothing(mlp: Path) -> None:
    assert "factory" in refusal(PolicyRefused, mlp, policy=Pt2Policy.REJECT)


def test_policy_trusted_gives_the_same_program(mlp: Path) -> None:
    ours, theirs = read_pt2(mlp), read_pt2(mlp, policy=Pt2Policy.TRUSTED)
    x = torch.randn(5, 4)
    assert torch.equal(ours.module(x), theirs.module(x))
    assert (ours.inputs, ours.outputs, ours.parameters) == (
        theirs.inputs,
        theirs.outputs,
        theirs.parameters,
    )
