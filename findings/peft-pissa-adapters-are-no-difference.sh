#!/usr/bin/env bash
# peft: a saved PiSSA or OLoRA adapter is not a difference from its base; W + (alpha / r) B A is another model.
#
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11. These beginnings take a part out of the base's
# weight in memory and put it into A and B. The files hold A and B, as those of any LoRA, under the same names; only
# `init_lora_weights` in the config says that the base is not the base. peft itself does the same to the base again when it
# loads them. Who reads the tensors and adds them counts that part twice. Adapters that were saved untrained, outputs
# beside the base's model:
#
#   default: live 0.00, read by peft 0.00, added by hand 0.00
#   pissa: live 0.00, read by peft 0.00, added by hand 0.26
#   olora: live 0.00, read by peft 0.00, added by hand 0.25
#
# Ends with 0 as long as this holds; with 1 where peft does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import sys

import peft
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear

print("peft", peft.__version__, "torch", torch.__version__, "Python", sys.version.split()[0])
torch.manual_seed(1)
x = torch.randn(5, 16)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, rows):
        return self.b(torch.tanh(self.a(rows)))


def apart(outputs, others):
    return float((outputs - others).detach().abs().max())


holds = True
for how, name in ((True, "default"), ("pissa", "pissa"), ("olora", "olora")):
    base = Network()
    expected = base(x)
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["a"], init_lora_weights=how)
    live = peft.get_peft_model(Network(), config).eval()
    live.save_pretrained(name)
    read = peft.PeftModel.from_pretrained(Network(), name).eval()
    saved = load_file(f"{name}/adapter_model.safetensors")
    a, b = (next(value for key, value in saved.items() if part in key) for part in ("lora_A", "lora_B"))
    by_hand = base.b(torch.tanh(linear(x, base.a.weight + config.lora_alpha / config.r * b @ a, base.a.bias)))
    found = apart(live(x), expected), apart(read(x), expected), apart(by_hand, expected)
    print(f"{name}: live {found[0]:.2f}, read by peft {found[1]:.2f}, added by hand {found[2]:.2f}")
    holds &= max(found[:2]) < 1e-5 and (found[2] < 1e-5 if name == "default" else found[2] > 0.05)
sys.exit(0 if holds else 1)
PYTHON
