"""Rows of tokens in words: the text that a dataset's vocabulary makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST = 60  # tokens of a row that are shown in a line


def spaced(words: Sequence[str]) -> bool:
    """Whether the words bring their own spaces: those of a tokenizer that cuts words into pieces."""
    return any(word.startswith(" ") for word in words)


def in_words(tokens: Iterable[int], words: Sequence[str] | None) -> list[str]:
    """The word of each token, or its number where it has none; padding, which has an empty one, is left out."""
    known = words or ()
    found = (known[token] if 0 <= token < len(known) else f"⟨{token}⟩" for token in tokens)
    return [word for word in found if word]


def text_of(tokens: Sequence[int], words: Sequence[str] | None, most: int | None = MOST) -> str:
    """One line of text; of more than `most` tokens the first."""
    found = in_words(tokens, words)
    shown = found if most is None else found[:most]
    line = ("" if words is not None and spaced(words) else " ").join(shown)
    return " ".join(line.split()) + (" …" if len(shown) < len(found) else "")
