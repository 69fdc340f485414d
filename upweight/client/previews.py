"""How rows are shown: a preview as callers write it, and the words of a text as a blob."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upweight.client.blobs import put_source
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow
from upweight.progress import Bars

MOST_WORDS = 10_000_000


def written(preview: Any, bars: Bars) -> Flow[Any]:
    """The preview as the service takes it; a vocabulary that is no digest is uploaded."""
    if not isinstance(preview, Mapping) or preview.get("vocabulary") is None:
        return preview
    vocabulary = preview["vocabulary"]
    if isinstance(vocabulary, str) and vocabulary.startswith("sha256:"):
        return preview
    text = json.dumps(words_of(vocabulary), ensure_ascii=False)
    blob = yield from put_source(text.encode(), bars)
    return {**preview, "vocabulary": blob.digest}


def tokenizer(given: Any, bars: Bars) -> Flow[str | None]:
    """A tokenizer.json as a blob: of a digest, a file or folder, or a fast tokenizer of transformers or tokenizers.

    Raises InvalidRequest for anything else.
    """
    if given is None or (isinstance(given, str) and given.startswith("sha256:")):
        return given
    blob = yield from put_source(_tokenizer_file(given), bars)
    return blob.digest


def _tokenizer_file(given: Any) -> bytes:
    fast = getattr(given, "backend_tokenizer", given)
    if callable(getattr(fast, "to_str", None)):
        return str(fast.to_str()).encode()
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        path = path / "tokenizer.json" if path.is_dir() else path
        if path.is_file():
            return path.read_bytes()
        words = (
            f"there is no file {str(path)!r}; give the path of a tokenizer.json or of its folder"
        )
        raise InvalidRequest.field("/tokenizer", words, str(given)[:200])
    raise InvalidRequest.field(
        "/tokenizer",
        "the tokenizer is none of these: the path of a tokenizer.json or of its folder, a fast tokenizer of "
        "transformers, a Tokenizer of tokenizers, or a blob's digest",
        str(given)[:200],
    )


def words_of(vocabulary: Any) -> list[str]:
    """The word of each token: of a list, of a dict of words to tokens or of tokens to words, or of a tokenizer.

    An empty word is not seen; a tokenizer's padding is one. Raises InvalidRequest for anything else.
    """
    words = _given(vocabulary)
    padding = getattr(vocabulary, "pad_token_id", None)
    if isinstance(padding, int) and 0 <= padding < len(words):
        words[padding] = ""
    return words


def _given(vocabulary: Any) -> list[str]:
    for method in ("get_vocab", "get_stoi"):  # tokenizers and transformers; torchtext
        if callable(getattr(vocabulary, method, None)):
            vocabulary = getattr(vocabulary, method)()
            break
    if isinstance(vocabulary, Mapping):
        return _by_token(vocabulary)
    if isinstance(vocabulary, str | bytes) or not hasattr(vocabulary, "__iter__"):
        raise _refused(vocabulary)
    words = list(vocabulary)
    if not all(isinstance(word, str) for word in words):
        raise _refused(vocabulary)
    return [str(word) for word in words]


def _by_token(vocabulary: Mapping[Any, Any]) -> list[str]:
    pairs = list(vocabulary.items())
    if all(isinstance(key, str) for key, _ in pairs):
        pairs = [(token, word) for word, token in pairs]
    tokens = [token for token, _ in pairs]
    if not all(isinstance(word, str) for _, word in pairs) or not all(
        isinstance(token, int) and 0 <= token < MOST_WORDS for token in tokens
    ):
        raise _refused(vocabulary)
    words = [f"⟨{token}⟩" for token in range(max(tokens, default=-1) + 1)]
    for token, word in pairs:
        words[token] = str(word)
    return words


def _refused(vocabulary: Any) -> InvalidRequest:
    words = (
        "the vocabulary is none of these: a list with the word of each token, a dict of words to tokens, a tokenizer "
        "with get_vocab(), or the digest of a blob with such a list as JSON"
    )
    error = InvalidRequest.field("/preview/vocabulary", words, vocabulary)
    assert isinstance(error, InvalidRequest)
    return error
