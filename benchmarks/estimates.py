"""What jobs take of a worker beside their estimate: `python -m benchmarks.estimates [--models mlp …] [--methods cg …]`.

Each job has a service of its own, so that its worker is new. `used` is the most memory of the worker's own while the
job ran (`RssAnon`, every 20 ms); `idle` and `loaded` are what it had before anything, and after the model was checked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.grids.subject import Peaks, memory_of
from service.local.background import running
from upweight import Client

MIB = 1024**2
EACH = 0.02  # seconds between two looks
SEQUENCE, VOCABULARY, LARGE_VOCABULARY = 64, 500, 50_000
METHODS: dict[str, dict[str, Any]] = {
    "direct": {"inversion": {"method": "direct"}},
    # To the end, for what is solved is refined in float64; and where float32 is asked for.
    "cg": {"inversion": {"method": "cg", "maxiter": 60, "unsolved": "keep"}},
    "cg-single": {"inversion": {"method": "cg", "maxiter": 60, "rtol": 1e-4, "unsolved": "keep"}},
    "lissa": {"inversion": {"method": "lissa", "maxiter": 6, "unsolved": "keep"}},
    "arnoldi": {"inversion": {"method": "arnoldi", "rank_estimate": 8, "unsolved": "keep"}},
    "ekfac": {
        "curvature": {"kind": "empirical_fisher", "structure": "ekfac"},
        "inversion": {"method": "direct"},
    },
}
Rows = tuple[np.ndarray, np.ndarray]


def mlp() -> tuple[nn.Module, Rows]:
    """2,922 parameters on 2,000 rows."""
    generator = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 26))
    x = generator.normal(size=(2000, 64)).astype("f4")
    return net, (x, generator.integers(0, 26, 2000))


def wide() -> tuple[nn.Module, Rows]:
    """Ten million parameters on 2,000 rows."""
    generator = np.random.default_rng(0)
    net = nn.Sequential(
        nn.Linear(784, 2800), nn.Tanh(), nn.Linear(2800, 2800), nn.Tanh(), nn.Linear(2800, 10)
    )
    x = generator.normal(size=(2000, 784)).astype("f4")
    return net, (x, generator.integers(0, 10, 2000))


def resnet() -> tuple[nn.Module, Rows]:
    """11,181,642 parameters on 64 images of 3 × 32 × 32."""
    from benchmarks.structures.models import ResNet18

    generator = np.random.default_rng(0)
    x = generator.normal(size=(72, 3, 32, 32)).astype("f4")
    return ResNet18(), (x, generator.integers(0, 10, 72))


def decoder() -> tuple[nn.Module, Rows]:
    """0.9 million parameters on 72 sequences."""
    return _gpt2(VOCABULARY, 128, 4)


def gpt2() -> tuple[nn.Module, Rows]:
    """GPT-2's shape, narrower: 26 million parameters, 6.4 of them for the vocabulary."""
    return _gpt2(VOCABULARY * 20, 512, 6)


def embedding() -> tuple[nn.Module, Rows]:
    """Nearly all of 3.3 million parameters are the vocabulary's."""
    return _gpt2(LARGE_VOCABULARY, 64, 1)


def _gpt2(vocabulary: int, width: int, layers: int) -> tuple[nn.Module, Rows]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=4, n_positions=SEQUENCE, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, vocabulary, (72, SEQUENCE + 1))
    return GPT2LMHeadModel(config), (tokens[:, :-1].copy(), tokens[:, 1:].copy())


MODELS: dict[str, Callable[[], tuple[nn.Module, Rows]]] = {
    "mlp": mlp,
    "wide": wide,
    "resnet": resnet,
    "decoder": decoder,
    "gpt2": gpt2,
    "embedding": embedding,
}


def measured(model: str, method: str, tests: int, budget: int) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    module, (x, y) = MODELS[model]()
    loss: Any = "cross_entropy"
    if y.ndim > 1:
        loss = {"name": "cross_entropy", "class_axis": -1}
    settings = {
        "UPWEIGHT_MEMORY_BYTES": str(budget), "UPWEIGHT_THREADS": "2", "UPWEIGHT_HUGGINGFACE": "gpt2",
        "UPWEIGHT_BLOB_BYTES": str(1 << 33),
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=settings) as service,
        Client(service.url, timeout=600) as client,
    ):
        pid = service.pid("worker-1")
        idle = memory_of(pid, "RssAnon")
        client.models.register("net", module.eval(), example=x[:2], loss=loss)
        client.datasets.register("rows", x=x, y=y)
        loaded = memory_of(pid, "RssAnon")
        kind = METHODS[method].get("curvature", {"kind": "gauss_newton"})
        request = {
            "kind": "influences", "model": "net", "train": {"dataset": "rows", "rows": f"{tests}:"},
            "test": {"dataset": "rows", "rows": f"0:{tests}"}, "hessian_regularization": 1.0,
            "keep": {"matrix": True}, **METHODS[method], "curvature": kind,
        }  # fmt: skip
        began = time.monotonic()
        with Peaks(service, ["worker-1"], EACH) as peaks:
            job = client.jobs.wait(client.jobs.create(request), progress=False)
        seconds = time.monotonic() - began
        assert job.estimate is not None
        estimated, used = job.estimate.memory_bytes, peaks.anonymous["worker-1"]
        return (
            f"| {model} | {method} | {tests} | {budget / MIB:.0f} | {idle / MIB:.0f} | {loaded / MIB:.0f} | "
            f"{used / MIB:.0f} | {estimated / MIB:.0f} | {estimated / used:.2f} | {seconds:.0f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tests", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--budgets", nargs="+", type=int, default=[512], help="MiB")
    options = parser.parse_args(arguments)
    print(
        "| model | method | test rows | budget | idle | loaded | used | estimated | ratio | s |",
        flush=True,
    )
    for model in options.models:
        for method in options.methods:
            if method == "direct" and model != "mlp":
                continue
            for tests in options.tests:
                for budget in options.budgets:
                    try:
                        line = measured(model, method, tests, budget * MIB)
                    except Exception as error:  # one that is refused is a line, too
                        line = f"| {model} | {method} | {tests} | {budget} | {str(error)[:300]!r}"
                    print(line, flush=True)


if __name__ == "__main__":
    main()
