"""An index that is asked with texts: as with the rows that its dataset's tokenizer makes of them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.engine import decoder
from tests.journeys.problems import refused
from tests.journeys.subjects import Subject
from upweight import Client, errors
from upweight.cli.command import command
from upweight.cli.exits import run
from upweight.results import IndexResult

NAME, ROWS, LENGTH = "indexed-texts", 12, 5
WORDS = ["<pad>", "the", "cat", "sat", "on", "a", "mat"]


def tokenizer(words: list[str] = WORDS, unknown: str = "nothing") -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    found = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token=unknown))
    found.pre_tokenizer = WhitespaceSplit()
    return found


@pytest.fixture(scope="module")
def index(online: Client) -> IndexResult:
    """Of a decoder and texts that are padded on the right, with the next token as label."""
    tokens, targets = decoder.texts(ROWS, LENGTH)
    online.models.register(
        NAME, decoder.decoder(), example=tokens[:2], loss={"name": "cross_entropy", "class_axis": -1}
    )  # fmt: skip
    online.datasets.register(NAME, x=tokens, y=targets, tokenizer=tokenizer())
    return online.indexes.create(
        NAME, NAME, NAME, curvature="diagonal", hessian_regularization=0.1
    ).wait()


def in_words(tokens: Any) -> str:
    return " ".join(WORDS[token] for token in tokens.tolist() if token)


def test_a_text_is_answered_as_its_row_is(index: IndexResult) -> None:
    tokens, targets = decoder.texts(ROWS, LENGTH)
    wanted = index.query(x=tokens[:4], y=targets[:4], k=5)
    found = index.query(text=[in_words(row) for row in tokens[:4]], k=5)
    assert [each.tokens for each in found] == tokens[:4].tolist()
    assert [each.model_copy(update={"tokens": None}) for each in found] == wanted
    assert all(each.tokens is None for each in wanted)
    (alone,) = index.query(text=in_words(tokens[0]), k=5)
    assert [each.row for each in alone.helpful] == [each.row for each in found[0].helpful]


def test_texts_of_two_datasets_in_turn_have_their_own_tokenizers(
    index: IndexResult, online: Client, fresh_name: str
) -> None:
    """Each of which a process reads that stays until the other one is asked for."""
    tokens, targets = decoder.texts(ROWS, LENGTH)
    other = [WORDS[0], *reversed(WORDS[1:])]
    online.datasets.register(fresh_name, x=tokens, y=targets, tokenizer=tokenizer(other))
    made = online.indexes.create(
        None, NAME, fresh_name, curvature="diagonal", hessian_regularization=0.1
    ).wait()
    for _ in range(2):
        assert index.query(text="the mat", k=2)[0].tokens == [1, 6, 0, 0, 0]
        assert made.query(text="the mat", k=2)[0].tokens == [6, 1, 0, 0, 0]


def test_labels_may_be_given_beside_a_text(index: IndexResult) -> None:
    tokens, targets = decoder.texts(ROWS, LENGTH)
    targets[0, 0] = decoder.IGNORED
    (wanted,) = index.query(x=tokens[:1], y=targets[:1], k=5)
    (found,) = index.query(text=[in_words(tokens[0])], y=targets[:1], k=5)
    assert found.helpful == wanted.helpful


def test_a_class_is_given_beside_a_text(
    online: Client, words: Subject, fresh_name: str, http: httpx2.Client
) -> None:
    """All rows are full: a shorter text is refused, as they don't show how they would be padded."""
    names = ["zero", "one", "two", "three", "four", "five", "six"]
    data = online.datasets.register(
        fresh_name, x=words.x_train, y=words.y_train, tokenizer=tokenizer(names)
    )
    made = online.indexes.create(
        None, words.name, data, curvature="diagonal", hessian_regularization=0.1
    ).wait()
    text = " ".join(names[token] for token in words.x_train[3].tolist())
    label = int(words.y_train[3])
    (found,) = made.query(text=text, y=label, k=3)
    (wanted,) = made.query(x=words.x_train[3:4], y=[label], k=3)
    assert (found.helpful, found.tokens) == (wanted.helpful, words.x_train[3].tolist())
    many = made.query(text=[text, text], y=[label, 0], k=3)
    assert many[0].tokens == many[1].tokens
    assert many[0].helpful != many[1].helpful
    path = f"/v1/indexes/{made.id}/query"
    for body, pointer, said in [
        ({"text": [text]}, "/columns", "column 'y' is missing: the rows of dataset"),
        ({"text": ["one two"], "columns": {"y": [1]}}, "/text/0", "which token pads"),
        ({"text": [text], "columns": {"y": [9]}}, "/text", "label 9"),
        ({"text": [text], "columns": {"y": [1, 1]}}, None, "'text' has 1"),
    ]:
        assert said in refused(http.post(path, json=body), 422, "invalid-request", pointer)
    with pytest.raises(errors.InvalidRequest, match="'y' is one entry, and there are 2 texts"):
        made.query(text=[text, text], y=1)


