"""Help: a line and a working example for every command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.cli.conftest import Upweight
from upweight.cli.command import command


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(node, "commands", None)
    if children is None:
        yield path, node
        return
    for name, child in children.items():
        yield from commands(child, (*path, name))


ROOT = typer.main.get_command(command)
ALL = dict(commands(ROOT))


def example_lines(text: str) -> list[list[str]]:
    """The examples as words, lines that go on joined."""
    _, _, shown = text.partition("Example:\n")
    lines = re.sub(r"\\\n\s*", "", shown).splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def test_the_nouns_are_those_of_the_documentation() -> None:
    assert {path[0] for path in ALL} >= {
        "serve", "worker", "models", "datasets", "jobs", "results", "webhooks", "keys", "reindex",
        "doctor",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_shows_what_it_does_and_an_example_that_it_takes(
    upweight: Upweight, path: tuple[str, ...]
) -> None:
    shown = upweight(*path, "--help")
    assert shown.code == 0
    assert ALL[path].help
    examples = example_lines(shown.out)
    assert examples
    for words in examples:
        start = words.index("upweight")
        assert tuple(words[start + 1 : start + 1 + len(path)]) == path
        known = {option for parameter in ALL[path].params for option in parameter.opts}
        known |= {option for parameter in ALL[path].params for option in parameter.secondary_opts}
        used = {word for word in words[start:] if re.fullmatch("--.+|-[a-zA-Z]", word)}
        assert used <= known


@pytest.mark.parametrize("path", [(), ("jobs",), *ALL], ids=" ".join)
def test_help_is_asked_for_shortly_and_shows_nothing_of_the_parsers(
    upweight: Upweight, path: tuple[str, ...]
) -> None:
    shown = upweight(*path, "-h").out
    assert shown == upweight(*path, "--help").out
    assert not re.search(r"[<{]\w+[^\n]*[>}]|\.\.\.\.", shown.partition("Example:")[0])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_the_usual_shells(
    upweight: Upweight,
    shell: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit):
        upweight("--show-completion", shell)
    assert "_UPWEIGHT_COMPLETE" in capsys.readouterr().out


def test_a_completion_knows_commands_and_options(
    upweight: Upweight, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_UPWEIGHT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "upweight jobs ")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        upweight()
    assert {"submit", "watch", "cancel"} <= set(capsys.readouterr().out.split())
