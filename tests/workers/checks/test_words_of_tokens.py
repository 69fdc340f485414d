"""The words of each kind of tokenizer: put together they are what it decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upweight.tokens import in_words, text_of
from workers.checks.tokenizer import read_tokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXT = ["the cats sat on the mats", "a cat sits", "the hat is on the cat"]


def trained(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(vocab_size=25, show_progress=False)
    elif kind == "metaspace":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=25, show_progress=False)
    else:
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=25, special_tokens=["[PAD]", "[UNK]"], show_progress=False
        )
    made.train_from_iterator(TEXT, trainer)
    return made


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "wordpiece"])
def test_pieces_are_put_together_as_the_tokenizer_decodes_them(tmp_path: Path, kind: str) -> None:
    made = trained(kind)
    made.save(str(tmp_path / "tokenizer.json"))
    words = read_tokenizer(str(tmp_path / "tokenizer.json"))["words"]
    assert len(made.encode(TEXT[0]).ids) > len(TEXT[0].split())
    for text in TEXT:
        tokens = made.encode(text).ids
        assert text_of(tokens, words) == text


def test_words_of_their_own_get_spaces_between_them_and_padding_is_left_out() -> None:
    words = ["", "the", "cat"]
    assert text_of([1, 2, 0, 0], words) == "the cat"
    assert text_of([1, 2, 7], words) == "the cat ⟨7⟩"
    assert text_of([1, 2, 1], words, most=2) == "the cat …"
    assert in_words([1, 3], None) == ["⟨1⟩", "⟨3⟩"]
