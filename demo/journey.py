"""From the trained network to the flipped labels, through the SDK and HTTP alone."""

from __future__ import annotations

import numpy as np
from torch import nn

from demo.digits import DAMPING, Digits
from upweight import Client
from upweight.results import InfluenceResult
from upweight.schema import DatasetRecord, ModelRecord

METHODS = {"direct": {}, "cg": {"rtol": 1e-5}}


class Journey:
    """What the demo does with a running service."""

    def __init__(self, client: Client, digits: Digits, network: nn.Module) -> None:
        self._client = client
        self._digits = digits
        self.model: ModelRecord = client.models.register(
            "digits-mlp", network, example=_tensor(digits.x_train[:2]), loss="cross_entropy"
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

    def influences(self, method: str) -> InfluenceResult:
        """The influence of every training digit on every test digit."""
        return self._client.compute_influences(
            self.model,
            self.train,
            self.test,
            inversion_method=method,
            hessian_regularization=DAMPING,
            keep={"matrix": True, "top": 10, "mean": True},
            **METHODS[method],
        )


def most_harmful(result: InfluenceResult, digits: Digits, count: int = 10) -> list[str]:
    """A line for each of the training digits that raise the test loss most."""
    lines = []
    for place, item in enumerate(result.top(k=count, sign="harmful").items, start=1):
        given, true = digits.y_train[item.row], digits.true_train[item.row]
        said = f"labelled {given}, is a {true}: flipped" if given != true else f"labelled {given}"
        lines.append(f"{place:>4}  row {item.row:>4}  mean influence {item.influence:+.4f}  {said}")
    return lines


def found_among_lowest(result: InfluenceResult, digits: Digits, share: float) -> tuple[int, int]:
    """How many flipped labels are among the lowest ranked `share` of the training rows, and how many rows those are."""
    inspected = round(share * len(digits.y_train))
    lowest = np.argsort(np.asarray(result.mean()), kind="stable")[:inspected]
    return int(np.isin(lowest, digits.flipped).sum()), inspected


def _tensor(array: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(array)
