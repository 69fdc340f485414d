#!/usr/bin/env bash
# pyDVL's EkfacInfluence: the curvature of a row vanishes where the model is undecided among the classes.
#
# Seen with pyDVL 0.10.0, torch 2.13.0 (CPU), Python 3.11. One would take its covariance of output gradients for the one
# of the Fisher matrix, sum over c of p_c g_c g_c', with g_c = e_c - p. It backpropagates once the sum over c of
# sqrt(p_c) log p_c instead, and so squares a sum: the products of different classes stay in it. For p = 1/K that sum is
# zero, and what is left is lambda alone. `fit` and `influences` say nothing. A softmax regression, 200 rows, 3 classes,
# lambda 1e-6; with weights of zero all rows have one prediction, so that K-FAC is exact and both should agree:
#
#   weights times 0: largest influence 8.13e+06 by K-FAC, 2.41e+01 by the exact matrix; the outputs' covariance has norm 0.0e+00, and Fisher's 3.3e-01
#   weights times 1: largest influence 2.78e+02 by K-FAC, 3.47e+01 by the exact matrix; the outputs' covariance has norm 3.1e-02, and Fisher's 3.1e-01
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
from pydvl.influence.torch import DirectInfluence, EkfacInfluence
from torch.utils.data import DataLoader, TensorDataset

print("pyDVL", version("pyDVL"), "torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(0)
x, y = torch.randn(200, 5), torch.arange(200) % 3
rows = DataLoader(TensorDataset(x, y), batch_size=200)
net = torch.nn.Sequential(torch.nn.Linear(5, 3))
first = [p.detach().clone() for p in net.parameters()]
holds = True
for factor in (0.0, 1.0):
    with torch.no_grad():
        for p, start in zip(net.parameters(), first, strict=True):
            p.copy_(factor * start)
    kfac = EkfacInfluence(net, hessian_regularization=1e-6).fit(rows)
    exact = DirectInfluence(net, torch.nn.functional.cross_entropy, regularization=1e-6).fit(rows)
    a, b = (f.influences(x[:10], y[:10], x, y).detach() for f in (kfac, exact))
    _, outputs = kfac._get_kfac_blocks(rows)
    p = torch.softmax(net(x), 1).detach()
    fisher = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0)
    had, due = (float(torch.linalg.matrix_norm(m, 2)) for m in (next(iter(outputs.values())), fisher))
    print(f"weights times {factor:g}: largest influence {a.abs().max():.2e} by K-FAC, {b.abs().max():.2e} by the exact", end="")
    print(f" matrix; the outputs' covariance has norm {had:.1e}, and Fisher's {due:.1e}")
    holds &= had < 1e-12 and float(a.abs().max()) > 1e4 * float(b.abs().max()) if factor == 0 else had < due / 2
sys.exit(0 if holds else 1)
PYTHON
