"""`python -m benchmarks.structures.exact`: curvatures beside curvlinops 3.0.1, K-FAC beside kronfluence 1.0.1.

An MLP and a CNN with biases in float64 on 40 rows, in batches of 16 and 24. Relative differences in the Frobenius norm
of each matrix as a whole, and after each layer's best factor, which is told where it is not 1: curvlinops adds up the
inputs' second moments over a row's T places where kronfluence and Upweight take means of both factors, so that its
K-FAC is T times as large. Of kronfluence the scores of 5 rows by 40 at λ = 0.01.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
ROWS, TESTS, CLASSES, DAMPING = 40, 5, 3, 0.01
MODELS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, CLASSES)), (8,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(45, CLASSES),
        ),
        (1, 6, 6),
    ),
}  # fmt: skip
# Of curvlinops: our kind and structure, its operator, and the labels of its Fisher matrix.
OPERATORS = {
    "Hessian": ("hessian", "full", "HessianLinearOperator", None),
    "Gauss-Newton": ("gauss_newton", "full", "GGNLinearOperator", None),
    "empirical Fisher": ("empirical_fisher", "full", "EFLinearOperator", None),
    "Gauss-Newton, K-FAC": ("gauss_newton", "kfac", "KFACLinearOperator", "type-2"),
    "Gauss-Newton, EK-FAC": ("gauss_newton", "ekfac", "EKFACLinearOperator", "type-2"),
    "empirical Fisher, K-FAC": ("empirical_fisher", "kfac", "KFACLinearOperator", "empirical"),
    "empirical Fisher, EK-FAC": ("empirical_fisher", "ekfac", "EKFACLinearOperator", "empirical"),
}
Answers = dict[str, Tensor]


def subject(name: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, and its rows with labels."""
    torch.manual_seed(1)
    make, shape = MODELS[name]
    return make().double(), torch.randn(ROWS, *shape).double(), torch.randint(0, CLASSES, (ROWS,))


def main() -> None:
    """Prints a line a matrix; with `--part`, is the process of a peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part is not None:
        peer, out = options.part
        torch.save({name: PEERS[peer](name) for name in MODELS}, out)
        return
    for peer in PEERS:
        for name, answers in _answers_of(peer).items():
            for what, (found, expected) in sorted(_pairs(name, answers)):
                print(f"{peer}, {name}, {what}: {_told(name, found, expected)}", flush=True)


def _answers_of(peer: str) -> dict[str, Answers]:
    from benchmarks.peers.environments import python_of

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.pt"
        command = [str(python_of(peer)), "-m", "benchmarks.structures.exact", "--part", peer]
        subprocess.run([*command, str(out)], cwd=ROOT, check=True, stdout=sys.stderr)
        found: dict[str, dict[str, Tensor]] = torch.load(out)
        return found


def _by_curvlinops(name: str) -> Answers:
    import curvlinops

    module, x, y = subject(name)
    parameters = list(module.parameters())
    given = (module, nn.CrossEntropyLoss(), parameters, [(x[:16], y[:16]), (x[16:], y[16:])])
    units = torch.eye(sum(each.numel() for each in parameters), dtype=torch.float64)
    found = {}
    for what, (_, _, operator, labels) in OPERATORS.items():
        more = {"fisher_type": labels, "separate_weight_and_bias": False} if labels else {}
        found[what] = (getattr(curvlinops, operator)(*given, **more) @ units).detach()
    return found


def _by_kronfluence(name: str) -> Answers:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from torch.utils.data import TensorDataset

    from benchmarks.structures.theirs import Classes

    module, x, y = subject(name)
    task, found = Classes(), {}
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            name, prepare_model(module, task), task, cpu=True, disable_tqdm=True, output_dir=folder
        )
        train, test = TensorDataset(x, y), TensorDataset(x[:TESTS], y[:TESTS])
        double = {"per_sample_gradient_dtype": torch.float64}
        for strategy in ("kfac", "ekfac"):
            analyzer.fit_all_factors(
                strategy, train, per_device_batch_size=16,
                factor_args=FactorArguments(
                    strategy=strategy, use_empirical_fisher=True, eigendecomposition_dtype=torch.float64,
                    activation_covariance_dtype=torch.float64, gradient_covariance_dtype=torch.float64,
                    lambda_dtype=torch.float64, **double,
                ),
            )  # fmt: skip
            analyzer.compute_pairwise_scores(
                strategy, strategy, test, train, per_device_query_batch_size=TESTS,
                score_args=ScoreArguments(
                    damping_factor=DAMPING, score_dtype=torch.float64, precondition_dtype=torch.float64, **double
                ),
            )  # fmt: skip
            found[strategy] = analyzer.load_pairwise_scores(strategy)["all_modules"]
    return found


PEERS: dict[str, Callable[[str], Answers]] = {
    "curvlinops": _by_curvlinops,
    "kronfluence": _by_kronfluence,
}


def _pairs(name: str, answers: Answers) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """What it is, ours and theirs."""
    from workers import engine

    module, x, y = subject(name)
    problem = engine.Problem(module, engine.make_loss("cross_entropy"), dtype=torch.float64)
    rows = engine.TensorRows((x,), y)
    for what, expected in answers.items():
        if what in OPERATORS:
            kind, structure, *_ = OPERATORS[what]
            found = engine.make_curvature(engine.Over(problem, rows), kind, structure).dense()
            yield what, (found, expected)
            continue
        over = engine.Over(problem, rows)
        form = engine.make_curvature(over, "empirical_fisher", what).closed_form()
        assert form is not None
        gradients = engine.per_example_gradients(problem, next(rows.batches(ROWS)))
        yield (
            f"scores by {what}",
            (form.damped(DAMPING).apply(gradients[:TESTS]) @ gradients.T, expected),
        )


def _told(name: str, found: Tensor, expected: Tensor) -> str:
    expected = expected.double()
    words = f"differ by {float((found - expected).norm() / expected.norm()):.1e}"
    if found.shape[0] != found.shape[1]:
        return words
    places, factors, worst = 0, [], 0.0
    for layer in subject(name)[0]:
        size = sum(each.numel() for each in layer.parameters())
        ours, theirs = (
            each[places : places + size, places : places + size] for each in (found, expected)
        )
        places += size
        if size:
            factor = float((ours * theirs).sum() / ours.square().sum())
            factors.append(f"{factor:.6g}")
            worst = max(worst, float((factor * ours - theirs).norm() / theirs.norm()))
    if all(each == "1" for each in factors):
        return words
    return (
        f"{words}; theirs is {', '.join(factors)} times ours by layers, and {worst:.1e} beside that"
    )


if __name__ == "__main__":
    main()
