"""dattri's influence functions, explicit and by conjugate gradients, in one full batch.

Its conjugate gradients run a fixed number of steps; its LiSSA and Arnoldi compute something else.
"""

from __future__ import annotations

import torch
from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorExplicit
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.contenders import Answer, Work
from benchmarks.peers.problem import Rows


def answer(work: Work) -> Answer:
    """See `Answer`."""
    model = work.trained.model

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = data
        return cross_entropy(functional_call(model, params, (inputs,)), targets)

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    damping = work.case.damping
    if work.method == "direct":
        attributor = IFAttributorExplicit(task, regularization=damping)
    else:
        steps = int(work.settings["steps"])
        attributor = IFAttributorCG(task, max_iter=steps, regularization=damping)
    train, test = _loader(work.train), _loader(work.test)
    attributor.cache(train)
    with torch.no_grad():
        return Answer(attributor.attribute(train, test).T)


def _loader(rows: Rows) -> DataLoader:
    return DataLoader(TensorDataset(rows.inputs, rows.targets), len(rows.targets))
