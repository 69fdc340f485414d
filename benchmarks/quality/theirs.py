"""The peers' scores of the same model and rows, each in an environment of its own; POSITIVE is helpful.

Imports torch alone at first: which library is there depends on the environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.environments import python_of
from benchmarks.peers.places import ROOT
from benchmarks.quality.setups import Setup, by_name

Weights = list[Tensor]
Found = Iterator[tuple[str, float | None, Tensor]]  # method, λ where it has one, (m, n)
RANK = 100
MOST_DENSE = 5000  # parameters of which a matrix (p, p), and its copies, are no trouble
TRAK_DIMENSIONS = 512
TRAK_FACTORS = (1.0, 1e3, 1e6)  # of λ: TRAK adds it to a sum over rows


def asked(
    peer: str,
    setup: Setup,
    models: Sequence[Weights],
    dampings: Sequence[float],
    *,
    threads: int,
    seconds: float,
) -> list[tuple[str, float | None, Tensor]]:
    """What a peer makes of these models, in a process of its environment; after so many seconds, what it has done."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = f"{folder}/given.pt", f"{folder}/scores.pt"
        parts = {
            "name": setup.name,
            "train": setup.train,
            "test": setup.test,
            "models": list(models),
        }
        torch.save({**parts, "dampings": list(dampings), "threads": threads}, given)
        command = [str(python_of(peer)), "-m", "benchmarks.quality.theirs", peer, given, out]
        try:
            subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"{peer}: stopped after {seconds:g} s")
        except subprocess.CalledProcessError as error:
            print(f"{peer}: ended with exit status {error.returncode}")
        return torch.load(out) if Path(out).is_file() else []


def kronfluence(setup: Setup, models: Sequence[Weights], dampings: Sequence[float]) -> Found:
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
    model = prepare_model(setup.module(models[0]), task)
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


def pydvl(setup: Setup, models: Sequence[Weights], dampings: Sequence[float]) -> Found:
    """Direct with the Hessian and with Gauss-Newton, cg, Arnoldi, LiSSA."""
    from pydvl.influence.torch import ArnoldiInfluence, CgInfluence, DirectInfluence, LissaInfluence
    from pydvl.influence.torch.util import SecondOrderMode

    warnings.filterwarnings("ignore")
    module, (train, test) = setup.module(models[0]).double(), _doubled(setup)
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


def dattri(setup: Setup, models: Sequence[Weights], dampings: Sequence[float]) -> Found:
    """Explicit, cg, Arnoldi, LiSSA, gradient products, TRAK with one model and with all."""
    yield from _dattri_influences(setup, setup.module(models[0]), dampings)
    if setup.loss == "cross_entropy":
        yield from _dattri_trak(setup, [setup.module(each) for each in models], dampings)


def _dattri_influences(setup: Setup, module: nn.Sequential, dampings: Sequence[float]) -> Found:
    from dattri.algorithm.influence_function import (
        IFAttributorArnoldi,
        IFAttributorCG,
        IFAttributorExplicit,
        IFAttributorLiSSA,
    )
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    train, test = _dattri_rows(setup)
    loss = _dattri_loss(setup, module)
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


