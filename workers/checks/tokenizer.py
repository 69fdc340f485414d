"""The check of a dataset's tokenizer: that its file is one, and that the tokens of the dataset are its own."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.datasets.tokens import token_column
from service.storage.layout import blob_path
from service.storage.objects import Objects
from upweight.errors import Rejected
from upweight.schema import ColumnSpec, DatasetRecord, TextPreview

MOST_BYTES = 64 * 1024**2
MOST_WORDS = 2_000_000
PADDING = frozenset({"[PAD]", "<pad>", "<|pad|>"})  # of a file that does not say what it pads with
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # a token that is a part of a character


def read_tokenizer(path: str) -> dict[str, Any]:
    """In an isolated child: the word of each token, or `{"refusal": words}`. Padding has no word."""
    try:
        found = opened(Path(path).read_text("utf-8"))
    except ValueError as error:
        return {"refusal": str(error)}
    numbers: dict[str, int] = found.get_vocab(with_added_tokens=True)
    size = max(numbers.values(), default=-1) + 1
    if size > MOST_WORDS:
        return {"refusal": f"it has {size} tokens, and at most {MOST_WORDS} are taken"}
    padding = (found.padding or {}).get("pad_id")
    words = [f"⟨{number}⟩" for number in range(size)]
    for token, number in numbers.items():
        pads = number == padding if padding is not None else token in PADDING
        words[number] = "" if pads else _shown(found, token, number)
    return {"words": _with_spaces(found, words)}


def opened(text: str) -> Any:
    """A tokenizer of what a `tokenizer.json` has, in an isolated child. Raises ValueError with words for people."""
    try:
        library = importlib.import_module("tokenizers")
    except ImportError:
        words = "this worker has no tokenizers; the operator installs upweight[tokenizers]"
        raise ValueError(words) from None
    try:
        return library.Tokenizer.from_str(text)
    except Exception as error:
        raise ValueError(
            f"it is no tokenizer.json ({str(error)[:200]}): give the file that save_pretrained, or "
            "Tokenizer.save, wrote"
        ) from None


def _with_spaces(tokenizer: Any, words: list[str]) -> list[str]:
    """Of a tokenizer that cuts words into pieces each with the space before it, so that together they are the text.

    A piece is what decoding adds to that of a letter; where all are words of their own, these stay as they are.
    """
    first = next((at for at, word in enumerate(words) if len(word) == 1 and word.isalpha()), None)
    if first is None or tokenizer.decoder is None:
        return words

    def decoded(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False))

    begun = decoded([first])
    spaced = []
    for number, word in enumerate(words):
        both = decoded([first, number]) if word else ""
        piece = both.removeprefix(begun) if both.startswith(begun) else ""
        spaced.append(piece if piece and _BROKEN not in piece else word)
    glued = any(word and not word.startswith(" ") for word in spaced)
    return spaced if glued and any(word.startswith(" ") for word in spaced) else words


def _shown(tokenizer: Any, token: str, number: int) -> str:
    """As it stands in a text; as the vocabulary has it where it is no text by itself."""
    text = str(tokenizer.decode([number], skip_special_tokens=False)).strip()
    return token if not text or _BROKEN in text else text


def check_tokenizer(
    dataset: DatasetRecord,
    columns: Sequence[ColumnSpec],
    objects: Objects,
    namespace: str,
    read: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What the record says of it, and a preview with its words. Raises Rejected.

    `read`: what `read_tokenizer` answers.
    """
    meta = objects.head(blob_path(namespace, str(dataset.tokenizer)))
    if meta is None or meta.size > MOST_BYTES:
        size = "gone" if meta is None else f"{meta.size} bytes, over the limit of {MOST_BYTES}"
        raise _refused(dataset, f"the blob of the tokenizer is {size}")
    column = _tokens(dataset, columns)
    report = read()
    if "refusal" in report:
        raise _refused(dataset, report["refusal"])
    words = report["words"]
    low, high = int(column.minimum or 0), int(column.maximum or 0)
    wrong = low if low < 0 else high
    if not 0 <= wrong < len(words):
        raise _refused(
            dataset,
            f"it has the tokens 0 to {len(words) - 1}, and column {column.name!r} has token {wrong}: "
            "it is not the one that these rows were made with",
        )
    preview = dataset.preview
    if preview is None or (isinstance(preview, TextPreview) and preview.vocabulary is None):
        data = json.dumps(words, ensure_ascii=False).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        objects.put_first(blob_path(namespace, digest), data)
        preview = TextPreview(column=column.name, vocabulary=digest)
    return {"tokenizer_size": len(words), "preview": preview.model_dump(mode="json")}


def _tokens(dataset: DatasetRecord, columns: Sequence[ColumnSpec]) -> ColumnSpec:
    """The column of token numbers. Raises Rejected."""
    found = token_column(dataset, columns)
    if found is not None:
        return found
    raise _refused(
        dataset,
        "no input has token numbers, (rows, positions) of integers; leave 'tokenizer' out, or say which column has "
        'them: preview={"kind": "text", "column": …}',
    )


def _refused(dataset: DatasetRecord, words: str) -> Rejected:
    error = Rejected.field("/tokenizer", words, dataset.tokenizer)
    assert isinstance(error, Rejected)
    return error
