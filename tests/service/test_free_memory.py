"""The memory of blocks as a part of what is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import GIB, MIB, Settings, automatic_bytes, free_bytes


@pytest.mark.parametrize(
    ("free", "expected"),
    [(20 * GIB, 4 * GIB), (16 * GIB, 4 * GIB), (16 * GIB - 1, 2 * GIB), (GIB, 512 * MIB), (0, 512 * MIB)],
)  # fmt: skip
def test_it_is_a_quarter_as_a_power_of_two(free: int, expected: int) -> None:
    assert automatic_bytes(free) == expected


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   2048 kB\n")
    assert free_bytes(meminfo, tmp_path) == 2 * MIB
    (tmp_path / "memory.current").write_text("100\n")
    for limit, expected in (("max", 2 * MIB), ("1100", 1000), (str(GIB), 2 * MIB)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_bytes(meminfo, tmp_path) == expected


def test_a_machine_that_does_not_say_has_none_to_spare(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "missing", tmp_path) == 0


def test_a_worker_is_told_so_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPWEIGHT_MEMORY_BYTES", "auto")
    found = Settings().memory_bytes
    assert found >= 512 * MIB
    assert found.bit_count() == 1
