"""dattri 0.3.0: EK-FAC of linear layers, from labels as they are; in an environment of its own."""

from __future__ import annotations

import time

import torch
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.structures.models import Case


def measured(case: Case, drawn: bool) -> tuple[float, float, Tensor]:
    """Seconds of the fit, of the scores, and the scores (m, n)."""
    model = case.module

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, params, (data[0],)), data[1])

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    # One batch: the test rows' gradients are taken again for each batch of training rows.
    train, test = (
        DataLoader(TensorDataset(*rows), len(rows[0])) for rows in (case.train, case.test)
    )
    began = time.perf_counter()
    attributor = IFAttributorEKFAC(task, damping=case.damping)
    attributor.cache(train)
    fitted = time.perf_counter()
    with torch.no_grad():
        scores: Tensor = attributor.attribute(train, test).T
    return fitted - began, time.perf_counter() - fitted, scores
