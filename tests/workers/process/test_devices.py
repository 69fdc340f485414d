"""One GPU a worker, whoever starts them; a device that is not there, or has its workers, is said so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pytest
import torch

from upweight.errors import Unavailable
from workers.process.devices import claimed_device, first_with_room

GPUS = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}
HOLDER = """
import sys
from pathlib import Path
from workers.process.devices import first_with_room
held = first_with_room(["cuda:0"], {"cuda:0": "GPU-a"}, 1, Path(sys.argv[1]))
print(held[0], flush=True)
sys.stdin.read()
"""


class Machine:
    """GPUs that workers take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.locks: list[IO[str]] = []

    def take(self, wanted: list[str], each: int = 1, gpus: Mapping[str, str] = GPUS) -> str:
        name, lock = first_with_room(wanted, gpus, each, self.folder)
        self.locks.append(lock)
        return name


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for lock in made.locks:
        lock.close()


def test_workers_take_one_gpu_each_and_then_there_is_none_left(machine: Machine) -> None:
    assert [machine.take(list(GPUS)) for _ in GPUS] == ["cuda:0", "cuda:1"]
    with pytest.raises(Unavailable, match="UPWEIGHT_WORKERS_PER_DEVICE"):
        machine.take(list(GPUS))
    machine.locks[0].close()
    assert machine.take(list(GPUS)) == "cuda:0"


def test_a_setting_lets_several_share_a_gpu_when_each_has_one(machine: Machine) -> None:
    taken = [machine.take(list(GPUS), each=2) for _ in range(4)]
    assert taken == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_the_same_gpu_under_another_number_is_the_same_gpu(machine: Machine) -> None:
    machine.take(["cuda:1"])
    with pytest.raises(Unavailable, match="cuda:0: each has 1"):
        machine.take(["cuda:0"], gpus={"cuda:0": "GPU-b"})


def test_a_killed_worker_lets_go_of_its_gpu(machine: Machine) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(machine.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"cuda:0\n"
        with pytest.raises(Unavailable):
            machine.take(["cuda:0"])
        holder.kill()
    assert machine.take(["cuda:0"]) == "cuda:0"


@pytest.mark.parametrize("wish", ["gpu", "cuda:", "cuda:x", "xla", ""])
def test_what_is_no_device_is_refused_with_those_there_are(wish: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is no device; there are: auto, cpu"):
        claimed_device(wish, 1, tmp_path)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no device 'cuda:99' here; there are: cpu"):
        claimed_device("cuda:99", 1, tmp_path)


def test_any_number_of_workers_share_the_cpu(tmp_path: Path) -> None:
    claims = [claimed_device("cpu", 1, tmp_path) for _ in range(5)]
    assert {claim.device for claim in claims} == {torch.device("cpu")}
    assert list(tmp_path.iterdir()) == []
