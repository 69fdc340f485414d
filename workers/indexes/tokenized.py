"""Texts as tokens, by a dataset's own tokenizer: in an isolated child, as its file is anybody's."""

from __future__ import annotations

import json
from typing import Any

from workers.checks.tokenizer import PADDING, opened


def tokenized(tokenizer: str, texts: list[str]) -> dict[str, Any]:
    """In an isolated child: tokens of each text without any around it, or `{"refusal": words, "at": text}`.

    Beside `tokens` and `unknown`, how many of each text's tokens stand for what the vocabulary has not: what the file
    says of rows. `before` and `after`: tokens that it puts around a text. `pad`, `side`, `longest`: how it pads and
    cuts, null where it does not say. `special`: all tokens that are no text.
    """
    try:
        found = opened(tokenizer)
    except ValueError as error:
        return {"refusal": str(error), "at": None}
    padding, cut = found.padding or {}, found.truncation or {}
    found.no_padding()
    found.no_truncation()
    numbers: dict[str, int] = found.get_vocab(with_added_tokens=True)
    unknown = _unknown(found, tokenizer)
    tokens: list[list[int]] = []
    for at, text in enumerate(texts):
        try:
            encoded = found.encode(text, add_special_tokens=True)
        except Exception as error:
            return {"refusal": f"its tokenizer can't take it: {str(error)[:200]}", "at": at}
        # Null for each token that the tokenizer puts around.
        own = [place for place, sequence in enumerate(encoded.sequence_ids) if sequence is not None]
        if not own:
            return {"refusal": "it has no token", "at": at}
        tokens.append(list(encoded.ids[own[0] : own[-1] + 1]))
        around = list(encoded.ids[: own[0]]), list(encoded.ids[own[-1] + 1 :])
    pads = [numbers[name] for name in sorted(PADDING) if name in numbers]
    special = found.get_added_tokens_decoder()
    return {
        "tokens": tokens,
        "unknown": [sum(token == unknown for token in each) for each in tokens],
        "before": around[0],
        "after": around[1],
        "pad": padding.get("pad_id", pads[0] if len(pads) == 1 else None),
        "side": padding.get("direction"),
        "longest": cut.get("max_length") if cut.get("direction", "right") == "right" else None,
        "special": sorted(number for number, token in special.items() if token.special),
    }


def _unknown(tokenizer: Any, text: str) -> int | None:
    """The token of what the vocabulary has not."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        found: int | None = None if model.unk_token is None else model.token_to_id(model.unk_token)
        return found
    number = json.loads(text).get("model", {}).get("unk_id")  # which a Unigram does not tell
    return number if isinstance(number, int) else None
