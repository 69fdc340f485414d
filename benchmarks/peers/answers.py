"""The exact answer of each case, kept as a file, and how far another answer is from it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.cases import Case
from benchmarks.peers.exact import Exact
from benchmarks.peers.places import CACHE, ignored
from benchmarks.peers.problem import load, prepared

# LiSSA diverges for a scale below half the largest eigenvalue of H + λI; all get this much of it.
SCALE_MARGIN = 1.05


@dataclass(frozen=True)
class Accuracy:
    """Errors in the influences relative to the exact ones; the true residual of the factors."""

    norm: float  # ‖error‖ / ‖exact‖ over everything
    worst_row: float  # the same of the test row where it is largest
    residual: float | None  # ‖b − (H + λI) x‖ / ‖b‖ of the factors, over all rows


@dataclass(frozen=True)
class Reference:
    """What is exact in one case, in float64; `scale` is LiSSA's."""

    problem: Path
    influence: Tensor
    rhs: Tensor
    scale: float

    def accuracy(self, case: Case, found: Path) -> Accuracy:
        """Of the arrays that a worker left in this file."""
        with np.load(found) as arrays:
            influence = torch.from_numpy(arrays["influence"]).double()
            factors = torch.from_numpy(arrays["factors"]) if "factors" in arrays else None
        if influence.shape != self.influence.shape:
            raise ValueError(f"{tuple(influence.shape)} instead of {tuple(self.influence.shape)}")
        error = (influence - self.influence).flatten(1).norm(dim=1)
        size = self.influence.flatten(1).norm(dim=1)
        residual = None
        if factors is not None and case.method in ("direct", "cg"):
            exact = Exact(load(case.model, self.problem), case.n, case.damping)
            residual = exact.residual(factors.double(), self.rhs)
        return Accuracy(float(error.norm() / size.norm()), float((error / size).max()), residual)


def reference(case: Case, block: int = 0) -> Reference:
    """The exact answer for a block of test rows; the first time it takes up to some minutes."""
    problem = prepared(case.model)
    name = f"{case.model}-{_fingerprint(case, problem)}" + (f"-{block}" if block else "")
    path = ignored(CACHE) / f"{name}.npz"
    if not path.is_file():
        rhs, influence, scale = _computed(case, problem, block)
        np.savez(path, influence=influence.numpy(), rhs=rhs.numpy(), scale=scale)
    with np.load(path) as kept:
        return Reference(
            problem,
            torch.from_numpy(kept["influence"]),
            torch.from_numpy(kept["rhs"]),
            float(kept["scale"]),
        )


def _computed(case: Case, problem: Path, block: int) -> tuple[Tensor, Tensor, float]:
    trained = load(case.model, problem)
    exact = Exact(trained, case.n, case.damping)
    rhs = exact.gradients(trained.test.block(case.m, block))
    scale = 0.0
    if case.method == "lissa":
        scale = SCALE_MARGIN * exact.largest_eigenvalue()
        factors = exact.lissa(rhs, case.steps, scale)
    elif case.method == "arnoldi":
        factors = exact.low_rank(rhs, case.rank)
    else:
        factors = exact.solve(rhs)
    if case.kind == "perturbation":
        return rhs, exact.perturbation(factors), scale
    return rhs, factors @ exact.gradients(trained.train.first(case.n)).T, scale


def _fingerprint(case: Case, problem: Path) -> str:
    """Cases that differ in who runs them, or in direct against cg, have the same exact answer."""
    what = asdict(case)
    for name in ("contestants", "target", "name"):
        del what[name]
    if case.method in ("direct", "cg"):
        what["method"] = "solve"
    text = repr(sorted(what.items())).encode()
    return hashlib.sha256(text + problem.read_bytes()).hexdigest()[:12]
