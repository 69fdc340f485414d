"""BM25 of rows that are tokens: the scores of bm25s, whatever blocks the rows are read in."""

from __future__ import annotations

import json
from typing import Any

import bm25s
import httpx2
import numpy as np
import pytest
from safetensors.numpy import save

from tests.service.acting import Acting, field, problem

DRAWN = np.random.default_rng(3)
TRAIN, TEST = DRAWN.integers(0, 12, (50, 6)), DRAWN.integers(0, 12, (10, 6))
MASKS = [(DRAWN.random(rows.shape) < 0.7).astype(np.int64) for rows in (TRAIN, TEST)]
TEXT = {"kind": "text", "column": "tokens"}
MASKS[0][:2] = 0  # rows without any token


def texts(
    acting: Acting, name: str, tokens: Any, mask: Any, preview: Any = TEXT, **columns: Any
) -> None:
    """A dataset of such rows; without a mask, tokens of 0 pad."""
    masks = {} if mask is None else {"attention_mask": mask}
    arrays = {**masks, "tokens": tokens, "y": np.arange(len(tokens)) % 3, **columns}
    described = [
        {"name": each, "dtype": str(values.dtype), "shape": list(values.shape[1:])}
        for each, values in arrays.items()
        if each not in columns
    ]
    request = {
        "blobs": [acting.upload(save(arrays))], "inputs": [*masks, "tokens"],
        "preview": preview, "ids": "called" if columns else None,
    }  # fmt: skip
    kind = "number" if columns else None
    acting.dataset(name, len(tokens), request=request, columns=described, id_kind=kind)


@pytest.fixture
def job(acting: Acting) -> str:
    """A job on all training and test rows but the first."""
    model(acting, "tokens", "attention_mask")
    texts(acting, "train", TRAIN, MASKS[0], called=np.arange(50) + 1000)
    texts(acting, "test", TEST, MASKS[1])
    return on_all_but_the_first(acting)


def model(acting: Acting, *inputs: str) -> None:
    acting.model(
        "net", inputs=[{"name": each, "dtype": "int64", "shape": [None, 6]} for each in inputs]
    )


def on_all_but_the_first(acting: Acting) -> str:
    made = acting.job(
        train={"dataset": "train", "rows": "1:50"}, test={"dataset": "test", "rows": "1:10"},
        hessian_regularization=0.1,
    )  # fmt: skip
    acting.succeed(made["id"], matrix=np.ones((9, 49), np.float32))
    return str(made["id"])


def ranked(acting: Acting, job: str, **query: Any) -> httpx2.Response:
    return acting.client.get(f"/v1/jobs/{job}/bm25", params=query)


def expected(rows: list[int]) -> Any:
    """(49,): of bm25s, the mean over these test rows."""

    def words(tokens: Any, mask: Any) -> list[str]:
        return [str(token) for token in tokens[mask != 0]]

    index = bm25s.BM25()
    index.index(
        [words(*each) for each in zip(TRAIN[1:], MASKS[0][1:], strict=True)], show_progress=False
    )
    return np.mean([index.get_scores(words(TEST[row], MASKS[1][row])) for row in rows], 0)


def held_against(answer: httpx2.Response, scores: Any) -> None:
    """Scores (49,) of bm25s, which computes in float32."""
    items = answer.json()["items"]
    assert sorted(item["column"] for item in items) == list(range(49))
    own = [item["score"] for item in items]
    wanted = scores[[item["column"] for item in items]]
    np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
@pytest.mark.parametrize(("test", "rows"), [(0, [1]), (8, [9]), (None, list(range(1, 10)))])
def test_the_scores_are_those_of_bm25s(
    acting: Acting,
    job: str,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    test: Any,
    rows: list[int],
) -> None:
    monkeypatch.setattr("service.results.bm25.BLOCK_TOKENS", block)
    query = {} if test is None else {"test": test}
    found = ranked(acting, job, k=49, **query).json()
    assert found["test"] == test
    scores = expected(rows)
    items = found["items"]
    own = [item["score"] for item in items]
    assert own == sorted(own, reverse=True)
    # bm25s computes in float32.
    np.testing.assert_allclose(
        own, scores[[item["column"] for item in items]], rtol=1e-5, atol=1e-6
    )
    assert sorted(item["column"] for item in items) == list(range(49))
    assert all(item["row"] == item["column"] + 1 for item in items)
    assert all(item["id"] == item["row"] + 1000 for item in items)
    assert "influence" not in items[0]
    assert own[0] > 0
    few = ranked(acting, job, k=3, words=True, **query).json()["items"]
    assert [item["score"] for item in few] == own[:3]
    assert all(item["text"] for item in few)


