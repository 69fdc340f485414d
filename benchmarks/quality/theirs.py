"""The peers' scores of the same model and rows, each in an environment of its own; POSITIVE is helpful.

Imports torch alone at first: which library is there depends on the environment.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quality.setups import Setup

Found = Iterator[tuple[str, float | None, Tensor]]  # method, λ where it has one, (m, n)
RANK = 100
MOST_DENSE = 5000  # parameters of which a matrix (p, p), and its copies, are no trouble
TRAK_DIMENSIONS = 512


def kronfluence(setup: Setup, module: nn.Sequential, dampings: Sequence[float]) -> Found:
    """EK-FAC and K-FAC, labels drawn from the predictions, one fit for all λ's."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class OfRows(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            outputs, targets = model(batch[0]), batch[1]
            if setup.loss == "mse":
                if sample:
                    targets = outputs.detach() + torch.randn_like(outputs) * 0.5**0.5
                return F.mse_loss(outputs, targets, reduction="sum")
            if sample:
                targets = torch.multinomial(outputs.detach().softmax(-1), 1).flatten()
            return F.cross_entropy(outputs, targets, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task = OfRows()
    model = prepare_model(module, task)
    train, test = TensorDataset(*setup.train), TensorDataset(*setup.test)
    for strategy in ("ekfac", "kfac"):
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "quality", model=model, task=task, cpu=True, disable_tqdm=True, output_dir=folder
            )
            analyzer.fit_all_factors(
                factors_name=strategy, dataset=train, per_device_batch_size=256,
                factor_args=FactorArguments(strategy=strategy),
            )  # fmt: skip
            for damping in dampings:
                analyzer.compute_pairwise_scores(
                    scores_name=f"at{damping}", factors_name=strategy, query_dataset=test,
                    train_dataset=train, per_device_query_batch_size=len(test),
                    per_device_train_batch_size=256,
                    score_args=ScoreArguments(damping_factor=damping),
                )  # fmt: skip
                scores = analyzer.load_pairwise_scores(f"at{damping}")["all_modules"]
                yield "EK-FAC" if strategy == "ekfac" else "K-FAC", damping, scores


def pydvl(setup: Setup, module: nn.Sequential, dampings: Sequence[float]) -> Found:
    """Direct with the Hessian and with Gauss-Newton, cg, Arnoldi, LiSSA."""
    from pydvl.influence.torch import ArnoldiInfluence, CgInfluence, DirectInfluence, LissaInfluence
    from pydvl.influence.torch.util import SecondOrderMode

    warnings.filterwarnings("ignore")
    module, (train, test) = module.double(), _doubled(setup)
    loss = F.cross_entropy if setup.loss == "cross_entropy" else F.mse_loss
    loader = DataLoader(TensorDataset(*train), len(train[0]))
    newton = SecondOrderMode.GAUSS_NEWTON
    makers: dict[str, Callable[[float], Any]] = {
        "direct, Hessian": lambda at: DirectInfluence(module, loss, at),
        "direct, Gauss-Newton": lambda at: DirectInfluence(
            module, loss, at, second_order_mode=newton
        ),
        "cg, Gauss-Newton": lambda at: CgInfluence(
            module, loss, at, solve_simultaneously=True, maxiter=300, second_order_mode=newton
        ),
        f"Arnoldi {RANK}": lambda at: ArnoldiInfluence(
            module, loss, at, rank=RANK, second_order_mode=newton
        ),
        "LiSSA": lambda at: LissaInfluence(
            module, loss, at, maxiter=1000, scale=100.0, second_order_mode=newton
        ),
    }
    if _size(module) > MOST_DENSE:
        makers = {name: each for name, each in makers.items() if "direct" not in name}
    for name, make in makers.items():
        for damping in dampings:
            try:
                fitted = make(damping).fit(loader)
                yield name, damping, fitted.influences(*test, *train)
            except Exception as error:  # a table goes on without
                print(f"pyDVL {name} at {damping:g}: {type(error).__name__}: {error}"[:200])


def dattri(setup: Setup, module: nn.Sequential, dampings: Sequence[float]) -> Found:
    """Explicit, cg, Arnoldi, LiSSA, gradient products, TRAK with one model, EK-FAC."""
    from dattri.algorithm.influence_function import (
        IFAttributorArnoldi,
        IFAttributorCG,
        IFAttributorExplicit,
        IFAttributorLiSSA,
    )
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask
    from torch.func import functional_call

    rows_loss = F.cross_entropy if setup.loss == "cross_entropy" else F.mse_loss

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = (
            each if each.ndim > one else each[None] for each, one in zip(data, alone, strict=True)
        )
        return rows_loss(functional_call(module, params, (inputs,)), targets)

    def margin(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        found = torch.exp(-loss(params, data))
        return torch.log(found) - torch.log(1 - found + 1e-12)

    def chance(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return torch.exp(-loss(params, data))

    alone = (setup.train[0].ndim - 1, setup.train[1].ndim - 1)
    train, test = (
        DataLoader(TensorDataset(*rows), len(rows[0]), shuffle=False)
        for rows in (setup.train, setup.test)
    )
    task = AttributionTask(loss_func=loss, model=module, checkpoints=module.state_dict())
    makers: dict[str, Callable[[float], Any]] = {
        "explicit": lambda at: IFAttributorExplicit(task, regularization=at),
        "cg, 10 steps": lambda at: IFAttributorCG(task, max_iter=10, regularization=at),
        f"Arnoldi {RANK}": lambda at: IFAttributorArnoldi(
            task, proj_dim=RANK, max_iter=RANK, regularization=at
        ),
        "LiSSA": lambda at: IFAttributorLiSSA(
            task, recursion_depth=500, batch_size=50, damping=at, scaling=100.0
        ),
    }
    if _size(module) > MOST_DENSE:
        del makers["explicit"]
    for name, make in makers.items():
        for damping in dampings:
            try:
                attributor = make(damping)
                attributor.cache(train)
                with torch.no_grad():
                    yield name, damping, attributor.attribute(train, test).T
            except Exception as error:
                print(f"dattri {name} at {damping:g}: {type(error).__name__}: {error}"[:200])
    plain = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
    with torch.no_grad():
        yield "TracIn", None, plain.attribute(train, test).T
    if setup.loss != "cross_entropy":
        return
    # As TRAK has it: features are gradients of the margin, of training and of test rows.
    target = AttributionTask(loss_func=margin, model=module, checkpoints=module.state_dict())
    for damping in dampings:
        trak = TRAKAttributor(
            target, chance, projector_kwargs={"proj_dim": TRAK_DIMENSIONS}, regularization=damping
        )
        trak.cache(train)
        with torch.no_grad():
            yield "TRAK-1", damping, trak.attribute(test).T


def _size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _doubled(setup: Setup) -> list[tuple[Tensor, ...]]:
    return [
        tuple(each.double() if each.is_floating_point() else each for each in rows)
        for rows in (setup.train, setup.test)
    ]


PEERS: dict[str, Callable[[Setup, nn.Sequential, Sequence[float]], Found]] = {
    "kronfluence": kronfluence,
    "pydvl": pydvl,
    "dattri": dattri,
}
