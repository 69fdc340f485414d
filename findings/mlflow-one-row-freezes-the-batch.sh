#!/usr/bin/env bash
# MLflow's torch models: an input example of one row freezes the batch at one, while the signature still says -1.
#
# Seen with mlflow-skinny 3.17.2, torch 2.13.0 (CPU), Python 3.11. `mlflow.pytorch.save_model` exports the module as pt2
# by default and frees the first dimension by Dim.AUTO, which torch fixes where the example has one row there. The
# MLmodel file says [-1, 4] all the same, and the loaded model fails on other batches. There is no argument to give
# dynamic shapes; an example of two rows frees it. The module is exported in the mode that it is in as well: dropout
# stays at work in what `load_model` gives back, while a model loaded from a pickle is put into evaluation mode.
#
#   one row     signature [-1, 4] batch of 3: fails
#   two rows    signature [-1, 4] batch of 3: works
#   training mode, two predictions of the same rows are the same: pt2 False pickle True
#
# Ends with 0 as long as this holds; with 1 where MLflow does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 mlflow-skinny==3.17.2 numpy pandas scipy
cd "$folder"
MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import json
import sys

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import Model, infer_signature

print("mlflow", mlflow.__version__, "torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(0)
x = np.random.default_rng(0).random((3, 4), dtype=np.float32)
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
signature = infer_signature(x, net(torch.tensor(x)).detach().numpy())


def saved(name, module, **options):
    mlflow.pytorch.save_model(module, name, signature=signature, pip_requirements=["torch"], **options)
    return mlflow.pytorch.load_model(name)


holds = True
for name, rows in (("one row", 1), ("two rows", 2)):
    loaded = saved(name, net.eval(), input_example=x[:rows])
    shape = json.loads(Model.load(name).signature.to_dict()["inputs"])[0]["tensor-spec"]["shape"]
    try:
        loaded(torch.tensor(x))
        works = True
    except Exception:
        works = False
    print(f"{name:11} signature {shape} batch of 3: {'works' if works else 'fails'}")
    holds &= shape == [-1, 4] and works == (rows == 2)


def steady(module):
    return torch.equal(module(torch.tensor(x)), module(torch.tensor(x)))


pt2 = steady(saved("training pt2", net.train(), input_example=x))
pickle = steady(saved("training pickle", net.train(), serialization_format="pickle"))
print("training mode, two predictions of the same rows are the same: pt2", pt2, "pickle", pickle)
holds &= not pt2 and pickle
sys.exit(0 if holds else 1)
PYTHON
