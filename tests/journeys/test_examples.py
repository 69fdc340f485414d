"""What we tell users to write works as it is written: the examples of the README, in a fresh service's own terms."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.local.background import Running
from upweight import Client, InfluenceResult

README = Path(__file__).parent.parent.parent / "README.md"


def examples(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)
    return [each for each in found if "client" in each or "curl" in each]


@pytest.fixture(scope="module")
def after_python(
    stack: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """The README's Python with nothing before it, run where it may leave files."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.chdir(tmp_path_factory.mktemp("readme"))
        patch.setenv("UPWEIGHT_URL", stack.url)
        for code in examples("python"):
            exec(compile(code, "README.md", "exec"), names)
    yield names
    names["client"].close()


def test_the_readmes_python_runs(after_python: dict[str, Any]) -> None:
    result = after_python["result"]
    assert isinstance(result, InfluenceResult)
    assert result.shape == (397, 1400)
    assert result.influences[3:5, ::10].shape == (2, 140)
    assert len(result.top(test=0, k=5, sign="harmful").items) == 5
    assert np.isfinite(result.numpy()).all()


def test_the_readmes_model_is_trained_anew_and_its_scores_are_judged(
    after_python: dict[str, Any],
) -> None:
    training = after_python["better"].training
    assert training.metrics.rows == 397
    assert training.metrics.accuracy > 0.85
    with Client(after_python["client"].connection.url) as client:
        judged = next(iter(client.jobs.list(kind="quality", model="digits-linear", limit=1)))
    assert judged.request.results == (after_python["result"].id,)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl; none here")
def test_the_readmes_curl_runs(
    stack: Running, after_python: dict[str, Any], tmp_path: Path
) -> None:
    (script,) = examples("sh")
    script = script.replace("http://127.0.0.1:8765", stack.url)
    assert stack.url in script
    python = f'python3() {{ {sys.executable} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-ec", python + script], cwd=tmp_path, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    assert '"state":"succeeded"' in done.stdout.replace(" ", "")
    assert '"sign":"harmful"' in done.stdout.replace(" ", "")
    assert np.load(tmp_path / "slice.npy").shape == (10, 100)


def test_the_three_functions_do_what_users_of_other_libraries_expect(
    stack: Running, after_python: dict[str, Any]
) -> None:
    """The example of the contract, with the names that the README has registered."""
    with Client(stack.url) as client:
        model, train, test = (after_python[name] for name in ("model", "train", "test"))
        result = client.compute_influences(
            model, train, test, test_rows="0:20", inversion_method="cg",
            hessian_regularization=0.05, maxiter=100, rtol=0.01,
        )  # fmt: skip
        assert isinstance(result.influences[0], np.ndarray)
        assert len(result.top(test=0, k=5).items) == 5
        factors = client.compute_influence_factors(
            model, train, test, test_rows="0:20", inversion_method="arnoldi", rank_estimate=10,
            hessian_regularization=0.05,
        )  # fmt: skip
        assert factors.x.shape == (20, model.parameter_count)
        assert factors.info.method == "arnoldi"
        b = np.ones((2, model.parameter_count), "f4")
        solved = client.solve_hvp("direct", model, train, b, hessian_regularization=0.05)
        assert np.isfinite(solved.x.numpy()).all()
