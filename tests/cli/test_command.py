"""The command, as a user calls it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.patience import PATIENCE
from upweight import __version__


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upweight.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where a package is not installed."""
    script = (
        "import sys\n"
        "missing = sys.argv.pop(1)\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] != missing:\n"
        "            return self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]\n"
        "from upweight.cli.__main__ import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, package, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"upweight {__version__}\n"


def test_help_names_every_noun() -> None:
    words = run("--help").stdout
    for noun in ("serve", "worker", "keys"):
        assert noun in words


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["serve"], "upweight[service]"),
        ("fastapi", ["keys", "list"], "upweight[service]"),
        ("service", ["keys", "list"], "upweight[service]"),
        ("torch", ["serve"], "upweight[workers]"),
        ("torch", ["worker"], "upweight[workers]"),
    ],
)
def test_a_partial_installation_says_in_one_line_what_to_install(
    missing: str, arguments: list[str], extra: str
) -> None:
    ended = without(missing, *arguments)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert extra in ended.stderr


def test_a_mistake_in_an_option_is_named() -> None:
    ended = run("serve", "--workers", "0")
    assert ended.returncode == 2
    assert "--workers" in ended.stderr


def test_the_command_imports_no_torch_and_no_front_end() -> None:
    script = (
        "import sys, upweight.cli.command\n"
        "print(sorted({'torch', 'fastapi', 'numpy'} & sys.modules.keys()))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
