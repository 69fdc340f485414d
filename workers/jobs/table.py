"""Influences added up over groups of rows: the matrix is met block by block, and only the sums stay.

Sums are in float64, in the order of the rows; nothing in them depends on who does the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.storage.cuts import Cut
from workers.jobs.plan import Plan

Array = np.ndarray[Any, Any]
_ROWS_AT_ONCE = 32  # that stay in the cache


@dataclass(frozen=True)
class Membership:
    """Which groups the rows of a side are in: pairs of a position and a group, ascending by position.

    `counts`: rows of each group, (G,). `mean`: a group stands for the mean of its rows, not for their sum.
    """

    positions: Array
    groups: Array
    counts: Array
    mean: bool = False

    @classmethod
    def of_values(cls, values: Sequence[Any], names: Sequence[Any], *, mean: bool) -> Membership:
        """Of rows by what a column has in them; `names` are its values in order."""
        places = {name: place for place, name in enumerate(names)}
        groups = np.fromiter((places[value] for value in values), np.int64, len(values))
        counts = np.bincount(groups, minlength=len(names))
        return cls(np.arange(len(values)), groups, counts, mean)

    @classmethod
    def of_all(cls, rows: int, *, mean: bool) -> Membership:
        """All rows are one."""
        return cls(np.arange(rows), np.zeros(rows, np.int64), np.array([rows]), mean)

    @classmethod
    def of_sets(cls, sets: Sequence[Array]) -> Membership:
        """Of positions in sets that may overlap."""
        positions = np.concatenate(sets)
        groups = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
        order = np.argsort(positions, kind="stable")
        return cls(positions[order], groups[order], np.array([len(each) for each in sets]))

    @property
    def count(self) -> int:
        """G."""
        return len(self.counts)

    def sums(self, block: Array, axis: int, first: int) -> Array:
        """Entries of a block (…, b, …) whose rows along an axis are those from `first` on, as (…, G, …) in float64."""
        low, high = np.searchsorted(self.positions, [first, first + block.shape[axis]])
        places, groups = self.positions[low:high] - first, self.groups[low:high]
        shape = (*block.shape[:axis], self.count, *block.shape[axis + 1 :])
        found = np.zeros(shape, np.float64)
        if not len(groups):
            return found
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        starts = np.flatnonzero(np.append(True, np.diff(ordered) != 0))
        taken = np.take(block, places[order], axis)
        where = (slice(None),) * axis + (ordered[starts],)
        found[where] = np.add.reduceat(taken, starts, axis, dtype=np.float64)
        return found

    def scaled(self, sums: Array, axis: int) -> Array:
        """What stands for the groups along an axis, from the sums."""
        if not self.mean:
            return sums
        shape = [1] * sums.ndim
        shape[axis] = self.count
        return sums / self.counts.reshape(shape)


@dataclass(frozen=True)
class Table:
    """The result of a job that groups rows, of the rows of one or both sides."""

    plan: Plan
    members: Mapping[str, Membership]

    @cached_property
    def rows(self) -> Cut:
        """The first axis: groups of test rows in one piece, or test rows as they are cut."""
        return self._axis("test", self.plan.test)

    @cached_property
    def columns(self) -> Cut:
        """The second axis."""
        return self._axis("train", self.plan.train)

    def _axis(self, side: str, cut: Cut) -> Cut:
        groups = self.members[side].count if side in self.members else None
        return cut if groups is None else Cut(groups, groups)

    def cell(self, contraction: int) -> tuple[int, int]:
        """The chunk of the table that a block of the matrix belongs to."""
        test, train = self.plan.contraction(contraction)
        return (0 if "test" in self.members else test), (0 if "train" in self.members else train)

    def contractions(self, row: int, column: int) -> list[int]:
        """The blocks of the matrix that a chunk is the sum of, in order."""
        tests = range(self.plan.test.count) if "test" in self.members else [row]
        trains = range(self.plan.train.count) if "train" in self.members else [column]
        return [test * self.plan.train.count + train for test in tests for train in trains]

    def empty(self, contraction: int, layers: int) -> Array:
        """(L, rows, columns, …) of zeros for one block of the matrix."""
        row, column = self.cell(contraction)
        rows, columns = self.rows.block(row), self.columns.block(column)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return np.zeros((layers, *shape, *self.plan.trailing), np.float64)

    def add(self, cells: Array, contraction: int, here: slice, block: Tensor) -> None:
        """Adds (L, m, b, …), some columns `here` of a block of the matrix."""
        test, train = (
            cut.block(number)
            for cut, number in zip(
                (self.plan.test, self.plan.train), self.plan.contraction(contraction), strict=True
            )
        )
        members = self.members.get("train")
        columns = slice(None) if members is not None else here
        for start in range(0, block.shape[1], _ROWS_AT_ONCE):
            some = block[:, start : start + _ROWS_AT_ONCE].cpu().numpy()
            if members is not None:
                some = members.sums(some, 2, train.start + here.start)
            if "test" in self.members:
                cells[:, :, columns] += self.members["test"].sums(some, 1, test.start + start)
            else:
                cells[:, start : start + some.shape[1], columns] += some

    def scaled(self, cells: Tensor, dtype: torch.dtype) -> Tensor:
        """A chunk (L, rows, columns, …) of the result from all its sums."""
        found = cells.numpy()
        for side, axis in (("test", 1), ("train", 2)):
            if side in self.members:
                found = self.members[side].scaled(found, axis)
        return torch.from_numpy(np.ascontiguousarray(found)).to(dtype)
