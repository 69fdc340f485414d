"""The engine's public face, and what it may lean on."""

from __future__ import annotations

import subprocess
import sys

import workers.engine as engine


def test_the_exported_names_are_sorted_and_all_there() -> None:
    assert engine.__all__ == sorted(engine.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_every_error_has_a_code_of_its_own() -> None:
    errors = [
        each
        for name in engine.__all__
        if isinstance(each := getattr(engine, name), type) and issubclass(each, engine.EngineError)
    ]
    assert len({each.code for each in errors}) == len(errors) > 8


def test_it_imports_torch_and_nothing_of_the_service() -> None:
    script = (
        "import sys, workers.engine\nprint(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in loaded
    assert not {"upweight", "service", "pydantic", "redis", "rq", "obstore", "zarr"} & set(loaded)
