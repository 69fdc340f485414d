"""The operator is the Hessian of the mean over ALL rows, whatever the batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.exact import Exact, relative
from tests.engine.matrices import with_damping
from tests.engine.models import make
from workers.engine import (
    BadParameter,
    Batch,
    Hessian,
    NotFinite,
    OutOfMemory,
    Problem,
    ShapeMismatch,
    TensorRows,
    make_loss,
)
from workers.engine.autodiff.derivative import Derivative, Sums
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.nodes import BackwardContext, Smooth
from workers.engine.autodiff.select import products_of
from workers.engine.model.second_order import twice_differentiable

PERCEPTRON = make("perceptron")
PROBLEM = Problem(PERCEPTRON.module, make_loss("cross_entropy"))
EXACT = Exact(PERCEPTRON).hessian
vectors_of = st.integers(0, 2**31 - 1).map(
    lambda seed: torch.randn(
        3, PROBLEM.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
)
few = settings(max_examples=15, deadline=None)


class Hoarder(TensorRows):
    """Rows on a device where a batch of more than `fits` rows runs out of memory."""

    def __init__(self, inputs: Tensor, targets: Tensor, fits: int) -> None:
        super().__init__(inputs, targets)
        self.fits = fits
        self.sizes: list[int] = []

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for batch in super().batches(size, start, stop):
            self.sizes.append(len(batch))
            if len(batch) > self.fits:
                # As a slow operator would find out: the batch is there, the work fails.
                yield Batch((Explosive(batch.inputs[0]),), batch.targets, batch.start)
            else:
                yield batch


class Explosive(torch.Tensor):
    """A tensor that no device has room for."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.Tensor.to:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__torch_function__(func, types, args, kwargs)


@given(batch_size=st.integers(1, 40), vectors=vectors_of)
@few
def test_no_batch_size_changes_the_product(batch_size: int, vectors: Tensor) -> None:
    hessian = with_damping(Hessian(PROBLEM, PERCEPTRON.train, batch_size=batch_size), 0.3)
    assert relative(hessian.matmat(vectors), vectors @ EXACT + 0.3 * vectors) < 1e-12


@given(seed=st.integers(0, 1000), vectors=vectors_of)
@few
def test_no_order_of_the_rows_changes_the_product(seed: int, vectors: Tensor) -> None:
    order = torch.randperm(PERCEPTRON.train_count, generator=torch.Generator().manual_seed(seed))
    shuffled = PERCEPTRON.train.take(order)
    hessian = Hessian(PROBLEM, TensorRows(shuffled.inputs, shuffled.target_tensors[0]))
    assert relative(hessian.matmat(vectors), vectors @ EXACT) < 1e-12


@given(vectors=vectors_of)
@few
def test_the_product_is_symmetric(vectors: Tensor) -> None:
    gram = Hessian(PROBLEM, PERCEPTRON.train).matmat(vectors) @ vectors.T
    torch.testing.assert_close(gram, gram.T)


