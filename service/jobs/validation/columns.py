"""Which column of each dataset goes to which input of the model: by name, so that no dataset's order decides.

A model's inputs are called as its forward's arguments. `torch.export` numbers those of `*args` (`xs_0`, `xs_1`), and
`numpy.savez` arrays without a name (`arr_0`): these are places, not names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from service.jobs.validation.inputs import Chosen
from upweight.errors import InvalidRequest
from upweight.schema import ColumnMatch, DatasetRecord, ModelRecord

_SHOWN = 20  # names of a list in an error
_FIRST = re.compile(r"(.+_)?0")


def match_columns(
    model: ModelRecord, chosen: Sequence[Chosen], given: Mapping[str, str]
) -> list[ColumnMatch]:
    """One a dataset, in order. `given`: columns by the names of inputs, where a job says it. Raises InvalidRequest.

    Each dataset has as many columns as the model takes. Where the model's inputs have no names, the datasets are
    matched with the first of them; and so are the features of each column, and the classes' names.
    """
    _refuse_unknown(model, chosen, given)
    apart = list({one.dataset.id: one for one in chosen}.values())
    found: list[ColumnMatch] = []
    for one in apart:
        found.append(_match(model, one, given, apart[0], found[0] if found else None))
    _refuse_other_classes(apart)
    return _with_features(apart, found)


def _match(
    model: ModelRecord,
    one: Chosen,
    given: Mapping[str, str],
    first: Chosen,
    first_match: ColumnMatch | None,
) -> ColumnMatch:
    dataset, takes_targets = one.dataset, model.loss.name == "program"
    columns = [*dataset.inputs, *(dataset.targets if takes_targets else ())]
    wanted = _names(model)[: len(columns)]  # what a factory's forward need not be given comes last
    inputs = {column: name for name, column in given.items() if column in columns}
    names = [inputs.get(column, column) for column in columns]
    if sorted(names) == sorted(wanted):
        ordered = [columns[names.index(name)] for name in wanted]
        return _split(dataset, ordered, takes_targets, "as 'columns' says" if inputs else "by name")
    if len(columns) == 1:
        return _split(dataset, columns, takes_targets, "by place: the model has one input")
    if len(wanted) != len(columns) or _are_places(wanted):
        return _like_the_first(one, first, first_match)
    if _are_places(dataset.inputs):
        how = "by place: the dataset's columns have no names"
        return _split(dataset, columns, takes_targets, how)
    by_role = _by_role(wanted, dataset, names, columns) if takes_targets else None
    if by_role is None:
        raise _refused(one, _disagreement(model, dataset, wanted, names, columns))
    return _split(dataset, by_role[0], takes_targets, by_role[1])


def _names(model: ModelRecord) -> list[str]:
    """Of the model's inputs; empty where they are not known."""
    return [spec.name for spec in model.inputs] or model.arguments


def _split(
    dataset: DatasetRecord, columns: Sequence[str], takes_targets: bool, how: str
) -> ColumnMatch:
    """A program takes its columns in one row: up to the last input they are inputs, the rest are targets."""
    if not takes_targets:
        inputs, targets = list(columns), dataset.targets
    else:
        end = 1 + max(columns.index(name) for name in dataset.inputs)
        inputs, targets = list(columns[:end]), list(columns[end:])
    return ColumnMatch(dataset=dataset.id, inputs=inputs, targets=targets, how=how)


def _like_the_first(one: Chosen, first: Chosen, match: ColumnMatch | None) -> ColumnMatch:
    """Of a model whose inputs have no names: the first dataset by place, the others by its names."""
    dataset, how = one.dataset, "by place: the model's inputs have no names"
    if match is None:
        return ColumnMatch(
            dataset=dataset.id, inputs=dataset.inputs, targets=dataset.targets, how=how
        )
    ordered = []
    for own, others in ((dataset.inputs, match.inputs), (dataset.targets, match.targets)):
        if sorted(own) == sorted(others):
            ordered.append(others)
        elif len(own) == len(others) and (len(own) == 1 or _are_places(own) or _are_places(others)):
            ordered.append(own)
        else:
            words = (
                f"the columns of dataset {dataset.name!r} are {_listed(own)}, those of {first.dataset.name!r} "
                f"{_listed(others)}: several are matched by name, as the model's inputs have none. Register one of "
                "them with the other's names"
            )
            raise _refused(one, words)
    if ordered != [dataset.inputs, dataset.targets]:
        how += f", in the order of {first.dataset.name!r} by name"
    return ColumnMatch(dataset=dataset.id, inputs=ordered[0], targets=ordered[1], how=how)


def _by_role(
    wanted: Sequence[str], dataset: DatasetRecord, names: Sequence[str], columns: Sequence[str]
) -> tuple[list[str], str] | None:
    """A program takes inputs and then targets: where one of them agrees by name, or is one alone on both sides."""
    end = len(dataset.inputs)
    ordered, hows = [], []
    for role, here, elsewhere in (
        ("input", slice(end), slice(end, None)),
        ("target", slice(end, None), slice(end)),
    ):
        want, have = wanted[here], names[here]
        if sorted(want) == sorted(have):
            ordered += [columns[here][have.index(name)] for name in want]
            hows.append("by name")
        elif (
            len(want) == 1 and want[0] not in names[elsewhere] and have[0] not in wanted[elsewhere]
        ):
            ordered += columns[here]
            hows.append(f"by place: the one {role} {want[0]!r} takes {columns[here][0]!r}")
        else:
            return None
    return ordered, "; ".join(hows)