def test_a_mask_is_not_taken_for_the_tokens(acting: Acting) -> None:
    """It is the first column of the file and the first input, and no preview says which are the tokens."""
    model(acting, "attention_mask", "tokens")
    texts(acting, "train", TRAIN, MASKS[0], None)
    texts(acting, "test", TEST, MASKS[1], None)
    held_against(ranked(acting, on_all_but_the_first(acting), k=49, test=2), expected([3]))


def test_padding_is_no_word(acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    words = json.dumps(["", *map(str, range(1, 12))]).encode()
    preview = {**TEXT, "vocabulary": acting.upload(words)}
    model(acting, "tokens")
    texts(acting, "train", TRAIN, None, preview)
    texts(acting, "test", TEST, None)
    monkeypatch.setitem(globals(), "MASKS", [TRAIN != 0, TEST != 0])
    held_against(ranked(acting, on_all_but_the_first(acting), k=49, test=2), expected([3]))


def test_tokens_that_are_other_words_on_the_other_side_are_refused(acting: Acting) -> None:
    """Also by tokenizers alone, where no words are known; equal words may come from two files."""
    some = [["", *map(str, range(1, 12))], ["", *map(str, range(2, 13))]]
    previews = [{**TEXT, "vocabulary": acting.upload(json.dumps(each).encode())} for each in some]
    model(acting, "tokens")
    texts(acting, "train", TRAIN, None, previews[0])
    texts(acting, "test", TEST, None, previews[1])
    made = on_all_but_the_first(acting)
    ids = [acting.client.get(f"/v1/datasets/{name}").json()["id"] for name in ("train", "test")]
    said = problem(ranked(acting, made), 404, "not-stored")["detail"]
    assert said.startswith("token 1 is '1' in 'train' and '2' in 'test'")
    files = [f"sha256:{each * 64}" for each in "12"]
    for id, file in zip(ids, files, strict=True):
        acting.change("dataset", id, preview=TEXT, tokenizer=file)
    said = problem(ranked(acting, made), 404, "not-stored")["detail"]
    assert "'train' and 'test' have tokens of different tokenizers" in said
    for id in ids:
        acting.change("dataset", id, preview=previews[0])
    assert ranked(acting, made).status_code == 200


def test_rows_that_are_shorter_than_a_token_on_the_mean_count_by_their_length(
    acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = MASKS[0] * (np.arange(50) % 7 == 0)[:, None]
    monkeypatch.setitem(globals(), "MASKS", [mask, MASKS[1]])
    model(acting, "attention_mask", "tokens")
    texts(acting, "train", TRAIN, mask)
    texts(acting, "test", TEST, MASKS[1])
    held_against(ranked(acting, on_all_but_the_first(acting), k=49, test=2), expected([3]))


def test_what_can_not_be_compared_is_refused_in_words(
    acting: Acting, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "which has 9: 0 to 8" in field(ranked(acting, job, test=9), "query:test")
    monkeypatch.setattr("service.results.bm25.MOST_TOKENS", 49 * 6 - 1)
    said = problem(ranked(acting, job), 422, "invalid-request")["detail"]
    assert "the 49 rows of 'train' have 294 tokens, more than the 293" in said


def test_rows_that_are_no_tokens_share_no_words(ready: Acting) -> None:
    made = ready.job(hessian_regularization=0.1)["id"]
    ready.succeed(made, matrix=np.ones((10, 50), np.float32))
    said = problem(ranked(ready, made), 404, "not-stored")["detail"]
    assert said.startswith("the rows of 'train' are no tokens")
