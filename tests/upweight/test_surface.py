"""What the package offers by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import upweight
from upweight.errors import UpweightError, error_classes


def test_names_are_sorted_and_all_there() -> None:
    assert upweight.__all__ == sorted(upweight.__all__)
    assert all(getattr(upweight, name) is not None for name in upweight.__all__)


def test_errors_of_our_side_never_stand_for_a_status_of_the_service() -> None:
    found = [getattr(upweight, name) for name in upweight.__all__]
    errors = [c for c in found if isinstance(c, type) and issubclass(c, UpweightError)]
    classes = [c for c in errors if c.__module__ != "upweight.errors"]
    assert {c.status for c in classes} == {0}
    assert len({c.type for c in classes}) == len(classes)
    assert {c.type for c in classes} <= set(error_classes())


def test_every_error_has_its_name_at_the_top() -> None:
    assert all(getattr(upweight, cls.__name__) is cls for cls in error_classes().values())


def test_a_bar_of_bytes_counts_in_their_units() -> None:
    from upweight.progress import Bar

    bar = Bar("uploading", 4_000_000, "B", None)
    assert list(bar.over([b"x" * 1_000_000])) == [b"x" * 1_000_000]
    assert bar.text().endswith("25%  1.0 MB of 4.0 MB")
    assert not bar.drawn


def test_what_is_quiet_neither_draws_nor_logs(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from upweight.progress import Bars

    with caplog.at_level("INFO", "upweight"):
        with Bars(True, quiet=True).bar("exporting a net", 3) as bar:
            bar.to(3, 3)
        assert (capsys.readouterr().err, caplog.text) == ("", "")
        Bars(False).bar("exporting a net")
    assert "exporting a net" in caplog.text


@pytest.mark.parametrize("noun", ["blobs", "models", "datasets", "jobs", "banks", "webhooks"])
def test_completion_shows_methods_alone(noun: str) -> None:
    with upweight.Client("http://127.0.0.1:1") as client:
        resource = getattr(client, noun)
        shown = [name for name in dir(resource) if not name.startswith("_")]
        assert shown
        assert all(callable(getattr(resource, name)) for name in shown)


def loaded(code: str, unwanted: set[str]) -> str:
    """Which of the unwanted modules a fresh interpreter has after the code."""
    code = f"{code}; import sys; print(', '.join(sorted({unwanted!r} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_clients_load_no_torch_no_front_end_no_queue() -> None:
    code = (
        "import upweight; upweight.Client().close(); upweight.AsyncClient; upweight.export_program"
    )
    heavy = {"torch", "fastapi", "redis", "rq", "zarr", "obstore", "safetensors", "typer"}
    assert loaded(code, heavy) == ""


def test_importing_the_package_alone_loads_nothing_else() -> None:
    assert loaded("import upweight", {"pydantic", "numpy", "httpx2", "torch"}) == ""


def test_the_clients_are_there_before_numpy_and_http_are_loaded() -> None:
    late = {"numpy", "httpx2", "asyncio", "ssl", "upweight.export", "upweight.results.handover"}
    late |= {"upweight.results.pictures", "upweight.results.plot", "upweight.results.notebook"}
    names = ", ".join(name for name in upweight.__all__ if name[0].isupper())
    assert loaded(f"from upweight import {names}".replace("ExportFailed, ", ""), late) == ""


def test_a_package_that_is_loaded_late_is_the_package() -> None:
    import numpy

    import upweight.late.numpy as late

    assert late.float32 is numpy.float32
    assert late.lib.format is numpy.lib.format
    with pytest.raises(AttributeError, match="float31"):
        late.float31  # noqa: B018


def test_the_command_starts_without_the_contract_and_without_http() -> None:
    heavy = {"pydantic", "numpy", "httpx2", "torch"}
    assert loaded("import upweight.cli.command", heavy) == ""
