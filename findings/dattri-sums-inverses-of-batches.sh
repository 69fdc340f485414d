#!/usr/bin/env bash
# dattri: explicit and cg influences grow with the number of training batches, as the inverses of batches are summed.
#
# Seen with dattri 0.3.0, torch 2.13.0 (CPU), Python 3.11. The DataLoader given to `cache` is taken for one Hessian by
# the reader; the attributor solves with each batch's own Hessian and adds the solutions. The batch size so changes the
# scores, in scale and in order, and nothing tells. A softmax regression of 60 rows, against
# g_test' (H + 0.1 I)^-1 g_train:
#
#   batches of 60: explicit ratio 1.00, correlation 1.0000; cg ratio 1.00, correlation 1.0000
#   batches of 20: explicit ratio 3.47, correlation 0.9953; cg ratio 3.47, correlation 0.9953
#   batches of 10: explicit ratio 8.30, correlation 0.9913; cg ratio 8.30, correlation 0.9913
#
# Ends with 0 as long as this holds; with 1 where dattri does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 dattri==0.3.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import sys
from importlib.metadata import version

import torch
from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorExplicit
from dattri.task import AttributionTask
from torch.func import functional_call, grad, hessian, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

print("dattri", version("dattri"), "torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(0)
net = torch.nn.Linear(5, 3)
train = torch.randn(60, 5), torch.randint(0, 3, (60,))
test = torch.randn(4, 5), torch.randint(0, 3, (4,))


def loss(parameters, data):
    return cross_entropy(functional_call(net, parameters, data[0]), data[1])


def split(theta):
    return {"weight": theta[:15].view(3, 5), "bias": theta[15:]}


theta = torch.cat([p.detach().flatten() for p in net.parameters()])
gradients = [vmap(grad(lambda t, x, y: loss(split(t), (x[None], y[None]))), (None, 0, 0))(theta, *d) for d in (test, train)]
exact = gradients[0] @ torch.linalg.solve(hessian(lambda t: loss(split(t), train))(theta) + 0.1 * torch.eye(18), gradients[1].T)
holds = True
for size in (60, 20, 10):
    told = []
    for kind, more in ((IFAttributorExplicit, {}), (IFAttributorCG, {"max_iter": 15})):
        task = AttributionTask(loss_func=loss, model=net, checkpoints=dict(net.state_dict()))
        attributor = kind(task=task, regularization=0.1, **more)
        rows = DataLoader(TensorDataset(*train), batch_size=size)
        attributor.cache(rows)
        scores = attributor.attribute(rows, DataLoader(TensorDataset(*test), batch_size=4)).T.detach()
        ratio = float((scores / exact).median())
        told.append(f"ratio {ratio:.2f}, correlation {torch.corrcoef(torch.stack([scores.flatten(), exact.flatten()]))[0, 1]:.4f}")
        holds &= abs(ratio - 1) < 0.01 if size == 60 else ratio > 60 / size
    print(f"batches of {size}: explicit {told[0]}; cg {told[1]}")
sys.exit(0 if holds else 1)
PYTHON
