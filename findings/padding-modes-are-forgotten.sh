#!/usr/bin/env bash
# kronfluence, captum and curvlinops: a convolution's padding_mode is forgotten; its windows are padded with zeros.
#
# Seen with kronfluence 1.0.1, captum 0.9.0, curvlinops-for-pytorch 3.0.1, torch 2.13.0 (CPU), Python 3.11. All three make
# a convolution's gradient or factor of unfolded windows, with the padding's size and not its mode. Convolutions with
# `padding_mode="circular"` (or `reflect`, `replicate`) are taken without a word, by captum with
# `sample_wise_grads_per_batch=True` alone. kronfluence's and captum's scores are beside products of gradients;
# curvlinops' K-FAC beside the Gauss-Newton matrix of one row whose convolution has one place, where they are equal:
#
#   zeros: kronfluence off by 0.0%, captum 0.0%, curvlinops 0.0%
#   circular: kronfluence off by 61.8%, captum 61.8%, curvlinops 87.3%
#   reflect: kronfluence off by 80.2%, captum 80.2%, curvlinops 58.4%
#
# Ends with 0 as long as this holds; with 1 where one of them does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 kronfluence==1.0.1 captum==0.9.0 curvlinops-for-pytorch==3.0.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import copy
import io
import logging
import sys
from importlib.metadata import version

import torch
from captum.influence import TracInCP
from curvlinops import FisherType, GGNLinearOperator, KFACLinearOperator
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

print(*(f"{name} {version(name)}" for name in ("kronfluence", "captum", "curvlinops-for-pytorch")), "torch", torch.__version__, "Python", sys.version.split()[0])


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
    return difference


def network(mode):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, stride=3, padding_mode=mode), nn.Flatten(), nn.Linear(6, 3))


def by_captum(net):
    torch.manual_seed(0)
    train, test = rows((4, 3, 3), 12), rows((4, 3, 3), 3)
    exact = gradients(net, test) @ gradients(net, train).T
    torch.save(net.state_dict(), "weights.pt")

    def load(model, path):
        model.load_state_dict(torch.load(path))
        return 1.0

    tracin = TracInCP(net, train, ["weights.pt"], load, loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=4, sample_wise_grads_per_batch=True)
    return float((tracin.influence(test.tensors) - exact).abs().max() / exact.abs().max())


def by_curvlinops(net):
    torch.manual_seed(0)
    net = net.double()
    weights = list(net.parameters())
    data = [(torch.randn(1, 4, 3, 3, dtype=torch.float64), torch.tensor([1]))]
    first = slice(net[0].weight.numel())
    loss, eye = nn.CrossEntropyLoss(), torch.eye(sum(p.numel() for p in weights), dtype=torch.float64)
    kfac = (KFACLinearOperator(net, loss, weights, data, fisher_type=FisherType.TYPE2) @ eye)[first, first]
    exact = (GGNLinearOperator(net, loss, weights, data) @ eye)[first, first]
    return float((kfac - exact).abs().max() / exact.abs().max())


holds = True
for mode in ("zeros", "circular", "reflect"):
    found = compared(mode, network(mode), (4, 3, 3)), by_captum(network(mode)), by_curvlinops(network(mode))
    print(f"{mode}: kronfluence off by {found[0]:.1%}, captum {found[1]:.1%}, curvlinops {found[2]:.1%}")
    holds &= max(found) < 1e-4 if mode == "zeros" else min(found) > 0.01
sys.exit(0 if holds else 1)
PYTHON
