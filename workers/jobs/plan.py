"""What blocks a job consists of. A plan is made once; nothing in it depends on who does the blocks, or when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

from service.storage.cuts import Cut
from workers.jobs.predictions import BLOCK_ROWS

Stage = Literal["sums", "rotate", "squares", "fit", "solve", "contract", "predict", "finish"]
Side = Literal["test", "train"]

BEFORE_FIT: tuple[Stage, ...] = ("sums", "rotate", "squares")  # what the fit alone is made of


@dataclass(frozen=True)
class Plan:
    """Sizes of all that is cut.

    `threads`: of torch on the CPU, for all blocks, whatever the settings of the workers that do them.
    `spread`: blocks are tasks of their own; otherwise one task does them all, in order. `hessian` cuts the training
    rows of H into partial sums, of a matrix that is built or of a closed form; `rotates`: second sums are taken in the
    eigenvectors that the first ones give. `trailing` is the shape of one influence, `parts` that of the parts that it
    is the sum of, where they are stored. `predicts`: of whose rows losses and predictions are stored.
    """

    spread: bool
    budget_bytes: int
    rhs: Cut
    test: Cut
    train: Cut
    trailing: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    hessian: Cut | None = None
    rotates: bool = False
    fits: bool = False
    solves: bool = True
    contracts: bool = True
    predicts: tuple[Side, ...] = ()
    threads: int = 1

    def stages(self) -> dict[Stage, int]:
        """Blocks of each stage, in the order in which stages follow each other."""
        counts: dict[Stage, int] = {
            "sums": self.hessian.count if self.hessian else 0,
            "rotate": int(self.rotates),
            "squares": self.hessian.count if self.hessian and self.rotates else 0,
            "fit": int(self.fits),
            "solve": self.rhs.count if self.solves else 0,
            # Self-influences have no test rows.
            "contract": max(1, self.test.count) * self.train.count if self.contracts else 0,
            "predict": sum(self.predicted(side).count for side in self.predicts),
            "finish": 1,
        }
        return {stage: count for stage, count in counts.items() if count}

    def contraction(self, number: int) -> tuple[int, int]:
        """The block of test rows and that of training rows."""
        return divmod(number, self.train.count)

    def predicted(self, side: Side) -> Cut:
        """The rows of one side."""
        return Cut((self.test if side == "test" else self.train).total, BLOCK_ROWS)

    def prediction(self, number: int) -> tuple[Side, slice]:
        """Whose rows a block is about, and which."""
        for side in self.predicts:
            cut = self.predicted(side)
            if number < cut.count:
                return side, cut.block(number)
            number -= cut.count
        raise IndexError(number)

    def matrix_shape(self) -> tuple[int, ...]:
        """(m, n, …)."""
        return (self.test.total, self.train.total, *self.trailing)

    def chunk_shape(self) -> tuple[int, ...]:
        """Of one contraction."""
        return (self.test.step, self.train.step, *self.trailing)

    @property
    def entry_count(self) -> int:
        """Numbers of one influence."""
        return prod(self.trailing)

    def to_json(self) -> dict[str, Any]:
        """As records hold it; without second sums and parts where there are none, as before there were any."""
        document = asdict(self)
        if not self.rotates:
            del document["rotates"]
        if not self.parts:
            del document["parts"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        cuts = {
            name: Cut(**document[name]) if document[name] is not None else None
            for name in ("rhs", "test", "train", "hessian")
        }
        return cls(
            **{
                **document,
                **cuts,
                "trailing": tuple(document["trailing"]),
                "parts": tuple(document.get("parts", ())),
                "predicts": tuple(document["predicts"]),
            }
        )


def stages_of(plan: Mapping[str, Any]) -> dict[str, int]:
    """Blocks of each stage, of a plan of any kind of job as records hold it."""
    if "stages" in plan:
        return dict(plan["stages"])
    return {str(stage): count for stage, count in Plan.from_json(plan).stages().items()}
