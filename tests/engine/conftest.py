"""Everything random is seeded, and on one thread, since the models are tiny."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20261123)
    torch.set_num_threads(1)
