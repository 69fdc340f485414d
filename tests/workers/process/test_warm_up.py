"""What a worker does before its first job must never keep it from starting."""

from __future__ import annotations

import torch

from workers.process.devices import warm_up


def test_a_worker_warms_up_whatever_its_random_weights() -> None:
    with torch.random.fork_rng():
        for seed in range(50):
            torch.manual_seed(seed)
            warm_up(torch.device("cpu"))
