#!/usr/bin/env bash
# captum: TracInCP with sample_wise_grads_per_batch=True leaves out layers other than Linear and Conv2d.
#
# Seen with captum 0.9.0, torch 2.13.0 (CPU), Python 3.11. The option is described as a faster way to the same gradients.
# Its hooks know Linear and Conv2d; Conv1d, ConvTranspose2d, LayerNorm and Embedding give no gradient and are skipped,
# and no warning says so. It also counts layers that do not require a gradient, where the plain way raises. Scores beside
# products of gradients, as the share of the largest by which they are off:
#
#   Linear, Linear: plain 0.0%, fast 0.0%
#   Conv1d, Linear: plain 0.0%, fast 20.7%
#   LayerNorm between: plain 0.0%, fast 25.9%
#   Embedding, Linear: plain 0.0%, fast 2.1%
#   two of one weight: plain 0.0%, fast 13.9%
#
# Ends with 0 as long as this holds; with 1 where captum does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 captum==0.9.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import sys
import warnings
from importlib.metadata import version

import torch
from captum.influence import TracInCP
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

print("captum", version("captum"), "torch", torch.__version__, "Python", sys.version.split()[0])


def load(model, path):
    model.load_state_dict(torch.load(path))
    return 1.0


def gradients(net, data):
    found = []
    for x, y in zip(*data):
        net.zero_grad()
        cross_entropy(net(x[None]), y[None]).backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    return torch.stack(found)


def off(title, net, draw):
    torch.manual_seed(0)
    train, test = ((draw(count), torch.randint(0, 3, (count,))) for count in (12, 3))
    exact = gradients(net, test) @ gradients(net, train).T
    torch.save(net.state_dict(), "weights.pt")
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for fast in (False, True):
            tracin = TracInCP(net, TensorDataset(*train), ["weights.pt"], load, loss_fn=nn.CrossEntropyLoss(reduction="sum" if fast else "none"), batch_size=4, sample_wise_grads_per_batch=fast)
            found.append(float((tracin.influence(test) - exact).abs().max() / exact.abs().max()))
    about = [w for w in said if "layer" in str(w.message).lower() or "module" in str(w.message).lower()]
    print(f"{title}: plain {found[0]:.1%}, fast {found[1]:.1%}, warnings of layers {len(about)}")
    return found[0] < 1e-4 and not about and found[1]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


torch.manual_seed(1)
vectors, series, words = lambda n: torch.randn(n, 5), lambda n: torch.randn(n, 4, 5), lambda n: torch.randint(0, 7, (n, 6))
found = [
    off("Linear, Linear", nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), vectors),
    off("Conv1d, Linear", nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)), series),
    off("LayerNorm between", nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)), vectors),
    off("Embedding, Linear", Words(), words),
    off("two of one weight", Tied(), vectors),
]
sys.exit(0 if found[0] is not False and found[0] < 1e-4 and min(found[1:]) > 0.01 else 1)
PYTHON
