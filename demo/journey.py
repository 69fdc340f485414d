"""From the trained network to the flipped labels, through the SDK and HTTP alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from demo.digits import DAMPING, RECIPE, Digits, untrained
from upweight import Client
from upweight.results.blocking import InfluenceResult, SelfInfluenceResult
from upweight.schema import DatasetRecord, ModelRecord

# direct shows the whole spectrum of H, in a second more;
# lissa takes steps by itself and stops when they are small; arnoldi keeps the strongest directions of H alone.
METHODS: dict[str, dict[str, Any]] = {
    "direct": {"spectrum": "all"},
    "cg": {"rtol": 1e-5},
    "lissa": {
        "scale": "auto",
        "rtol": 0.1,
        "maxiter": 2000,
        "test_rows": "0:100",
    },  # a step costs most here
    "arnoldi": {"rank_estimate": 150, "complement": True},
}
PERTURBED = {
    "test_rows": "0:20",
    "train_rows": "0:100",
}  # a number a pixel: 64 times as many as for `up`
Type = Literal["up", "perturbation"]
TYPES: tuple[Type, ...] = get_args(Type)


@dataclass(frozen=True)
class Line:
    """A computation as the table tells it."""

    method: str
    type: Type
    result: InfluenceResult
    values: np.ndarray
    exact: np.ndarray

    @property
    def gap(self) -> float:
        """Relative difference from `direct`, which is exact."""
        return float(np.linalg.norm(self.values - self.exact) / np.linalg.norm(self.exact))


@dataclass(frozen=True)
class Cleaned:
    """Rows that were left out, how many of them had a flipped label, and what came of training anew."""

    dropped: int
    flipped: int
    data: DatasetRecord
    model: ModelRecord


class Journey:
    """What the demo does with a running service."""

    def __init__(self, client: Client, digits: Digits, network: nn.Module) -> None:
        self._client = client
        self._digits = digits
        self._exact: dict[str, np.ndarray] = {}
        self._solved: dict[str, InfluenceResult] = {}
        self.model: ModelRecord = client.models.register(
            "digits-mlp",
            network,
            example=_tensor(digits.x_train[:2]),
            loss="cross_entropy",
            recipe=RECIPE,
            initial=untrained(),
        )
        self.train = self._register("digits-train", digits.x_train, digits.y_train)
        self.test = self._register("digits-test", digits.x_test, digits.y_test)

    def _register(self, name: str, x: np.ndarray, y: np.ndarray) -> DatasetRecord:
        return self._client.datasets.register(
            name,
            x=x,
            y=y,
            preview={"kind": "image", "column": "x", "shape": (8, 8)},
            class_names=[str(digit) for digit in range(10)],
        )

    def influences(self, method: str, influence_type: Type) -> Line:
        """The influence of every training digit on every test digit, or of the pixels of some on some.

        `lissa` takes the longest, so that it is given fewer test digits, and solves for none of them twice.
        """
        of_rows = influence_type == "up"
        solving: dict[str, Any] = {
            "test": self.test,
            "inversion_method": method,
            "hessian_regularization": DAMPING,
            **METHODS[method],
            **({} if of_rows else PERTURBED),
        }
        if method in self._solved and method == "lissa":
            solving = {"factors": self._solved[method], "train_rows": PERTURBED["train_rows"]}
        result = self._client.compute_influences(
            self.model,
            self.train,
            influence_type=influence_type,
            keep={"matrix": True, "top": 10, "mean": True, "factors": True}
            if of_rows
            else {"matrix": True},
            **solving,
        )
        self._solved.setdefault(method, result)
        values = result.numpy()
        exact = self._exact.setdefault(influence_type, values)  # `direct` comes first
        both = min(len(values), len(exact))
        return Line(method, influence_type, result, values[:both], exact[:both])

    def self_influences(self) -> SelfInfluenceResult:
        """The influence of every training digit on itself."""
        return self._client.self_influences(
            self.model, self.train, inversion_method="direct", hessian_regularization=DAMPING
        )

    def cleaned(self, itself: SelfInfluenceResult, share: float) -> Cleaned:
        """Training anew without the most suspect rows. They are chosen by their influence on themselves, which sees no
        test row: what the test rows say afterwards is not what they were chosen for."""
        suspects = itself.suspects(round(share * len(self._digits.y_train)))
        data = self._client.datasets.derive("digits-clean", self.train, drop=suspects)
        model = self._client.retrain(self.model, data, test=self.test, name="digits-mlp-clean")
        found = int(np.isin(suspects.rows, self._digits.flipped).sum())
        return Cleaned(len(suspects), found, data, model)

    def report(self, cleaned: Cleaned, path: Path) -> Path:
        """Before and after, as a page."""
        return self._client.models.save_report(cleaned.model, path)


def most_harmful(result: InfluenceResult, digits: Digits, count: int = 10) -> list[str]:
    """A line for each of the training digits that raise the test loss most."""
    lines = []
    for place, item in enumerate(result.top(k=count, sign="harmful").items, start=1):
        given, true = digits.y_train[item.row], digits.true_train[item.row]
        said = f"labelled {given}, is a {true}: flipped" if given != true else f"labelled {given}"
        lines.append(f"{place:>4}  row {item.row:>4}  mean influence {item.influence:+.4f}  {said}")
    return lines


def found_among_lowest(result: InfluenceResult, digits: Digits, share: float) -> tuple[int, int]:
    """How many flipped labels are among the most suspicious `share` of the training rows; how many rows those are."""
    inspected = round(share * len(digits.y_train))
    suspects = result.suspects()[:inspected]
    return int(np.isin(suspects, digits.flipped).sum()), inspected


def _tensor(array: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(array)