def _are_places(names: Sequence[str]) -> bool:
    """Whether these are the numbered names that torch and NumPy make up: `xs_0`, `xs_1`."""
    found = _FIRST.fullmatch(names[0]) if len(names) > 1 else None
    stem = found.group(1) or "" if found else ""
    return found is not None and all(name == f"{stem}{at}" for at, name in enumerate(names))


def _with_features(apart: Sequence[Chosen], found: Sequence[ColumnMatch]) -> list[ColumnMatch]:
    """Features that lie in another order than in the first dataset that names them are taken in its order."""
    orders: list[dict[str, list[str]]] = [{} for _ in found]
    notes = ["" for _ in found]
    places = [[*match.inputs, *match.targets] for match in found]
    for columns in zip_longest(*places):
        reference: tuple[str, list[str]] | None = None
        for at, column in enumerate(columns):
            dataset = apart[at].dataset
            own = dataset.features_of(column) if column is not None else []
            if not own:
                continue
            if reference is None:
                reference = dataset.name, own
            elif sorted(own) != sorted(reference[1]):
                raise _refused(apart[at], _other_features(dataset.name, column, own, *reference))
            elif own != reference[1]:
                orders[at][column] = reference[1]
                notes[at] = f"; features in the order of {reference[0]!r} by name"
    return [
        match.model_copy(update={"features": order, "how": match.how + words})
        for match, order, words in zip(found, orders, notes, strict=True)
    ]


def _refuse_other_classes(apart: Sequence[Chosen]) -> None:
    """Labels are numbers: those of two datasets mean the same as far as both name the same classes."""
    named = [one for one in apart if one.dataset.class_names]
    for one in named[1:]:
        own, others = one.dataset.class_names, named[0].dataset.class_names
        common = min(len(own), len(others))
        if own[:common] != others[:common]:
            words = (
                f"the classes of dataset {one.dataset.name!r} are {_listed(own)}, those of "
                f"{named[0].dataset.name!r} {_listed(others)}, so a label means another class there. Register them "
                "with the same class_names=[…], in the order of the model's outputs"
            )
            raise _refused(one, words)


def _refuse_unknown(model: ModelRecord, chosen: Sequence[Chosen], given: Mapping[str, str]) -> None:
    if not given:
        return
    wanted = _names(model)
    there = {
        column: one.dataset.name
        for one in chosen
        for column in (*one.dataset.inputs, *one.dataset.targets)
    }
    for name, column in given.items():
        if name not in wanted:
            known = (
                f"has the inputs {_listed(wanted)}" if wanted else "tells no names of its inputs"
            )
            words = f"model {model.name!r} {known}, and none {name!r}"
            raise InvalidRequest.field("/columns", words, name)
        if column not in there:
            words = (
                f"no dataset of this job has a column {column!r}; there are {_listed(list(there))}"
            )
            raise InvalidRequest.field("/columns", words, column)
        if list(given.values()).count(column) > 1:
            words = f"column {column!r} can go to one input only"
            raise InvalidRequest.field("/columns", words, column)


def _disagreement(
    model: ModelRecord,
    dataset: DatasetRecord,
    wanted: Sequence[str],
    names: Sequence[str],
    columns: Sequence[str],
) -> str:
    without = [name for name in wanted if name not in names]
    left = [column for column, name in zip(columns, names, strict=True) if name not in wanted]
    such_as = f", such as columns={example}" if (example := _alike(without, left)) else ""
    return (
        f"the inputs of model {model.name!r} are {_listed(wanted)}, the columns of dataset {dataset.name!r} "
        f"{_listed(columns)}: several are matched by name. Register the data under the model's names, or say in the "
        f"job which column each input takes{such_as or f', as columns={{{without[0]!r}: …}}'}"
    )


def _alike(wanted: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Each input with the column that is meant: the only one left, or the one spelt alike. Empty where one is unclear.

    A pair by place would be copied from the error into a job, and might be the wrong one.
    """
    if len(wanted) == len(columns) == 1:
        return {wanted[0]: columns[0]}
    spelt = {column.casefold(): column for column in columns}
    near = {
        name: difflib.get_close_matches(name.casefold(), spelt, n=1, cutoff=0.6) for name in wanted
    }
    found = {name: spelt[each[0]] for name, each in near.items() if each}
    return found if len({*found.values()}) == len(wanted) else {}


def _other_features(
    name: str, column: str, own: Sequence[str], other: str, others: Sequence[str]
) -> str:
    alone = [each for each in own if each not in set(others)]
    missing = [each for each in others if each not in set(own)]
    differ = " and ".join(
        f"only {whose!r} has {_listed(some)}"
        for whose, some in ((name, alone), (other, missing))
        if some
    )
    return (
        f"the features of column {column!r} of dataset {name!r} are {_listed(own)}, those of {other!r} "
        f"{_listed(others)}: {differ}. Register both with the features that the model was trained on"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    left = len(names) - _SHOWN
    return f"{shown} and {left} more" if left > 0 else shown or "none"


def _refused(one: Chosen, words: str) -> InvalidRequest:
    error = InvalidRequest.field(f"{one.pointer}/dataset", words, one.dataset.name)
    assert isinstance(error, InvalidRequest)
    return error
