"""Each stage of a large model's job tells how long it takes, and ends when its job is cancelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.local.background import Running
from tests.faults.slow_jobs import SlowJobs
from upweight import Client
from upweight.schema import JobRecord, JobState

VOCABULARY, WIDTH, HEADS, LAYERS, TOKENS, ROWS = 96, 256, 4, 4, 32, 96


class Layer(nn.Module):
    """Causal attention and a feed-forward layer, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.project(self.before(hidden)).unflatten(-1, (3, HEADS, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.merge(mixed.transpose(1, 2).flatten(2))
        return hidden + self.contract(F.gelu(self.expand(self.after(hidden))))


class Decoder(nn.Module):
    """3.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.Sequential(*[Layer() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(tokens))))


@pytest.fixture(scope="module")
def large(fragile: Running) -> Iterator[SlowJobs]:
    with Client(fragile.url, timeout=600) as client:
        slow = SlowJobs(fragile, client)
        torch.manual_seed(0)
        tokens = torch.randint(0, VOCABULARY, (ROWS, TOKENS + 1))
        x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        loss = {"name": "cross_entropy", "class_axis": -1}
        client.models.register("decoder", Decoder().eval(), example=x[:2], loss=loss)
        client.datasets.register("texts", x=x, y=y)
        yield slow


EKFAC = {
    "curvature": {"kind": "empirical_fisher", "structure": "ekfac"},
    "inversion_method": "direct",
}
CG = {"curvature": {"kind": "gauss_newton"}, "inversion_method": "cg", "unsolved": "keep"}
NOTHING_TO_FIT = {**EKFAC, "curvature": {"kind": "empirical_fisher", "structure": "identity"}}
STAGES = {
    "covariances": EKFAC,
    "eigenvectors": EKFAC,
    "eigenvalues": EKFAC,
    "cg": CG,
    "up": NOTHING_TO_FIT,
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tells_what_is_left_and_ends_with_its_job(large: SlowJobs, stage: str) -> None:
    job = large.client.compute_influences(
        "decoder", "texts", "texts", test_rows="0:4", hessian_regularization=1e-3, batch_size=1,
        wait=False, blocks={"spread": False}, **STAGES[stage],
    ).job  # fmt: skip

    def told(record: JobRecord) -> bool:
        here = record.stage == stage and record.eta_seconds is not None
        return here or record.finished_at is not None

    record = large.seen(job, told)
    assert record.state is JobState.RUNNING, record
    assert record.progress is not None
    large.client.jobs.cancel(job)
    done = large.ended(job)
    assert done.state is JobState.CANCELLED
    assert large.objects(job) == []
