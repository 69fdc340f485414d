#!/usr/bin/env bash
# pyDVL: a short last batch counts as much as a full one in every method but the direct one.
#
# Seen with pyDVL 0.10.0, torch 2.13.0 (CPU), Python 3.11. The products with the Hessian are averaged over the batches of
# the DataLoader without their sizes, so that the rows of a short last batch weigh more; DirectInfluence weighs by size.
# Conjugate gradients converge all the same, to the influences of another matrix. `drop_last` is False by default. A
# softmax regression of 106 rows, relative difference to the direct method:
#
#   batches of 106: cg 0.000, Nystroem 0.000
#   batches of  53: cg 0.000, Nystroem 0.000
#   batches of  32: cg 0.119, Nystroem 0.119
#   batches of 105: cg 0.802, Nystroem 0.802
#
# Ends with 0 as long as this holds; with 1 where pyDVL does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 'pyDVL[influence]==0.10.0'
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from pydvl.influence.torch import CgInfluence, DirectInfluence, NystroemSketchInfluence
from torch.utils.data import DataLoader, TensorDataset

print("pyDVL", version("pyDVL"), "torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(0)
x, y = torch.randn(106, 5, dtype=torch.float64), torch.randint(0, 3, (106,))
net, loss = torch.nn.Sequential(torch.nn.Linear(5, 3)).double(), torch.nn.functional.cross_entropy


def influences(model, size):
    model.fit(DataLoader(TensorDataset(x, y), batch_size=size))
    return model.influences(x[:4], y[:4], x, y).detach()


holds = True
for size in (106, 53, 32, 105):
    exact = influences(DirectInfluence(net, loss, regularization=0.01), size)
    off = []
    for model in (
        CgInfluence(net, loss, regularization=0.01, rtol=1e-9, atol=1e-12, maxiter=500),
        NystroemSketchInfluence(net, loss, regularization=0.01, rank=18),
    ):
        off.append(float((influences(model, size) - exact).norm() / exact.norm()))
    print(f"batches of {size:3}: cg {off[0]:.3f}, Nystroem {off[1]:.3f}")
    holds &= max(off) < 1e-3 if 106 % size == 0 else min(off) > 0.05
sys.exit(0 if holds else 1)
PYTHON
