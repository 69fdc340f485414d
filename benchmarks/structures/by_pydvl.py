"""pyDVL 0.10.0: EK-FAC of linear layers, from the model's predictions; in an environment of its own."""

from __future__ import annotations

import time
import warnings

from pydvl.influence.torch import EkfacInfluence
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.structures.models import Case

warnings.filterwarnings("ignore")


def measured(case: Case, drawn: bool) -> tuple[float, float, Tensor]:
    """Seconds of the fit, of the scores, and the scores (m, n)."""
    rows = DataLoader(TensorDataset(*case.train), case.batch)
    began = time.perf_counter()
    influence = EkfacInfluence(
        case.module, update_diagonal=True, hessian_regularization=case.damping
    ).fit(rows)
    fitted = time.perf_counter()
    scores: Tensor = influence.influences(*case.test, *case.train)
    return fitted - began, time.perf_counter() - fitted, scores.detach()
