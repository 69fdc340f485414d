"""What a result is worth, as the service tells it in the record, the SDK, the command and the explorer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upweight.schema.base import Answer
from upweight.schema.quality import MeasuredQuality

Level = Literal["good", "fair", "bad"]
LEVELS: tuple[Level, ...] = ("good", "fair", "bad")  # best first


class Judgement(Answer):
    """One part of a verdict."""

    level: Level = Field(description="`good`; `fair`: look before you rely on it; `bad`: do not.")
    text: str = Field(description="Why, with the numbers, and what to do.")


class Verdict(Answer):
    """Two questions that every result answers, and a comparison with retraining where one was made."""

    solved: Judgement = Field(
        description="Was the linear system solved? It speaks of (H + λI) x = b alone."
    )
    applies: Judgement = Field(
        description="Does influence apply here? Whether θ is near an optimum of its training loss, and how many of "
        "the known eigenvalues of H lie below λ."
    )

    quality: MeasuredQuality | None = Field(
        None,
        description="How well such influences predicted retraining, when that was last measured for this model, "
        "method, curvature and λ; null where it never was.",
    )

    @property
    def measured(self) -> str | None:
        """The quality in a line for people; None where it was never measured."""
        return self.quality.in_words if self.quality is not None else None

    @property
    def level(self) -> Level:
        """The worse of the two."""
        return max(self.solved.level, self.applies.level, key=LEVELS.index)
