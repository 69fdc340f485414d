#!/usr/bin/env bash
# kronfluence: gradients of a convolution with groups are made of the mean of the groups' channels.
#
# Seen with kronfluence 1.0.1, torch 2.13.0 (CPU), Python 3.11. K-FAC's literature averages over groups for the factor A.
# Here the mean takes the place of the input in the gradients of rows, too, so that with the strategy `identity`, whose
# scores are plain products of gradients, they are wrong, depthwise convolutions included. Nothing is said. Three models
# of a convolution and a mean over places:
#
#   one group: off by 0.0% of the largest
#   two groups: off by 41.4% of the largest
#   depthwise: off by 21.6% of the largest
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


def network(groups):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=groups), nn.Tanh(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Unflatten(1, (3, 2)), nn.AvgPool1d(2), nn.Flatten())


one, two, depthwise = (compared(title, network(groups), (6, 5, 5)) for title, groups in (("one group", 1), ("two groups", 2), ("depthwise", 6)))
sys.exit(0 if one < 1e-4 < 0.01 < min(two, depthwise) else 1)
PYTHON
