"""A language model of next to no parameters: it looks back alone, and takes texts of any length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, PAD = 7, 4, 0
IGNORED = -100


class Decoder(nn.Module):
    """Embedding, one head of attention to what came before, a layer over tokens, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.mixed = nn.Linear(WIDTH, 3 * WIDTH)
        self.inner = nn.Linear(WIDTH, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, vocabulary)."""
        x = self.embedding(tokens)
        query, key, value = self.mixed(x).chunk(3, -1)
        length = tokens.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = (query @ key.mT / WIDTH**0.5).masked_fill(later, -torch.inf).softmax(-1)
        hidden: Tensor = self.head(self.norm(torch.tanh(self.inner(x + weights @ value))))
        return hidden


def decoder() -> Decoder:
    """The same each time, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Decoder().double().eval()


def texts(rows: int, length: int = 5, *, padded: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and the next ones, -100 at the end and behind it: texts of 3 tokens and more, `padded` by so many."""
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    lengths = 3 + torch.arange(rows) % (length - 2)
    inside = torch.arange(length) < lengths[:, None]
    tokens = torch.where(inside, tokens, PAD)
    following = torch.cat([tokens[:, 1:], torch.full((rows, 1), PAD)], 1)
    has_label = torch.arange(length) < lengths[:, None] - 1
    targets = torch.where(has_label, following, IGNORED)
    more = torch.full((rows, padded), PAD), torch.full((rows, padded), IGNORED)
    return torch.cat([tokens, more[0]], 1), torch.cat([targets, more[1]], 1)


def position_gradients(module: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """(B, T, p): of what each position adds to its row's mean loss, by autograd, a position at a time."""
    parameters = list(module.parameters())
    found = torch.zeros(*targets.shape, sum(each.numel() for each in parameters)).double()
    for row, (x, y) in enumerate(zip(tokens, targets, strict=True)):
        count = int((y != IGNORED).sum())
        for at in range(len(y)):
            if y[at] == IGNORED:
                continue
            loss = -module(x[None])[0, at].log_softmax(-1)[y[at]] / count
            gradients = torch.autograd.grad(loss, parameters)
            found[row, at] = torch.cat([each.flatten() for each in gradients])
    return found
