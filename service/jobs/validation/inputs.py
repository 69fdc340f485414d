"""The records that a job names, with the rows it chooses. Workers have them, too: nothing of HTTP is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from upweight.schema import DatasetRecord, Groups, ModelRecord, Rows


@dataclass(frozen=True)
class Chosen:
    """A dataset, and its rows that are meant."""

    pointer: str
    dataset: DatasetRecord
    rows: Rows


@dataclass(frozen=True)
class Inputs:
    """All that a job is computed from."""

    model: ModelRecord
    train: Chosen
    test: Chosen | None
    hessian: Chosen
    given_rows: int = 0  # factors of an earlier job that no test rows stand for
    groups: Groups | None = None

    @property
    def test_count(self) -> int:
        """Rows of the result, or of the factors; 0 for self-influences."""
        return len(self.test.rows) if self.test is not None else self.given_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result: rows, or groups of them."""
        test, train = (self.groups.test, self.groups.train) if self.groups else (None, None)
        return (
            self.test_count if test is None else len(test),
            len(self.train.rows) if train is None else len(train),
        )

    @property
    def chosen(self) -> list[Chosen]:
        """The datasets, each under the field that names it."""
        return [one for one in (self.train, self.test, self.hessian) if one is not None]
