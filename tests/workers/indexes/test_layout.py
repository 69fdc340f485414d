"""How rows are made of texts, found from rows that were made so: then the texts give the same rows again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from workers.indexes.layout import Array, Layout, Tokenizing, Unclear, layout_of

LENGTH, PAD, CLS, SEP, IGNORED = 8, 0, 1, 2, -100
PADS = Tokenizing(pad=PAD)
AROUND = Tokenizing(before=(CLS,), after=(SEP,), pad=PAD)
Rows = tuple[Array, Array]


def texts(count: int = 12, most: int = LENGTH) -> list[list[int]]:
    """Of 2 tokens and more, at least one as long as may be."""
    generator = np.random.default_rng(5)
    lengths = [2 + at % (most - 1) for at in range(count)]
    return [generator.integers(3, 20, length).tolist() for length in lengths]


def padded(rows: list[list[int]], fill: int, *, left: bool = False) -> Array:
    found = np.full((len(rows), LENGTH), fill)
    for at, row in enumerate(rows):
        start = LENGTH - len(row) if left else 0
        found[at, start : start + len(row)] = row
    return found


def kept(rows: list[list[int]]) -> Rows:
    """The next token as label; none at the end."""
    return padded(rows, PAD), padded([[*row[1:], IGNORED] for row in rows], IGNORED)


def kept_left(rows: list[list[int]]) -> Rows:
    return (
        padded(rows, PAD, left=True),
        padded([[*row[1:], IGNORED] for row in rows], IGNORED, left=True),
    )


def rolled(rows: list[list[int]]) -> Rows:
    """The next token as label, padding with it."""
    tokens = padded(rows, PAD)
    return tokens, np.concatenate([tokens[:, 1:], np.full((len(rows), 1), PAD)], 1)


def same(rows: list[list[int]]) -> Rows:
    """The tokens themselves, which the model shifts."""
    return padded(rows, PAD), padded(rows, IGNORED)


def split(rows: list[list[int]]) -> Rows:
    """All but the last token, and all but the first."""
    return padded([row[:-1] for row in rows], PAD), padded([row[1:] for row in rows], IGNORED)


def found(rows: Rows, tokenizing: Tokenizing = PADS) -> Layout:
    return layout_of(rows[0], {"y": rows[1]}, {"y": IGNORED}, tokenizing)


@pytest.mark.parametrize("made", [kept, kept_left, rolled, same, split])
def test_texts_give_the_rows_that_were_made_of_them(
    made: Callable[[list[list[int]]], Rows],
) -> None:
    given = texts(most=LENGTH + (made is split))
    tokens, columns = found(made(given)).rows(given, ["y"])
    assert tokens.tolist() == made(given)[0].tolist()
    assert columns["y"].tolist() == made(given)[1].tolist()


def test_what_a_tokenizer_puts_around_is_put_where_the_rows_have_it() -> None:
    given = texts(most=LENGTH - 2)
    around = kept([[CLS, *text, SEP] for text in given])
    tokens, columns = found(around, AROUND).rows(given, ["y"])
    assert tokens.tolist() == around[0].tolist()
    assert columns["y"].tolist() == around[1].tolist()
    bare = kept(given)
    assert found(bare, AROUND).rows(given, [])[0].tolist() == bare[0].tolist()
    with pytest.raises(Unclear, match="some of its rows begin with"):
        found(kept([[CLS, *text] if at % 2 else text for at, text in enumerate(given)]), AROUND)
    with pytest.raises(Unclear, match="some of its rows end with"):
        found(kept([[*text, SEP] if at % 2 else text for at, text in enumerate(given)]), AROUND)
    with pytest.raises(Unclear, match="where a text ends"):
        found(around, replace(AROUND, after=(PAD,)))


def test_a_padding_that_the_file_does_not_name_is_a_special_token_at_rows_ends() -> None:
    """As where texts are padded with the token of their end."""
    given = texts()
    for made in (kept, kept_left):
        layout = found(made(given), Tokenizing(special=(PAD, CLS)))
        assert layout.pad == PAD
        assert layout.rows(given, ["y"])[1]["y"].tolist() == made(given)[1].tolist()


def test_a_mask_and_token_types_follow_from_the_tokens() -> None:
    given = texts()
    tokens = padded(given, PAD)
    others = {"mask": (tokens != PAD).astype(float), "types": 0 * tokens, "places": tokens % 5}
    layout = layout_of(tokens, others, {}, PADS)
    assert set(layout.filled) == {"mask", "types"}
    _, columns = layout.rows(given, ["mask", "types"])
    assert columns["mask"].tolist() == others["mask"].tolist()
    assert not columns["types"].any()


def test_labels_that_do_not_follow_from_the_tokens_are_not_filled() -> None:
    """Such as of answers alone: a text does not say where its prompt ends."""
    given = texts()
    tokens, labels = kept(given)
    prompts = labels.copy()
    prompts[:, 0] = IGNORED
    wrong = labels.copy()
    wrong[5, 0] += 1
    of_class = np.arange(len(given))
    for values in (prompts, wrong, of_class, np.where(labels == IGNORED, 7, labels)):
        assert found((tokens, values)).filled == {}


def test_a_text_that_does_not_fit_is_refused() -> None:
    given = texts()
    layout = found(kept(given))
    long = list(range(3, LENGTH + 4))
    with pytest.raises(Unclear, match="9 tokens, and rows have up to 8") as refused:
        layout.rows([given[0], long], [])
    assert refused.value.text == 1
    cut = found(kept(given), replace(PADS, longest=LENGTH))
    assert cut.rows([long], [])[0].tolist() == [long[:LENGTH]]
    with pytest.raises(Unclear, match="none to predict after it"):
        layout.rows([[5]], ["y"])
    full = np.array([text for text in texts(40) if len(text) == LENGTH])
    packed = np.concatenate([full[:, 1:], full[:, :1]], 1)
    unpadded = found((full, packed), Tokenizing())
    with pytest.raises(Unclear, match="neither they nor the tokenizer say which token pads"):
        unpadded.rows([[5, 6]], [])
    with pytest.raises(Unclear, match="on which side"):
        found((full, packed)).rows([[5, 6]], [])
    both = np.concatenate([padded(given, PAD), padded(given, PAD, left=True)])
    with pytest.raises(Unclear, match="some of its rows begin with padding"):
        layout_of(both, {}, {}, PADS)
    with pytest.raises(Unclear, match="no token"):
        layout_of(np.zeros((3, LENGTH)), {}, {}, PADS)


@pytest.mark.parametrize("made", [kept, kept_left, rolled, same])
def test_a_text_with_the_token_that_pads_at_its_end_is_refused(
    made: Callable[[list[list[int]]], Rows],
) -> None:
    """Whether it counts there can't be told from rows in which whatever pads does not."""
    layout = found(made(texts()))
    ended = [PAD, 7, 8] if made is kept_left else [7, 8, PAD]
    with pytest.raises(
        Unclear, match=r"token that pads rows \(0\).*give the row in 'columns'"
    ) as told:
        layout.rows([[5, 6], ended], ["y"])
    assert told.value.text == 1
    tokens, columns = layout.rows([ended], [])  # its label is given beside it
    assert tokens.shape == (1, LENGTH)
    assert columns == {}


def test_the_token_that_pads_within_a_text_counts_as_the_rows_show() -> None:
    with pytest.raises(Unclear, match="it has the token that pads rows"):
        found(kept(texts())).rows([[7, PAD, 8]], ["y"])
    given = [*texts(), [7, PAD, 8]]
    tokens, columns = found(kept(given)).rows(given, ["y"])
    assert tokens.tolist() == kept(given)[0].tolist()
    assert columns["y"].tolist() == kept(given)[1].tolist()


def test_a_mask_is_not_made_of_a_text_that_ends_in_padding() -> None:
    rows = texts()
    tokens = padded(rows, PAD)
    layout = layout_of(tokens, {"m": (tokens != PAD).astype(np.int64)}, {}, PADS)
    assert layout.rows([[7, 8]], ["m"])[1]["m"].sum() == 2
    with pytest.raises(Unclear, match="ends in the token that pads rows"):
        layout.rows([[7, 8, PAD]], ["m"])
