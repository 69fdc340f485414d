"""Views of datasets: whatever is dropped and relabelled, in whatever steps, they are what NumPy makes of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import service.datasets.views as views
from service.datasets.views import TooManyRuns, View, runs_of

ROWS = 40
STEP = st.one_of(
    st.builds(range, st.integers(0, 50), st.integers(0, 50), st.integers(1, 5)),
    st.integers(0, 39).map(lambda row: range(row, row + 1)),
)


def seen(view: View, labels: np.ndarray) -> tuple[list[int], list[int]]:  # type: ignore[type-arg]
    """The shards' rows that a view has, and their labels."""
    rows = view.stored_rows(np.arange(len(view)))
    return rows.tolist(), view.relabelled(rows, labels[rows]).tolist()


@given(
    st.lists(
        st.tuples(
            st.lists(STEP, max_size=4), st.dictionaries(st.integers(0, 39), st.integers(50, 60))
        )
    )
)
def test_steps_of_dropping_and_relabelling_are_those_of_arrays(steps) -> None:  # type: ignore[no-untyped-def]
    labels = np.arange(ROWS)
    view = View.whole(ROWS, labels.dtype)
    rows, expected = np.arange(ROWS), labels.copy()
    for ranges, relabel in steps:
        changed = sorted(row for row in relabel if row < len(rows))
        new = np.array([relabel[row] for row in changed], labels.dtype)
        expected[rows[changed]] = new
        view = view.with_labels(np.array(changed, np.int64), new)
        dropped = sorted({row for each in ranges for row in each if row < len(rows)})
        cut = [range(each.start, min(each.stop, len(rows)), each.step) for each in ranges]
        view = view.without(*runs_of([each for each in cut if each.start < each.stop]))
        rows = np.delete(rows, dropped)
        assert seen(view, labels) == (rows.tolist(), expected[rows].tolist())
        assert (view.starts < view.stops).all()
        assert np.isin(view.patched, rows).all()


def test_neighbours_are_kept_as_runs_and_not_one_by_one() -> None:
    view = View.whole(10_000_000, np.dtype("i8")).without(*runs_of([range(5, 6), range(900, 1000)]))
    assert view.starts.tolist() == [0, 6, 1000]
    assert view.stops.tolist() == [5, 900, 10_000_000]
    assert len(view.encoded()) < 1000


def test_more_runs_than_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAXIMUM_RUNS", 10)
    view = View.whole(100, np.dtype("i8"))
    with pytest.raises(TooManyRuns, match="20 runs, and a view has 10"):
        runs_of([range(0, 100, 5)])
    with pytest.raises(TooManyRuns, match="11 runs"):
        view.without(*runs_of([range(row, row + 1) for row in range(1, 20, 2)]))