def test_a_text_that_can_t_be_asked_is_told_in_words(
    index: IndexResult, http: httpx2.Client
) -> None:
    path = f"/v1/indexes/{index.id}/query"
    for body, pointer, words in [
        ({"text": ["the cat sat on a mat"]}, "/text/0", "6 tokens, and rows have up to 5"),
        ({"text": ["the cat", "a dog"]}, "/text/1", "can't take it: WordLevel error"),
        ({"text": ["  "]}, "/text/0", "it has no token"),
        ({"text": ["cat"]}, "/text/0", "none to predict"),
        ({"text": [""]}, "/text/0", "at least 1"),
        ({"text": []}, "/text", "at least 1"),
        ({"text": ["the cat"] * 65}, "/text", "at most 64"),
        ({"text": "the cat"}, "/text", "list"),
        ({"text": ["the cat"], "columns": {"x": [[1] * 5]}}, "/columns/x", "leave the column or the text"),
        ({"text": ["the cat"], "columns": {"z": [1]}}, "/columns/z", "no column 'z'"),
        ({"text": ["the cat"], "test": {"dataset": NAME}}, None, "as 'text', or say by 'test'"),
        ({"texts": ["the cat"]}, "/texts", "text"),
    ]:  # fmt: skip
        assert words in refused(http.post(path, json=body), 422, "invalid-request", pointer)


def test_a_dataset_without_a_tokenizer_takes_no_text(online: Client, fresh_name: str) -> None:
    tokens, targets = decoder.texts(ROWS, LENGTH)
    online.datasets.register(fresh_name, x=tokens, y=targets)
    made = online.indexes.create(
        None, NAME, fresh_name, curvature="diagonal", hessian_regularization=0.1
    ).wait()
    with pytest.raises(errors.InvalidRequest, match=r"@1 of the index has no tokenizer; give the"):
        made.query(text="the cat")


def test_a_text_with_a_token_that_the_model_has_not_is_refused(
    online: Client, words: Subject, fresh_name: str
) -> None:
    """Though the tokenizer has it."""
    names = [f"w{at}" for at in range(100)]
    data = online.datasets.register(
        fresh_name, x=words.x_train, y=words.y_train, tokenizer=tokenizer(names)
    )
    made = online.indexes.create(
        None, words.name, data, curvature="diagonal", hessian_regularization=0.1
    ).wait()
    with pytest.raises(errors.InvalidRequest, match="has 1 to 99: the model looks up") as error:
        made.query(text="w1 w2 w3 w4 w99", y=1)
    assert error.value.errors[0].pointer == "/text"


def test_the_command_asks_with_texts(
    index: IndexResult, http: httpx2.Client, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("UPWEIGHT_URL", str(http.base_url))
    capsys.readouterr()
    asked = ("indexes", "query", NAME, "--text", "the cat sat", "--text", "a mat", "-k", "2")
    assert not run(command, (*asked, "--json"))
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["tokens"] for each in found] == [[1, 2, 3, 0, 0], [5, 6, 0, 0, 0]]
    assert found[0]["helpful"][0]["row"] == index.query(text="the cat sat")[0].helpful[0].row


def test_what_stands_for_unknown_words_is_told(
    index: IndexResult, http: httpx2.Client, online: Client, fresh_name: str
) -> None:
    tokens, targets = decoder.texts(ROWS, LENGTH)
    online.datasets.register(fresh_name, x=tokens, y=targets, tokenizer=tokenizer(unknown="mat"))
    made = online.indexes.create(
        None, NAME, fresh_name, curvature="diagonal", hessian_regularization=0.1
    ).wait()
    answer = http.post(f"/v1/indexes/{made.id}/query", json={"text": ["the big bird"], "k": 2})
    assert answer.json()["remarks"] == ["2 tokens stand for what the vocabulary has not"]
    with pytest.warns(UserWarning, match=f"{made.id}, 1 tokens stand for what"):
        made.query(text="the bird", k=2)
    answer = http.post(f"/v1/indexes/{index.id}/query", json={"text": ["the cat"], "k": 2})
    assert answer.json()["remarks"] == []
