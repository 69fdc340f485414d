"""A data folder that was moved, that is of another version, or whose disk fills while the service starts again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.local.background import running
from service.local.format import FILE, FORMAT, brought_up_to_date
from service.local.trouble import LocalTrouble
from tests.patience import PATIENCE
from upweight import Client

pytestmark = pytest.mark.timeout(240)
ONE_THREAD = {"UPWEIGHT_THREADS": "1"}


def request(test: str) -> dict[str, object]:
    return {
        "kind": "influences", "model": "net", "train": {"dataset": "rows"}, "test": {"dataset": "rows", "rows": test},
        "inversion": {"method": "direct"}, "hessian_regularization": 1.0, "precision": "float64",
    }  # fmt: skip


def influences(client: Client, test: str) -> np.ndarray:
    job = client.jobs.wait(client.jobs.create(request(test)), progress=False)
    found = client.jobs.result(job.id).influences
    assert found is not None
    return found.numpy()


@dataclass(frozen=True)
class Filled:
    """The data folder of a service that has ended, with a model, rows and a job; the job's id and numbers."""

    folder: Path
    job: str
    numbers: np.ndarray

    def copied(self, to: Path) -> Path:
        """One that may be changed."""
        shutil.copytree(self.folder, to)
        return to

    def assert_all_is_in(self, data: Path, log: Callable[[str], None] | None = None) -> None:
        """A service on that folder has what was stored, and comes to the same numbers again."""
        with (
            running(data, environment=ONE_THREAD, log=log) as service,
            Client(service.url) as client,
        ):
            stored = client.jobs.result(self.job).influences
            assert stored is not None
            assert np.array_equal(stored.numpy(), self.numbers)
            assert np.array_equal(influences(client, "0:4"), self.numbers)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    data = tmp_path_factory.mktemp("filled") / "data"
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    with running(data, environment=ONE_THREAD) as service, Client(service.url) as client:
        client.models.register("net", nn.Linear(3, 2).double(), example=x[:2], loss="cross_entropy")
        client.datasets.register("rows", x=x, y=(x[:, 0] > 0).long())
        job = client.jobs.wait(client.jobs.create(request("0:4")), progress=False)
        found = client.jobs.result(job.id).influences
        assert found is not None
        return Filled(data, job.id, found.numpy())


def test_a_folder_that_was_moved_has_everything_and_one_without_a_number_is_taken_over(
    tmp_path: Path, filled: Filled
) -> None:
    moved = filled.copied(tmp_path / "elsewhere" / "after")
    (moved / FILE).unlink()  # as versions before had none
    before, lines = written(filled.folder), list[str]()
    filled.assert_all_is_in(moved, lines.append)
    assert any("of an older version" in line for line in lines)
    assert written(filled.folder) == before, "nothing goes to where it was"


def written(folder: Path) -> dict[Path, int]:
    """When each file and folder was last changed."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_new_folder_is_marked_and_a_marked_one_left_alone(tmp_path: Path) -> None:
    assert brought_up_to_date(tmp_path) is None
    assert (tmp_path / FILE).read_text() == f"{FORMAT}\n"
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    (tmp_path / "redis").mkdir()
    assert brought_up_to_date(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{FORMAT + 1}\n", f"newer Upweight (format {FORMAT + 1}; this one knows {FORMAT})"),
        ("", "should hold a number"),
        ("two", "should hold a number"),
        ("-1", "should hold a number"),
        ("²", "should hold a number"),
    ],
)
def test_a_folder_of_a_newer_version_is_refused_in_words_and_not_touched(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / FILE).write_text(content)
    (tmp_path / "redis").mkdir()
    with pytest.raises(LocalTrouble) as refused:
        brought_up_to_date(tmp_path)
    assert words in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert (tmp_path / FILE).read_text() == content
    assert os.listdir(tmp_path / "redis") == []


def test_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("99")
    command = [sys.executable, "-m", "service.local", "--data-dir", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert "newer Upweight (format 99" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes rights that this user does not have")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_up(disk: Path, leaving: int) -> Path:
    """Takes all room but so many bytes; the file that has to go for more."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - leaving))
    return filler


@pytest.mark.parametrize("leaving", [0, 8 * 1024, 64 * 1024])
def test_a_disk_that_fills_while_the_service_starts_again_loses_nothing(
    small_disk: Path, filled: Filled, leaving: int
) -> None:
    data = filled.copied(small_disk / "data")
    filler = fill_up(small_disk, leaving)

    command = [sys.executable, "-m", "service.local", "--data-dir", str(data), "--port", "0"]
    said, came_up = "", False
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ONE_THREAD},
    ) as starting:
        assert starting.stdout is not None
        for line in starting.stdout:
            said += line
            if "Upweight is ready at" in line:  # it has come up with what there was
                came_up = True
                starting.send_signal(signal.SIGTERM)
    assert "Traceback" not in said
    if not came_up:
        assert starting.returncode == 1
        assert str(data) in said
        assert "room" in said

    filler.unlink()
    filled.assert_all_is_in(data)
