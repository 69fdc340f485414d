"""Vocabularies as callers have them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.upweight import records
from tests.upweight.conftest import posted
from tests.upweight.local_server import Server, answer
from upweight import Client, InvalidRequest
from upweight.client.previews import words_of

NUMBERS = {"the": 0, "cat": 1, "<pad>": 2}


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        (["the", "cat"], ["the", "cat"]),
        (np.array(["the", "cat"]), ["the", "cat"]),
        (NUMBERS, ["the", "cat", "<pad>"]),
        ({1: "cat", 3: "sat"}, ["⟨0⟩", "cat", "⟨2⟩", "sat"]),
        (
            SimpleNamespace(get_vocab=lambda: NUMBERS, pad_token_id=2),
            ["the", "cat", ""],
        ),
        ({}, []),
    ],
)
def test_each_token_has_its_word(vocabulary: Any, words: list[str]) -> None:
    assert words_of(vocabulary) == words


@pytest.mark.parametrize("vocabulary", ["the cat", 7, [1, 2], {"the": "cat"}, {"the": -1}])
def test_what_is_no_vocabulary_is_refused(vocabulary: Any) -> None:
    with pytest.raises(InvalidRequest, match="a list with the word of each token, a dict of words"):
        words_of(vocabulary)


def test_a_vocabulary_is_uploaded_and_named_by_its_digest(
    server: Server, client: Client, blobs: dict[str, bytes]
) -> None:
    server.on("POST", "/v1/datasets", answer(201, records.dataset()))
    preview = {"kind": "text", "column": "x", "vocabulary": ["Käse", "cat"]}
    client.datasets.register("texts", x=np.zeros((2, 3), int), y=np.zeros(2, int), preview=preview)
    digest = posted(server)["preview"]["vocabulary"]
    assert json.loads(blobs[digest]) == ["Käse", "cat"]
