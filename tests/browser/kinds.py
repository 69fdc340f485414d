"""Rows that are no pictures in the running service: measurements with names, and sentences; a job for each view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from upweight import Client

NAUGHTY = "<img src=x onerror=alert(1)>"
# Some long, for they are what breaks a line.
WORDS = [
    *("the", "cat", "sat", "on", "mat", NAUGHTY, "unbelievably", "characteristically"),
    *("and", "it", "was", "never", "very", "warm"),
]
TOKENS = 12


@dataclass(frozen=True)
class Rows:
    """Data, and the ids of jobs about them."""

    url: str
    names: list[str]
    train: np.ndarray[Any, Any]
    test: np.ndarray[Any, Any]
    influences: str
    perturbation: str

    def page(self, job: str, *parts: object) -> str:
        """The address of a job's view."""
        return "/".join([f"{self.url}/#/jobs/{job}", *map(str, parts)])


class Bag(nn.Module):
    """Classifies token numbers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embedding(tokens)).mean(1))


def measured(url: str) -> Rows:
    """The 30 measurements of tumours, from a data frame."""
    # Here, as it takes seconds, which all who collect tests would take.
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=0)[:160]
    x = frame.drop(columns="target")
    values = ((x - x.mean()) / x.std()).astype("float32")
    frame = values.assign(diagnosis=frame["target"])
    torch.manual_seed(0)
    with Client(url) as client:
        example = torch.tensor(values.to_numpy()[:2])
        model = client.models.register(
            "tumours-net", nn.Linear(30, 2), example=example, loss="cross_entropy"
        )
        named = {"targets": "diagnosis", "class_names": ["malignant", "benign"]}
        train = client.datasets.register("tumours-train", frame[:120], **named)
        test = client.datasets.register("tumours-test", frame[120:], **named)
        jobs = _jobs(client, model, train, test)
    x_train, x_test = values.to_numpy()[:120], values.to_numpy()[120:]
    return Rows(url, list(values), x_train, x_test, *jobs)


def written(url: str) -> Rows:
    """Sentences as token numbers, with a vocabulary."""
    tokens = np.random.default_rng(1).integers(0, len(WORDS), size=(60, TOKENS))
    torch.manual_seed(1)
    with Client(url) as client:
        model = client.models.register(
            "sentences-net", Bag(len(WORDS)).eval(), example=torch.from_numpy(tokens[:2]), loss="cross_entropy"
        )  # fmt: skip
        vocabulary = client.blobs.put(json.dumps(WORDS).encode()).digest
        named: dict[str, Any] = {
            "preview": {"kind": "text", "column": "x", "vocabulary": vocabulary},
            "class_names": [NAUGHTY, "fine"],
        }
        train = client.datasets.register("sentences-train", x=tokens[:40], y=tokens[:40, 0] % 2, **named)  # fmt: skip
        test = client.datasets.register("sentences-test", x=tokens[40:], y=tokens[40:, 0] % 2, **named)  # fmt: skip
        jobs = _jobs(client, model, train, test, perturb_at="embedding")
    return Rows(url, WORDS, tokens[:40], tokens[40:], *jobs)


def _jobs(client: Client, *named: Any, **perturbed: Any) -> tuple[str, str]:
    solved: dict[str, Any] = {"inversion_method": "direct", "hessian_regularization": 1.0}
    kept = {"matrix": True, "mean": True}
    influences = client.compute_influences(*named, keep=kept, **solved)
    perturbation = client.compute_influences(
        *named, influence_type="perturbation", test_rows="0:6", train_rows="0:30", **perturbed, **solved
    )  # fmt: skip
    return influences.id, perturbation.id