def _dattri_trak(setup: Setup, models: list[nn.Sequential], dampings: Sequence[float]) -> Found:
    """As TRAK has it: features are gradients of the margin, of training and of test rows."""
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    train, test = _dattri_rows(setup)
    loss = _dattri_loss(setup, models[0])

    def margin(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        found = torch.exp(-loss(params, data))
        return torch.log(found) - torch.log(1 - found + 1e-12)

    def chance(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return torch.exp(-loss(params, data))

    states = [each.state_dict() for each in models]
    for several in sorted({1, len(states)}):
        target = AttributionTask(loss_func=margin, model=models[0], checkpoints=states[:several])
        for damping in dampings:
            trak = TRAKAttributor(
                target, chance, projector_kwargs={"proj_dim": TRAK_DIMENSIONS},
                regularization=damping,
            )  # fmt: skip
            trak.cache(train)
            with torch.no_grad():
                yield f"TRAK-{several}", damping, trak.attribute(test).T


def _dattri_rows(setup: Setup) -> list[DataLoader[Any]]:
    return [
        DataLoader(TensorDataset(*rows), len(rows[0]), shuffle=False)
        for rows in (setup.train, setup.test)
    ]


def _dattri_loss(setup: Setup, module: nn.Module) -> Callable[..., Tensor]:
    """Of a batch, or of one row alone."""
    from torch.func import functional_call

    rows_loss = F.cross_entropy if setup.loss == "cross_entropy" else F.mse_loss
    alone = (setup.train[0].ndim - 1, setup.train[1].ndim - 1)

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = (
            each if each.ndim > one else each[None] for each, one in zip(data, alone, strict=True)
        )
        return rows_loss(functional_call(module, params, (inputs,)), targets)

    return loss


def traker(setup: Setup, models: Sequence[Weights], dampings: Sequence[float]) -> Found:
    """TRAK by its authors' library, with one model and with all; λ is added to the sum over rows of XᵀX."""
    from torch.func import functional_call
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput, ImageClassificationModelOutput

    class OfNumbers(AbstractModelOutput):  # type: ignore[misc]
        """The output itself; of the squared error, dL/df is 2 (f − y)."""

        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return functional_call(model, (weights, buffers), (x[None],)).sum()

        def get_out_to_loss_grad(
            self, model: Any, weights: Any, buffers: Any, batch: Any
        ) -> Tensor:
            return (
                2.0 * (batch[1] - functional_call(model, (weights, buffers), (batch[0],))).detach()
            )

    classes = setup.loss == "cross_entropy"
    states = [setup.module(each).state_dict() for each in models]
    for several in sorted({1, len(states)}):
        with tempfile.TemporaryDirectory() as folder:
            found = TRAKer(
                setup.module(), ImageClassificationModelOutput() if classes else OfNumbers(),
                len(setup.train[0]), save_dir=folder, device="cpu", proj_dim=TRAK_DIMENSIONS,
                use_half_precision=False, logging_level=40,
            )  # fmt: skip
            for number, state in enumerate(states[:several]):
                found.load_checkpoint(state, model_id=number)
                found.featurize(batch=setup.train, num_samples=len(setup.train[0]))
            for damping in sorted({each * factor for each in dampings for factor in TRAK_FACTORS}):
                found.score_computer.lambda_reg = damping
                for each in found.saver.model_ids.values():
                    each["is_finalized"] = 0
                found.finalize_features()
                for number, state in enumerate(states[:several]):
                    found.start_scoring_checkpoint(
                        f"at{damping}", state, number, num_targets=len(setup.test[0])
                    )
                    found.score(batch=setup.test, num_samples=len(setup.test[0]))
                scores = torch.from_numpy(found.finalize_scores(f"at{damping}").copy()).T
                if not classes:  # of the output; the loss falls by -2 (f − y) of it
                    output = sum(
                        setup.module(each)(setup.test[0]).detach() for each in models[:several]
                    )
                    scores = scores * 2.0 * (setup.test[1] - output / several)
                yield f"TRAK-{several}", damping, scores


def _size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _doubled(setup: Setup) -> list[tuple[Tensor, ...]]:
    return [
        tuple(each.double() if each.is_floating_point() else each for each in rows)
        for rows in (setup.train, setup.test)
    ]


PEERS: dict[str, Callable[[Setup, Sequence[Weights], Sequence[float]], Found]] = {
    "kronfluence": kronfluence,
    "pydvl": pydvl,
    "dattri": dattri,
    "traker": traker,
}


def main() -> None:
    """One of the peers' processes."""
    peer, given, out = sys.argv[1:]
    parts = torch.load(given)
    torch.set_num_threads(parts["threads"])
    setup = by_name(parts["name"], parts["train"], parts["test"])
    kept: list[tuple[str, float | None, Tensor]] = []
    for name, damping, scores in PEERS[peer](setup, parts["models"], parts["dampings"]):
        kept.append((name, damping, scores.detach()))
        torch.save(kept, f"{out}.new")
        Path(f"{out}.new").replace(out)  # what is done stays, whatever comes


if __name__ == "__main__":
    main()
