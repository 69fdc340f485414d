"""Rows of a dataset in a shell: as tables, in words, as pictures, and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.local.background import Running
from tests.cli.conftest import Upweight
from upweight import Client
from upweight.cli.exits import Exit

NO_TARGETS = ("--targets", "")


def test_rows_of_a_dataset_are_shown_as_its_preview_says(
    online: Upweight, registered: tuple[str, ...], files: Path, tmp_path: Path
) -> None:
    x, y = np.load(files / "x.npy"), np.load(files / "y.npy")
    documents = online("datasets", "rows", "cli-rows", "3,1", "--json").documents
    assert [each["row"] for each in documents] == [3, 1]
    np.testing.assert_allclose([each["x"] for each in documents], x[[3, 1]], rtol=1e-6)
    assert [each["y"] for each in documents] == y[[3, 1]].tolist()
    lines = online("datasets", "rows", "cli-rows", "--columns", "y").out.splitlines()
    assert [line.split() for line in lines] == [
        ["ROW", "y"],
        *([str(i), str(y[i])] for i in range(10)),
    ]

    arrays = [str(files / "x.npy"), str(files / "y.npy")]
    table = '{"kind": "table", "column": "x", "names": ["age", "height"]}'
    online("datasets", "register", "cli-table", *arrays, "--preview", table, "--class-names", "no,yes")  # fmt: skip
    head, line = online("datasets", "rows", "cli-table", "7").out.splitlines()
    assert head.split() == ["ROW", "age", "height", "x[2]", "x[3]", "y"]
    assert line.split() == ["7", *(f"{value:.4g}" for value in x[7]), ["no", "yes"][y[7]]]

    np.save(tmp_path / "p.npy", np.array([[0, 1, 1, 0], [1, 0.5, 0, 1]], np.float32))
    picture = '{"kind": "image", "column": "p", "shape": [2, 2]}'
    online(
        "datasets",
        "register",
        "cli-pictures",
        str(tmp_path / "p.npy"),
        "--preview",
        picture,
        *NO_TARGETS,
    )
    drawn = online("datasets", "rows", "cli-pictures", "0:2", "--draw").out
    assert drawn == "row 0\n  ██\n██\n\nrow 1\n██▒▒\n  ██\n"


def test_rows_are_chosen_by_id_and_by_what_is_in_a_column(stack: Running, online: Upweight) -> None:
    source = ["web", "book", "web"] * 10
    with Client(stack.url) as client:
        client.datasets.register(
            "cli-named", x=np.arange(30.0, dtype="f4"), y=np.arange(30) % 2,
            ids=[f"r{row}" for row in range(30)], metadata={"source": source},
        )  # fmt: skip
    read = ("datasets", "rows", "cli-named")
    shown = online(*read, "--where", "source=book", "--columns", "x,source", "--limit", "2")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["ROW", "ID", "x", "source"],
        ["1", "r1", "1", "book"],
        ["4", "r4", "4", "book"],
    ]
    assert shown.err == "the first 2 of 10 rows; --limit 0 shows all\n"
    both = ("--where", "source=book", "--where", "y=1", "--json")
    documents = online(*read, *both).documents
    assert [each["row"] for each in documents] == [1, 7, 13, 19, 25]
    assert online(*read, "0:8", *both).documents == documents[:2]
    named = online(*read, "--ids", "r7,r3", "--json").documents
    assert [(each["row"], each["id"]) for each in named] == [(7, "r7"), (3, "r3")]
    for options, words in (
        (["--where", "source=tape"], "tape"),
        (["--where", "colour=red"], "colour"),
        (["--ids", "r99"], "r99"),
        (["0:3", "--ids", "r1"], "give one"),
        (["0:1", "--where", "source=book"], "no row of cli-named is meant"),
    ):
        refused = online(*read, *options)
        assert refused.code == Exit.USAGE
        assert words in refused.err


def test_how_rows_are_shown_is_changed(
    online: Upweight, files: Path, registered: tuple[str, ...]
) -> None:
    arrays = [str(files / "x.npy"), str(files / "y.npy")]
    online("datasets", "register", "cli-shown", *arrays, "--no-wait")
    assert "state    ready" in online("datasets", "wait", "cli-shown").out
    picture = '{"kind": "image", "column": "x", "shape": [2, 2]}'
    assert online("datasets", "change", "cli-shown", "--preview", picture).code == 0
    assert online("datasets", "rows", "cli-shown", "0", "--draw").out.startswith("row 0, y ")
    assert online("datasets", "change", "cli-shown", "--preview", "null").code == 0
    assert "its preview is none" in online("datasets", "rows", "cli-shown", "0", "--draw").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0:0"], "names 0 of 30 rows"),
        (["99"], "there are 30 rows, 0 to 29"),
        (["x"], "'x' is not a row or a slice"),
        (["0", "--columns", "z"], "no column 'z'; it has x, y"),
        (["0", "--draw"], "the rows of cli-rows are no pictures: its preview is none"),
    ],
)
def test_rows_that_cannot_be_shown_are_said_to_be(
    online: Upweight, registered: tuple[str, ...], arguments: list[str], words: str
) -> None:
    refused = online("datasets", "rows", "cli-rows", *arguments)
    assert words in refused.err
    assert (refused.code, refused.out) == (Exit.USAGE, "")


def test_texts_are_shown_in_the_words_of_their_vocabulary(
    stack: Running, online: Upweight, tmp_path: Path
) -> None:
    with Client(stack.url) as client:
        digest = client.blobs.put(json.dumps(["the", "cat", "sat"]).encode()).digest
    np.save(tmp_path / "t.npy", np.array([[0, 1, 2, 9], [2, 1, 0, 0]]))
    preview = json.dumps({"kind": "text", "column": "t", "vocabulary": digest})
    online(
        "datasets",
        "register",
        "cli-texts",
        str(tmp_path / "t.npy"),
        "--preview",
        preview,
        *NO_TARGETS,
    )
    lines = online("datasets", "rows", "cli-texts", "0:2").out.splitlines()
    assert lines[1:] == ["0    the cat sat ⟨9⟩", "1    sat cat the the"]
