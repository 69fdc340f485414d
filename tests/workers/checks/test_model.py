"""The check of a model, on rows that differ and that the model takes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from upweight.export import exported, save_program
from upweight.export.example_rows import MEMBER, encoded_rows
from workers.checks.model import check_model
from workers.programs.errors import GraphInvalid, InputUnsupported, OutputUnsupported

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Forward(nn.Module):
    """A few layers and a function of them and the inputs."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)


def with_inputs(count: int, function: Callable[..., Tensor], **layers: nn.Module) -> nn.Module:
    class One(Forward):
        def forward(self, x: Tensor) -> Tensor:
            return self.function(self, x)

    class Two(Forward):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.function(self, x, y)

    return (One, Two)[count - 1](function, **layers)


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def of(
        module: nn.Module,
        *example: Tensor,
        loss: str = "mse",
        sent: bool = False,
    ) -> dict[str, Any]:
        path = tmp_path / "m.pt2"
        save_program(module, example, path, with_rows=sent)
        return check_model("pt2", str(path), {"name": loss}, ["*"], "sanitized")

    return of


def refusal(report: Mapping[str, Any]) -> str:
    return str(report["refusal"]["detail"])


def test_integers_that_are_looked_up_differ_and_stay_within_the_table(
    check: Callable[..., dict[str, Any]],
) -> None:
    # Of three columns with a table each, one of two numbers; and of a table that is shared by offsets.
    tables = nn.ModuleList([nn.Embedding(size, 3) for size in (2, 3, 900)])
    shared = nn.Embedding(7, 3)

    def forward(m: Any, t: Tensor) -> Tensor:
        own = torch.stack([table(t[:, at]) for at, table in enumerate(m.tables)], 1)
        offset = m.shared(t[:, 3:] + torch.tensor([0, 5]))
        h = torch.cat([own, offset], 1)
        return m.l(h.flatten(1) - m.mix * h.flatten(1).mean(0))

    for mixing in (0.0, 1e-3):
        module = with_inputs(1, forward, tables=tables, shared=shared, l=nn.Linear(15, 2))
        module.register_buffer("mix", torch.tensor(mixing))
        report = check(module, torch.zeros(2, 5, dtype=torch.int64))
        assert ("refusal" in report) == (mixing > 0), report
        if mixing:
            assert "mean" in refusal(report)


def test_numbers_from_1_are_looked_up_too(check: Callable[..., dict[str, Any]]) -> None:
    module = with_inputs(1, lambda m, t: m.e(t - 1).mean(1).cumsum(0), e=nn.Embedding(4, 3))
    assert "cumsum" in refusal(check(module, torch.ones(2, 3, dtype=torch.int64)))


def test_one_hot_and_gather_bound_their_indices(check: Callable[..., dict[str, Any]]) -> None:
    def forward(m: Any, t: Tensor) -> Tensor:
        scores = m.e(F.one_hot(t, 3).float())
        return scores.gather(2, t[:, :, None]).squeeze(2)

    module = with_inputs(1, forward, e=nn.Linear(3, 3))
    assert "refusal" not in check(module, torch.zeros(2, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, y: F.cross_entropy(m.l(x), y, reduction="none"),
        lambda m, x, y: F.nll_loss(m.l(x).log_softmax(1), y, reduction="none"),
        lambda m, x, y: 2 * F.cross_entropy(m.l(x), y, reduction="none", label_smoothing=0.1),
        lambda m, x, y: F.cross_entropy(m.l(x), y, reduction="none") * (y > 0),
    ],
)
def test_losses_without_reduction_are_programs(
    check: Callable[..., dict[str, Any]], function: Callable[..., Tensor]
) -> None:
    module = with_inputs(2, function, l=nn.Linear(6, 3))
    report = check(module, torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), loss="program")
    assert "refusal" not in report
    assert report["outputs"][0]["shape"] == [None]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, y: F.cross_entropy(m.l(x), y),
        lambda m, x, y: F.cross_entropy(m.l(x), y, reduction="sum"),
    ],
)
def test_a_mean_over_the_batch_is_no_loss_per_row(
    check: Callable[..., dict[str, Any]], function: Callable[..., Tensor]
) -> None:
    module = with_inputs(2, function, l=nn.Linear(6, 3))
    with pytest.raises(OutputUnsupported, match=r"reduction='none'"):
        check(module, torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), loss="program")


@pytest.mark.parametrize("sent", [False, True])
def test_targets_between_0_and_1_are_found(
    check: Callable[..., dict[str, Any]], sent: bool
) -> None:
    module = with_inputs(
        2,
        lambda m, x, y: F.binary_cross_entropy(m.l(x).sigmoid()[:, 0], y, reduction="none"),
        l=nn.Linear(6, 1),
    )
    x, y = torch.randn(4, 6), torch.ones(4)
    report = check(module, x, y, loss="program", sent=sent)
    assert "refusal" not in report


