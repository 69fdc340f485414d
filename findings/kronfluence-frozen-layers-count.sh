#!/usr/bin/env bash
# kronfluence: layers that were frozen count as if they had been trained.
#
# Seen with kronfluence 1.0.1, torch 2.13.0 (CPU), Python 3.11. `prepare_model` freezes all parameters and watches each
# Linear and Conv2d; whether a parameter required a gradient before is not asked. Scores of a fine-tuned head so hold
# the whole trunk, unless the task names the modules. Nothing is said. Strategy `identity`, beside products of the
# gradients of what requires one:
#
#   all trained: off by 0.0% of the largest
#   first layer frozen: off by 61.5% of the largest
#
# Ends with 0 as long as this holds; with 1 where kronfluence does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 kronfluence==1.0.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import copy
import logging
import sys
from importlib.metadata import version

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

print("kronfluence", version("kronfluence"), "torch", torch.__version__, "Python", sys.version.split()[0])


class Classify(Task):
    def compute_train_loss(self, batch, model, sample=False):
        return cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


def rows(shape, count):
    return TensorDataset(torch.randn(count, *shape), torch.randint(0, 3, (count,)))


def gradients(net, data):
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    found = []
    for x, y in zip(*data.tensors):
        net.zero_grad()
        cross_entropy(net(x[None]), y[None]).backward()
        found.append(torch.cat([net.get_parameter(name).grad.flatten() for name in names]))
    return torch.stack(found)


def compared(title, net, shape):
    """The largest difference of the scores from products of gradients, and the largest product."""
    torch.manual_seed(0)
    net.eval()
    train, test = rows(shape, 12), rows(shape, 3)
    exact = gradients(copy.deepcopy(net), test) @ gradients(copy.deepcopy(net), train).T
    analyzer = Analyzer(title, prepare_model(net, Classify()), Classify(), cpu=True, disable_tqdm=True, output_dir="out", log_level=logging.ERROR)
    analyzer.fit_all_factors("factors", train, per_device_batch_size=6, factor_args=FactorArguments(strategy="identity"))
    analyzer.compute_pairwise_scores("scores", "factors", test, train, 3, per_device_train_batch_size=6)
    scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    difference = float((scores - exact).abs().max() / exact.abs().max())
    print(f"{title}: off by {difference:.1%} of the largest")
    return difference


def network(frozen):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    net[0].requires_grad_(not frozen)
    return net


trained, frozen = compared("all trained", network(False), (5,)), compared("first layer frozen", network(True), (5,))
sys.exit(0 if trained < 1e-4 < 0.05 < frozen else 1)
PYTHON