@given(vectors=vectors_of, factor=st.floats(-10, 10))
@few
def test_the_product_is_linear(vectors: Tensor, factor: float) -> None:
    hessian = with_damping(Hessian(PROBLEM, PERCEPTRON.train), 0.1)
    left = hessian.matmat(vectors[:1] + factor * vectors[1:2])
    images = hessian.matmat(vectors)
    torch.testing.assert_close(left, images[:1] + factor * images[1:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", products_of(PROBLEM), ids=lambda way: way.name)
def test_every_way_of_multiplying_is_exact(way: Derivative) -> None:
    batch = next(PERCEPTRON.train.batches(PERCEPTRON.train_count))
    vectors = torch.randn(4, PROBLEM.size, dtype=torch.float64)
    with twice_differentiable():
        found = way.prepare(PROBLEM, batch)(vectors) / PERCEPTRON.train_count
    assert relative(found, vectors @ EXACT) < 1e-12


def test_the_dense_form_has_no_damping_and_is_symmetric_to_the_last_bit() -> None:
    dense = with_damping(Hessian(PROBLEM, PERCEPTRON.train, batch_size=6), 5.0).dense()
    assert relative(dense, EXACT) < 1e-12
    assert torch.equal(dense, dense.T)


def test_passes_and_products_are_counted() -> None:
    hessian = Hessian(PROBLEM, PERCEPTRON.train)
    hessian.matmat(torch.ones(3, PROBLEM.size, dtype=torch.float64))
    hessian.matmat(torch.ones(1, PROBLEM.size, dtype=torch.float64))
    assert (hessian.passes, hessian.products) == (2, 4)


def test_a_sample_of_rows_has_its_own_mean() -> None:
    hessian = with_damping(Hessian(PROBLEM, PERCEPTRON.train, batch_size=2), 0.2)
    picked = torch.tensor([4, 1, 7])
    part = PERCEPTRON.train.take(picked)
    vectors = torch.randn(2, PROBLEM.size, dtype=torch.float64)
    alone = with_damping(Hessian(PROBLEM, TensorRows(part.inputs, part.target_tensors[0])), 0.2)
    assert relative(hessian.sampled_matmat(picked, vectors), alone.matmat(vectors)) < 1e-12


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    rows = Hoarder(PERCEPTRON.inputs[0][3:], PERCEPTRON.train_targets, fits=5)
    hessian = Hessian(PROBLEM, rows, batch_size=16)
    vectors = torch.randn(2, PROBLEM.size, dtype=torch.float64)
    assert relative(hessian.matmat(vectors), vectors @ EXACT) < 1e-12
    assert hessian.batch_size == 4
    rows.sizes.clear()
    hessian.matmat(vectors)
    assert rows.sizes == [4, 4, 4, 4, 4]  # what was learnt is kept


def test_a_batch_that_ends_memory_half_way_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of its products some are in the sums by then."""
    whole, calls = Linearized.add, 0

    def halfway(linearized: Linearized, vectors: Tensor, sums: Sums) -> None:
        nonlocal calls
        calls += 1
        whole(linearized, vectors, sums)
        if calls == 4:  # the second block of vectors of the second batch
            raise torch.OutOfMemoryError("CUDA out of memory")

    hessian = with_damping(Hessian(PROBLEM, PERCEPTRON.train, batch_size=8, product="graph"), 0.1)
    vectors = torch.randn(6, PROBLEM.size, dtype=torch.float64)
    monkeypatch.setattr("workers.engine.model.batching.VECTORS_AT_ONCE", {"cpu": 3})
    monkeypatch.setattr(Linearized, "add", halfway)
    assert relative(hessian.matmat(vectors), vectors @ EXACT + 0.1 * vectors) < 1e-12
    assert calls > 4
    assert hessian.batch_size == 4
    assert hessian.passes == 1


def test_where_not_even_one_row_fits_it_says_so() -> None:
    rows = Hoarder(PERCEPTRON.inputs[0], PERCEPTRON.targets, fits=20)
    hessian = Hessian(PROBLEM, rows, batch_size=20)
    rows.fits = 0
    with pytest.raises(OutOfMemory):
        hessian.matmat(torch.ones(1, PROBLEM.size, dtype=torch.float64))


def test_a_small_budget_means_small_batches_and_the_same_result() -> None:
    inputs = torch.randn(400, 4, dtype=torch.float64)
    rows = TensorRows(inputs, torch.arange(400) % 3)
    small = Hessian(PROBLEM, rows, budget_bytes=200_000)
    large = Hessian(PROBLEM, rows, budget_bytes=1 << 30)
    assert small.batch_size < large.batch_size / 2
    vectors = torch.randn(70, PROBLEM.size, dtype=torch.float64)
    assert relative(small.matmat(vectors), large.matmat(vectors)) < 1e-12


def test_progress_is_told_of_every_batch_and_may_cancel() -> None:
    class Cancelled(BaseException):
        pass

    told: list[tuple[str, int, int, str]] = []

    def tell(stage: str, done: int, total: int, unit: str) -> None:
        told.append((stage, done, total, unit))
        if done == 12:
            raise Cancelled

    hessian = Hessian(PROBLEM, PERCEPTRON.train, batch_size=6, progress=tell)
    with pytest.raises(Cancelled):
        hessian.matmat(torch.ones(1, PROBLEM.size, dtype=torch.float64))
    # Between the trials of ways of multiplying, before the first batch, it is told of row 0.
    assert told[0] == ("hessian pass", 0, 20, "rows")
    assert [each for each in told if each[1]] == [
        ("hessian pass", 6, 20, "rows"),
        ("hessian pass", 12, 20, "rows"),
    ]


@pytest.mark.parametrize("what", ["input", "target"])
def test_a_nan_in_the_data_names_its_row(what: str) -> None:
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    (x if what == "input" else y)[7] = float("nan")
    problem = Problem(nn.Linear(2, 1).eval(), make_loss("mse"))
    with pytest.raises(NotFinite, match=what) as caught:
        Hessian(problem, TensorRows(x, y), batch_size=4).matmat(torch.ones(1, 3))
    assert caught.value.row == 7


def test_a_loss_that_overflows_names_its_row() -> None:
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    x[5] = 1e30
    problem = Problem(nn.Sequential(nn.Linear(2, 1)).eval(), make_loss("mse"))
    with pytest.raises(NotFinite) as caught:
        Hessian(problem, TensorRows(x, y), batch_size=4).matmat(torch.ones(1, 3))
    assert caught.value.row == 5


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_an_impossible_damping_is_refused(damping: float) -> None:
    with pytest.raises(BadParameter, match="hessian_regularization"):
        with_damping(Hessian(PROBLEM, PERCEPTRON.train), damping)


def test_no_rows_are_refused() -> None:
    with pytest.raises(BadParameter, match="at least one training row"):
        Hessian(PROBLEM, TensorRows(torch.randn(0, 4), torch.zeros(0, dtype=torch.int64)))


def test_vectors_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        Hessian(PROBLEM, PERCEPTRON.train).matmat(torch.ones(PROBLEM.size, dtype=torch.float64))


def test_a_second_derivative_that_is_zero_is_a_zero_hessian() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ self.weight - y

    problem = Problem(Linear().eval(), make_loss("program"))
    hessian = with_damping(Hessian(problem, TensorRows(torch.randn(5, 2), torch.randn(5))), 0.5)
    assert torch.equal(hessian.dense(), torch.zeros(2, 2))


def wide_classifier() -> tuple[nn.Module, TensorRows]:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 70))
    inputs = torch.randn(11, 2, 2, dtype=torch.float64)
    return module.double().eval(), TensorRows(inputs, torch.arange(11) * 6)


@pytest.mark.parametrize("parameters", [("*",), ("1.*",), ("3.weight",), ("*.bias",)])
def test_the_written_out_product_is_that_of_autograd_for_any_selection(
    parameters: tuple[str, ...],
) -> None:
    module, rows = wide_classifier()
    problem = Problem(module, make_loss("cross_entropy", label_smoothing=0.1), parameters)
    batch = next(rows.batches(11))
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    ways = {each.name: each for each in products_of(problem)}
    found = ways["graph"].prepare(problem, batch)(vectors)
    expected = ways["reverse_loop"].prepare(problem, batch)(vectors)
    assert relative(found, expected) < 1e-12


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Sigmoid(), nn.LeakyReLU(0.2)],
    ids=lambda each: type(each).__name__,
)
def test_the_written_out_product_knows_activations(activation: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 2), nn.Tanh()).double()
    problem = Problem(module.eval(), make_loss("mse"))
    batch = Batch((torch.randn(9, 4).double(),), torch.randn(9, 2).double(), 0)
    vectors = torch.randn(3, problem.size, dtype=torch.float64)
    ways = {each.name: each for each in products_of(problem)}
    found = ways["graph"].prepare(problem, batch)(vectors)
    expected = ways["reverse_loop"].prepare(problem, batch)(vectors)
    assert relative(found, expected) < 1e-12


def test_what_is_prepared_is_kept_only_within_the_budget() -> None:
    prepared: list[int] = []

    class Counting(TensorRows):
        def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            for batch in super().batches(size, start, stop):
                prepared.append(len(batch))
                yield batch

    rows = Counting(PERCEPTRON.inputs[0][3:], PERCEPTRON.train_targets)
    vectors = torch.randn(1, PROBLEM.size, dtype=torch.float64)
    kept, dropped = Hessian(PROBLEM, rows), Hessian(PROBLEM, rows, budget_bytes=5_000)
    for hessian in (kept, dropped):
        for _ in range(2):
            assert relative(hessian.matmat(vectors), vectors @ EXACT) < 1e-12
    assert kept._sums.prepared
    assert not dropped._sums.prepared


def test_it_is_a_mean_so_rows_given_twice_change_nothing() -> None:
    inputs, targets = PERCEPTRON.inputs[0][3:], PERCEPTRON.train_targets
    twice = TensorRows(torch.cat([inputs, inputs]), torch.cat([targets, targets]))
    assert relative(Hessian(PROBLEM, twice, batch_size=7).dense(), EXACT) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reducing_within_a_row_never_reduces_over_rows(reduction: str) -> None:
    problem = Problem(nn.Linear(2, 3).double().eval(), make_loss("mse", reduction=reduction))
    x, y = torch.randn(12, 2).double(), torch.randn(12, 3).double()
    dense = Hessian(problem, TensorRows(x, y), batch_size=5).dense()
    # Closed form: 2 E[xxᵀ] for each output, over 3 of them where the mean is taken.
    expected = 2 * torch.kron(torch.eye(3).double(), x.T @ x / 12)
    assert relative(dense[:6, :6], expected / (3 if reduction == "mean" else 1)) < 1e-12


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_function_of_expanded_tensors_is_moved_along_with_the_signal_into_it() -> None:
    value = torch.randn(3, 1, dtype=torch.float64).expand(3, 4)
    cotangent = torch.randn(1, 4, dtype=torch.float64).expand(3, 4)
    moved, r_cotangent = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    node = Smooth("node", ("x",), torch.exp, (value,), cotangent)
    context = BackwardContext({}, [moved], None, r_cotangent, {}, wanted=True)
    (found,) = node.r_backward(context)
    torch.testing.assert_close(found, value.exp() * (moved * cotangent + r_cotangent))
    torch.testing.assert_close(node.forward([moved], {"w": moved}), value.exp() * moved)