def test_the_example_is_taken_where_no_made_up_row_would_do(
    check: Callable[..., dict[str, Any]],
) -> None:
    # 17 and 4 alone are keys of this table: a made-up number finds nothing, and the row has no value.
    def forward(m: Any, t: Tensor) -> Tensor:
        known = torch.stack([t == 17, t == 4], -1).double()
        weights = known / known.sum(-1, keepdim=True)
        h = m.l(weights.float()).mean(1)
        return h - 0.1 * h.mean(0)

    module = with_inputs(1, forward, l=nn.Linear(2, 2))
    t = torch.tensor([[17, 4, 4], [4, 17, 17], [17, 17, 4]])
    report = check(module, t, sent=True)
    assert "mean" in refusal(report)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": torch.randn(2, 4)}, r"float32 \[2, 4\].*\[None, 3\]"),
        ({"x": torch.randn(2, 3).double()}, "float64"),
        ({"z": torch.randn(2, 3)}, "'z'"),
        ({"x": torch.randn(0, 3)}, "same number of rows"),
        (None, "not a whole safetensors file"),
    ],
)
def test_an_example_that_the_program_can_not_take_is_refused(
    tensors: dict[str, Tensor] | None, words: str, tmp_path: Path
) -> None:
    program = exported(with_inputs(1, lambda m, x: m.l(x), l=nn.Linear(3, 2)), torch.randn(2, 3))
    content = base64.b64encode(save(tensors)).decode() if tensors else "Zm9yZ2Vk"
    torch.export.save(program, tmp_path / "m.pt2", extra_files={MEMBER: content})
    with pytest.raises(InputUnsupported, match=words):
        check_model("pt2", str(tmp_path / "m.pt2"), {"name": "mse"}, ["*"], "sanitized")


def test_of_a_long_example_the_first_rows_are_sent() -> None:
    module = with_inputs(1, lambda m, x: m.l(x), l=nn.Linear(3, 2))
    x = torch.randn(100, 3)
    sent = encoded_rows(exported(module, x), x)
    assert sent is not None
    assert torch.equal(load(base64.b64decode(sent))["x"], x[:16])
    wide = torch.randn(3, 30_000)
    module = with_inputs(1, lambda m, x: m.l(x), l=nn.Linear(30_000, 2))
    sent = encoded_rows(exported(module, wide), {"x": wide})
    assert sent is not None
    assert len(load(base64.b64decode(sent))["x"]) == 2
    assert encoded_rows(exported(module, wide), wide.repeat(1, 3)) is None


def test_rows_are_sent_under_the_names_of_a_dict_example() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(3, 2)

        def forward(self, X: Tensor, scale: Tensor) -> Tensor:
            return self.l(X) * scale

    given = {"scale": torch.rand(4, 1), "X": torch.randn(4, 3)}
    sent = encoded_rows(exported(Net(), given), given)
    assert sent is not None
    found = load(base64.b64decode(sent))
    assert {name.lower() for name in found} == {"x", "scale"}
    assert torch.equal(found["scale"], given["scale"])


def test_rows_that_no_made_up_value_fits_are_told_apart_from_a_wrong_batch(
    check: Callable[..., dict[str, Any]],
) -> None:
    module = with_inputs(1, lambda m, t: m.e(t[:, 0] - 50), e=nn.Embedding(4, 3))
    t = torch.tensor([[50, 1], [53, 2], [51, 1]])
    with pytest.raises(
        GraphInvalid, match="takes certain values only, register it with an example"
    ):
        check(module, t)
    assert "refusal" not in check(module, t, sent=True)


def test_rows_without_a_value_are_left_out_and_are_not_taken_for_chance(
    check: Callable[..., dict[str, Any]],
) -> None:
    def forward(m: Any, x: Tensor, count: Tensor) -> Tensor:
        inside = (torch.arange(x.shape[1]) < count[:, None])[..., None]
        h = m.l((x * inside).sum(1) / count[:, None])  # of no members: 0/0
        return h - m.mix * h.nan_to_num().mean(0)

    for mixing in (0.0, 1e-3):
        module = with_inputs(2, forward, l=nn.Linear(4, 1))
        module.register_buffer("mix", torch.tensor(mixing))
        report = check(module, torch.randn(3, 6, 4), torch.tensor([3, 2, 6]))
        assert ("refusal" in report) == (mixing > 0), report


def test_an_operation_over_rows_that_fails_on_one_row_is_named(
    check: Callable[..., dict[str, Any]],
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.l(x)
        return h * (h >= h.topk(2, 0).values[-1])

    torch.manual_seed(0)  # one draw of rows in some thirteen does not show that they mix
    with pytest.raises(OutputUnsupported, match=r"topk.*risk set"):
        check(with_inputs(1, forward, l=nn.Linear(4, 3)), torch.randn(4, 4))
