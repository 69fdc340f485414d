"""Texts as tokens, by a dataset's own tokenizer: in an isolated child, as its file is anybody's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from workers.checks.tokenizer import PADDING, opened


def tokenizes(tokenizer: str) -> Callable[[list[str]], dict[str, Any]]:
    """In an isolated child that stays: what answers texts, by a `tokenizer.json` that is read once."""
    try:
        found = opened(tokenizer)
    except ValueError as error:
        refusal = {"refusal": str(error), "at": None}
        return lambda texts: refusal
    return Tokenized(found, tokenizer)


class Tokenized:
    """Makes tokens of texts, and tells what its file says of rows."""

    def __init__(self, tokenizer: Any, file: str) -> None:
        padding, cut = tokenizer.padding or {}, tokenizer.truncation or {}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        numbers: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        pads = [numbers[name] for name in sorted(PADDING) if name in numbers]
        special = tokenizer.get_added_tokens_decoder()
        self._tokenizer = tokenizer
        self._unknown = _unknown(tokenizer, file)
        self._told = {
            "pad": padding.get("pad_id", pads[0] if len(pads) == 1 else None),
            "side": padding.get("direction"),
            "longest": cut.get("max_length") if cut.get("direction", "right") == "right" else None,
            "special": sorted(number for number, token in special.items() if token.special),
        }

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """Tokens of each text without any around it, or `{"refusal": words, "at": text}`.

        Beside `tokens` and `unknown`, how many of each text's tokens stand for what the vocabulary has not: `before`
        and `after`, tokens that are put around a text; `pad`, `side`, `longest`, how it pads and cuts, null where it
        does not say; `special`, all tokens that are no text.
        """
        tokens: list[list[int]] = []
        around: tuple[list[int], list[int]] = ([], [])
        for at, text in enumerate(texts):
            try:
                encoded = self._tokenizer.encode(text, add_special_tokens=True)
            except Exception as error:
                return {"refusal": f"its tokenizer can't take it: {str(error)[:200]}", "at": at}
            # Null for each token that the tokenizer puts around.
            own = [place for place, part in enumerate(encoded.sequence_ids) if part is not None]
            if not own:
                return {"refusal": "it has no token", "at": at}
            tokens.append(list(encoded.ids[own[0] : own[-1] + 1]))
            around = list(encoded.ids[: own[0]]), list(encoded.ids[own[-1] + 1 :])
        return {
            "tokens": tokens,
            "unknown": [sum(token == self._unknown for token in each) for each in tokens],
            "before": around[0],
            "after": around[1],
            **self._told,
        }


def _unknown(tokenizer: Any, text: str) -> int | None:
    """The token of what the vocabulary has not."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        found: int | None = None if model.unk_token is None else model.token_to_id(model.unk_token)
        return found
    number = json.loads(text).get("model", {}).get("unk_id")  # which a Unigram does not tell
    return number if isinstance(number, int) else None
