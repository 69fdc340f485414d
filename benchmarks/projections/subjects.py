"""What indexes are made of: networks that were trained here for a moment, on data that is there or is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import Loss, Problem, TensorRows, make_loss

VOCABULARY, LENGTH, SEQUENCES, KINDS = 256, 24, 2_000, 8
MATRICES = ("*_proj.weight",)  # of the language model: what bergson takes of it, too


@dataclass(frozen=True)
class Subject:
    """A network, its loss and its rows; `language_model` is the one of transformers that it wraps."""

    name: str
    module: nn.Module
    loss: Loss
    rows: TensorRows
    parameters: Sequence[str] = ("*",)
    language_model: Any = None
    modules: int = 0  # whose gradients are projected, of a language model

    def problem(self) -> Problem:
        """In float32."""
        return Problem(self.module, self.loss, self.parameters)


class Logits(nn.Module):
    """Of a language model, whose own answer is more than a tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, vocabulary)."""
        found: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return found


def digits() -> Subject:
    """1,797 rows of 64 numbers, ten classes."""
    x, y = load_digits(return_X_y=True)
    net = nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)
    )
    return _classifier("digits", net, torch.from_numpy(x / 16).float(), torch.from_numpy(y))


def table() -> Subject:
    """569 rows of 30 numbers, two classes."""
    x, y = load_breast_cancer(return_X_y=True)
    values = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    net = nn.Sequential(
        nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 2)
    )
    return _classifier("table", net, values, torch.from_numpy(y))


def decoder() -> Subject:
    """A Llama of two layers; sequences of eight Markov chains."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
        attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tokens = _chains(torch.Generator().manual_seed(1))
    targets = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), -100)], 1)
    net = Logits(model)

    def loss(some: Tensor) -> Tensor:
        return F.cross_entropy(net(tokens[some]).transpose(1, 2), targets[some])

    _train(net, len(tokens), loss)
    return Subject(
        "decoder", net.eval(), make_loss("cross_entropy", class_axis=-1),
        TensorRows(tokens, targets), MATRICES, model, 14,
    )  # fmt: skip


def _chains(generator: torch.Generator) -> Tensor:
    """(rows, length): each row of one of some chains."""
    steps = torch.randn(KINDS, VOCABULARY, VOCABULARY, generator=generator).mul(2.5).softmax(-1)
    kinds = torch.randint(0, KINDS, (SEQUENCES,), generator=generator)
    tokens = [torch.randint(0, VOCABULARY, (SEQUENCES,), generator=generator)]
    for _ in range(LENGTH - 1):
        following = torch.multinomial(steps[kinds, tokens[-1]], 1, generator=generator)
        tokens.append(following[:, 0])
    return torch.stack(tokens, 1)


def _classifier(name: str, net: nn.Module, x: Tensor, y: Tensor) -> Subject:
    torch.manual_seed(0)
    _train(net, len(x), lambda some: F.cross_entropy(net(x[some]), y[some]))
    return Subject(name, net.eval(), make_loss("cross_entropy"), TensorRows(x, y))


def _train(net: nn.Module, count: int, loss: Callable[[Tensor], Tensor]) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(200):
        some = torch.randint(0, count, (min(128, count),))
        optimizer.zero_grad()
        loss(some).backward()
        optimizer.step()


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "digits": digits,
    "table": table,
    "decoder": decoder,
}
