#!/usr/bin/env bash
# transformers: Llama, Mistral and Qwen2 in float64 give NaN at every position of a row that is padded on the left.
#
# Seen with transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11, with `attn_implementation="eager"`, which is the one that
# has second derivatives everywhere. The mask is made of the smallest number of the model's type, and the softmax is
# taken in float32, where float64's smallest number is minus infinity: a padded position attends to nothing, its softmax is
# 0/0, and the next layer carries that to all others, the masked keys included. In float32, and with `sdpa`, the same
# row has the logits of the row without padding. So a float64 copy, made as an exact reference, is the one that fails:
#
#   llama: float32 off by 0e+00, float64 NaN at 7 of 7 positions, float64 with sdpa off by 3e-17
#   mistral: float32 off by 0e+00, float64 NaN at 7 of 7 positions, float64 with sdpa off by 3e-17
#   qwen2: float32 off by 0e+00, float64 NaN at 7 of 7 positions, float64 with sdpa off by 3e-17
#
# Ends with 0 as long as this holds; with 1 where transformers does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__, "Python", sys.version.split()[0])
padded, mask = torch.tensor([[0, 0, 0, 5, 6, 7, 8]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])


def logits(kind, attention, dtype):
    """Of the padded row, and of the row without its padding."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=16, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().to(dtype)
    with torch.no_grad():
        return model(padded, attention_mask=mask).logits, model(padded[:, 3:]).logits


holds = True
for kind in ("llama", "mistral", "qwen2"):
    single, alone = logits(kind, "eager", torch.float32)
    double, _ = logits(kind, "eager", torch.float64)
    other, its_own = logits(kind, "sdpa", torch.float64)
    off, exact = float((single[:, 3:] - alone).abs().max()), float((other[:, 3:] - its_own).abs().max())
    lost = int(double.isnan().any(-1).sum())
    print(f"{kind}: float32 off by {off:.0e}, float64 NaN at {lost} of {mask.numel()} positions, float64 with sdpa off by {exact:.0e}")
    holds &= off < 1e-5 and lost == mask.numel() and exact < 1e-12
sys.exit(0 if holds else 1)
PYTHON
