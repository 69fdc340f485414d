"""What a result is worth, as the service tells it in the record, the SDK, the command and the explorer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upweight.schema.base import Answer

Level = Literal["good", "fair", "bad"]
LEVELS: tuple[Level, ...] = ("good", "fair", "bad")  # best first


class Judgement(Answer):
    """One part of a verdict."""

    level: Level = Field(description="`good`; `fair`: look before you rely on it; `bad`: do not.")
    text: str = Field(description="Why, with the numbers, and what to do.")


class Verdict(Answer):
    """Two questions that every result answers. Neither is a comparison with retraining."""

    solved: Judgement = Field(
        description="Was the linear system solved? It speaks of (H + λI) x = b alone."
    )
    applies: Judgement = Field(
        description="Does influence apply here? Whether θ is near an optimum of its training loss, and how many of "
        "the known eigenvalues of H lie below λ."
    )

    @property
    def level(self) -> Level:
        """The worse of the two."""
        return max(self.solved.level, self.applies.level, key=LEVELS.index)
