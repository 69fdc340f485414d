#!/usr/bin/env bash
# torch.export: tied weights come back from a pt2 file as two parameters, of which the program uses one.
#
# Seen with torch 2.13.0 (CPU), Python 3.11. A network whose output layer shares the embedding's weight has one
# parameter, and so has the exported program's module. Saved and loaded, the module lists two of one storage: a count of
# parameters is too high, the first has no gradient (`torch.autograd.grad` over `parameters()` raises without
# `allow_unused`), and `.double()` makes two storages of them, so that a later change of the first is never seen.
#
#   exported: parameters e.weight; numbers 44
#   loaded: parameters e.weight, h.weight; numbers 88; with a gradient: h.weight
#   loaded, in float64: storages 2, e.weight set to zero changes the output: False
#
# Ends with 0 as long as this holds; with 1 where torch does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io
import sys

import torch

print("torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(0)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.h = torch.nn.Embedding(11, 4), torch.nn.Linear(4, 11, bias=False)
        self.h.weight = self.e.weight

    def forward(self, tokens):
        return self.h(self.e(tokens))


def told(name, module):
    parameters = dict(module.named_parameters())
    print(f"{name}: parameters {', '.join(parameters)}; numbers {sum(p.numel() for p in parameters.values())}", end="")
    return parameters


tokens = torch.randint(0, 11, (3, 5))
program = torch.export.export(Tied(), (tokens,))
holds = len(told("exported", program.module())) == 1
print()
file = io.BytesIO()
torch.export.save(program, file)
file.seek(0)
module = torch.export.load(file).module()
parameters = told("loaded", module)
found = torch.autograd.grad(module(tokens).square().sum(), list(parameters.values()), allow_unused=True)
moved = [name for name, g in zip(parameters, found, strict=True) if g is not None]
print("; with a gradient:", ", ".join(moved))
holds &= list(parameters) == ["e.weight", "h.weight"] and moved == ["h.weight"]
module.double()
before = module(tokens)
with torch.no_grad():
    module.e.weight.zero_()
changed = not torch.equal(before, module(tokens))
storages = len({p.data_ptr() for p in module.parameters()})
print(f"loaded, in float64: storages {storages}, e.weight set to zero changes the output: {changed}")
sys.exit(0 if holds and storages == 2 and not changed else 1)
PYTHON
