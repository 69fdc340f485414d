#!/usr/bin/env bash
# torch.export: nn.TransformerEncoder with mask= cannot be exported, unless is_causal is said, too.
#
# Seen with torch 2.13.0 (CPU), Python 3.11. Without is_causal the encoder compares the mask's values with a causal mask's,
# once a call, and takes what it finds as a number of Python. Live that is silent, in training and in evaluation; an exported
# graph cannot hold it, though the mask is a constant buffer. The message speaks of a size u0 and names neither mask nor
# is_causal. With either answer the export succeeds, and gives the live module's numbers but for rounding. A single
# nn.TransformerEncoderLayer with src_mask= looks at no values, and is exported as it is.
#
#   encoder, mask alone: strict UserError, not strict GuardOnDataDependentSymNode; is_causal named: no
#   encoder, is_causal=False: exported, off by 2e-07
#   encoder, is_causal=True: exported, off by 2e-07
#   layer, mask alone: exported, off by 2e-07
#
# Ends with 0 as long as this holds; with 1 where torch does otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/progress" <<'PYTHON' || { tail -5 "$folder/progress" >&2; exit 1; }
import sys

import torch
from torch import nn

print("torch", torch.__version__, "Python", sys.version.split()[0])
LENGTH = 4


class Encoder(nn.Module):
    def __init__(self, **hint):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))
        self.hint = hint

    def forward(self, x):
        return self.encoder(x, mask=self.mask, **self.hint)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, x):
        return self.layer(x, src_mask=self.mask)


torch.manual_seed(0)
x = torch.randn(3, LENGTH, 8)


def exported(net, strict):
    """How far the program is from the live module; or the error."""
    net = net.eval()
    with torch.no_grad():
        expected = net(x)
    try:
        program = torch.export.export(net, (x,), strict=strict)
    except Exception as error:
        return error
    with torch.no_grad():
        return float((program.module()(x) - expected).abs().max())


errors = [exported(Encoder(), strict) for strict in (True, False)]
named = any("is_causal" in str(error).splitlines()[0] for error in errors)
kinds = [type(error).__name__ for error in errors]
print(f"encoder, mask alone: strict {kinds[0]}, not strict {kinds[1]}; is_causal named: {'yes' if named else 'no'}")
good = all(isinstance(error, Exception) for error in errors) and not named
for title, net in (
    ("encoder, is_causal=False", Encoder(is_causal=False)),
    ("encoder, is_causal=True", Encoder(is_causal=True)),
    ("layer, mask alone", Layer()),
):
    off = [exported(net, strict) for strict in (True, False)]
    fine = all(isinstance(each, float) and each < 1e-6 for each in off)
    print(f"{title}: " + (f"exported, off by {max(off):.0g}" if fine else f"{off}"))
    good = good and fine
sys.exit(0 if good else 1)
PYTHON
