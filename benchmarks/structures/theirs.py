"""kronfluence 1.0.1: a fit and pairwise scores, by its own analyser; in an environment of its own."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.structures.models import Case


class Classes(Task):
    """Cross-entropy, summed over rows and tokens."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        """Of the data's labels, or of labels drawn from the model's predictions."""
        logits = model(batch[0]).flatten(0, -2)
        labels = batch[1].flatten()
        if sample:
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(-1), 1).flatten()
        return F.cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        """The loss."""
        return self.compute_train_loss(batch, model)


def measured(case: Case, drawn: bool) -> tuple[float, float, Tensor]:
    """Seconds of the fit, of the scores, and the scores (m, n)."""
    task = Classes()
    model = prepare_model(case.module, task)
    train, test = TensorDataset(*case.train), TensorDataset(*case.test)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            case.name, model=model, task=task, cpu=True, disable_tqdm=True, output_dir=folder
        )
        began = time.perf_counter()
        analyzer.fit_all_factors(
            factors_name="ekfac",
            dataset=train,
            per_device_batch_size=case.batch,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=not drawn),
        )
        fitted = time.perf_counter()
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="ekfac",
            query_dataset=test,
            train_dataset=train,
            per_device_query_batch_size=len(test),
            per_device_train_batch_size=case.batch,
            score_args=ScoreArguments(damping_factor=case.damping),
        )
        ended = time.perf_counter()
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    return fitted - began, ended - fitted, scores
