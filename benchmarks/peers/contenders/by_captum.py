"""captum's NaiveInfluenceFunction at full rank: H of the SUM of the losses, so λ and scale are n's."""

from __future__ import annotations

import torch
from captum.influence import NaiveInfluenceFunction
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.contenders import Answer, Work
from benchmarks.peers.problem import Rows


def answer(work: Work) -> Answer:
    """See `Answer`."""
    n = work.case.n
    size = sum(each.numel() for each in work.trained.model.parameters())
    function = NaiveInfluenceFunction(
        work.trained.model,
        _loader(work.train),
        checkpoint="",
        checkpoints_load_func=lambda _model, _path: 0.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        sample_wise_grads_per_batch=True,
        projection_dim=size,
        hessian_reg=n * work.case.damping,
        hessian_inverse_tol=0.0,
    )
    with torch.enable_grad():
        found = function.influence((work.test.inputs, work.test.targets))
    return Answer(n * found)


def _loader(rows: Rows) -> DataLoader:
    return DataLoader(TensorDataset(rows.inputs, rows.targets), len(rows.targets))
