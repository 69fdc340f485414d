"""Whether model, datasets and loss fit each other, told from their records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from service.jobs.validation.columns import match_columns
from service.jobs.validation.inputs import Chosen, Inputs
from upweight.errors import InvalidRequest
from upweight.schema import (
    ColumnMatch,
    ColumnSpec,
    CrossEntropy,
    CurvatureJob,
    DatasetRecord,
    IndexJob,
    InfluencesJob,
    JobBase,
    LogitMeasurement,
    MarginMeasurement,
    ModelRecord,
    Nll,
    SpanMeasurement,
    TensorSpec,
)

_IGNORED = -100  # what the losses pass over when 'ignore_index' is not given


def fitted(inputs: Inputs, given: Mapping[str, str]) -> list[ColumnMatch]:
    """How each dataset's columns meet the model's inputs. `given`: what the job says of it; see `match_columns`.

    Raises InvalidRequest naming the dataset's field, the column, and what the model takes.
    """
    for chosen in inputs.chosen:
        _as_many_as_inputs(inputs.model, chosen)
    found = match_columns(inputs.model, inputs.chosen, given)
    matches = {match.dataset: match for match in found}
    found = [_with_weights(inputs, match) for match in found]
    for chosen in inputs.chosen:
        _inputs_fit(inputs.model, chosen, matches[chosen.dataset.id])
        _targets_fit(inputs.model, chosen, tested=chosen is inputs.test)
        _tokenizer_fits(inputs.model, chosen)
        refuse_labels_out_of_range(inputs.model, chosen)
        _refuse_nameless(inputs.model, chosen)
    return found


def refuse_curvature(job: CurvatureJob, model: ModelRecord) -> None:
    """Raises InvalidRequest where the model's loss has no curvature of the kind that is asked for."""
    if model.loss.weight_column is not None and job.curvature.facts.draws_labels:
        raise InvalidRequest.field(
            "/curvature/kind",
            f"{job.curvature.kind!r} draws labels, and a weighted row's squared gradient would have the square of its "
            f"weight ({model.loss.weight_column!r}); take 'gauss_newton', or 'empirical_fisher'",
            job.curvature.kind,
        )
    reason = job.curvature.facts.refused.get(model.loss.name)
    if reason is not None:
        raise InvalidRequest.field(
            "/curvature/kind",
            f"{job.curvature.kind!r} makes no sense for model {model.name!r}, whose loss is {model.loss.name!r}: "
            f"{reason}",
            job.curvature.kind,
        )


def refuse_measurement(job: JobBase, inputs: Inputs) -> None:
    """Raises InvalidRequest where the model's loss has no such measurement, or its outputs no such class."""
    measured, model = job.measured, inputs.model
    if isinstance(measured, SpanMeasurement):
        _refuse_span(measured, inputs)
    elif measured.name != "loss":
        _refuse_class(measured, model, inputs.test)


def _refuse_class(
    measured: LogitMeasurement | MarginMeasurement, model: ModelRecord, test: Chosen | None
) -> None:
    which = measured.class_ if measured.name == "logit" else "label"

    def refused(words: str, at: str = "") -> InvalidRequest:
        error = InvalidRequest.field(f"/measurement{at}", words, measured.model_dump(mode="json"))
        assert isinstance(error, InvalidRequest)
        return error

    if model.loss.name not in ("cross_entropy", "nll", "bce_with_logits"):
        raise refused(
            f"model {model.name!r} has the loss {model.loss.name!r}, which knows no classes, so it has no "
            f"{measured.name}; take 'loss', or solve for a gradient of your own with kind 'ihvp' and give that job as "
            "'factors'"
        )
    if not model.outputs:
        return  # a factory does not say; the worker finds out
    shape = model.outputs[0].shape[1:]
    if isinstance(model.loss, CrossEntropy | Nll):
        classes = shape[model.loss.class_axis - (model.loss.class_axis > 0)] if shape else None
    else:
        width = prod(shape) if None not in shape else None  # type: ignore[arg-type]
        if width is not None and width > 1 and isinstance(which, str):
            raise refused(
                f"model {model.name!r} gives {width} logits a row, each with a label of its own; name one: "
                '{"name": "logit", "class": 0}'
            )
        classes = 2 if width == 1 else width
    if classes is not None and not isinstance(which, str) and which >= classes:
        raise refused(
            f"model {model.name!r} has the classes 0 to {classes - 1}, and no class {which}",
            "/class",
        )
    if which == "label" and test is not None and isinstance(model.loss, CrossEntropy | Nll):
        dataset = test.dataset
        target = label_column(model, dataset)
        if is_floating(target.dtype):
            raise refused(
                f"the targets of dataset {dataset.name!r} are probabilities, so that no class is a row's label; take "
                'the logit of a class, {"name": "logit", "class": 0}, or of the class that is \'predicted\''
            )


def _refuse_span(measured: SpanMeasurement, inputs: Inputs) -> None:
    """Raises InvalidRequest where rows have no positions, or not those; what columns say of each the worker sees."""
    if inputs.test is None:
        raise InvalidRequest.field(
            "/measurement",
            "a span is one of test rows; give 'test'",
            measured.model_dump(mode="json"),
        )
    dataset = inputs.test.dataset
    why = without_positions(inputs.model, dataset)
    if why is not None:
        raise InvalidRequest.field(
            "/measurement", f"{why}, so it has no spans; take 'loss' or 'logit'", measured.name
        )
    kinds = {each.name: each.kind for each in dataset.metadata_columns}
    width = label_column(inputs.model, dataset).shape[0]
    for each, at in zip(measured.spans, ("", "/minus"), strict=False):
        for name, bound in (("start", each.start), ("end", each.end)):
            if isinstance(bound, str) and kinds.get(bound) != "integer":
                there = [one for one, kind in kinds.items() if kind == "integer"]
                raise InvalidRequest.field(
                    f"/measurement{at}/{name}",
                    f"{bound!r} is no metadata column of {dataset.name!r} with whole numbers; there are "
                    f"{', '.join(map(repr, there)) or 'none'}: register them with the dataset, as metadata="
                    f"{{{bound!r}: …}}",
                    bound,
                )
            last = None if width is None else width - (name == "start")
            if isinstance(bound, int) and last is not None and bound > last:
                raise InvalidRequest.field(
                    f"/measurement{at}/{name}",
                    f"{each} is outside the rows of {dataset.name!r}: their targets have the positions 0 to "
                    f"{(width or 0) - 1}, and 'end' is at most {width}",
                    bound,
                )


def refuse_positions(job: JobBase, inputs: Inputs) -> None:
    """Raises InvalidRequest where scores are asked for by positions that the rows' losses do not have."""
    if not isinstance(job, InfluencesJob) or job.scores_by != "token":
        return
    why = without_positions(inputs.model, inputs.train.dataset)
    if why is not None:
        raise InvalidRequest.field("/scores_by", f"{why}; take 'layer' or 'row'", "token")


def refuse_row_weights(job: JobBase, model: ModelRecord) -> None:
    """Raises InvalidRequest for what does not know weights of rows yet."""
    name = model.loss.weight_column
    if name is not None and isinstance(job, IndexJob):
        raise InvalidRequest.field(
            "/kind",
            f"the rows of model {model.name!r} have weights ({name!r}), which an index can't take into account; take "
            "kind 'influences', or register the model without 'row_weights'",
            None,
        )


def without_positions(model: ModelRecord, dataset: DatasetRecord) -> str | None:
    """Why a row's loss is not the sum over positions with a label each; None where it is."""
    if not isinstance(model.loss, CrossEntropy | Nll):
        return (
            f"model {model.name!r} has the loss {model.loss.name!r}, which has no positions; 'cross_entropy' and "
            "'nll' have, where each position has a label"
        )
    target = label_column(model, dataset)
    if not target.shape or is_floating(target.dtype):
        return f"a row of target {target.name!r} of {dataset.name!r} has no label for each of several positions"
    return None


def _as_many_as_inputs(model: ModelRecord, chosen: Chosen) -> None:
    if not model.inputs:
        return  # a factory does not say; the worker finds out
    dataset = chosen.dataset
    columns = _columns(dataset, dataset.inputs)
    if model.loss.name == "program":
        columns += _columns(dataset, dataset.targets)
    if len(columns) != len(model.inputs):
        raise _misfit(
            chosen,
            f"model {model.name!r} takes {_described(model.inputs, batch=True)}, "
            f"and dataset {dataset.name!r} gives {_described(columns, batch=False)}",
        )


def _inputs_fit(model: ModelRecord, chosen: Chosen, match: ColumnMatch) -> None:
    names = [*match.inputs, *(match.targets if model.loss.name == "program" else ())]
    for spec, column in zip(model.inputs, _columns(chosen.dataset, names), strict=False):
        _one_fits(chosen, spec, column)


def _tokenizer_fits(model: ModelRecord, chosen: Chosen) -> None:
    """A language model has a score for each token; padded to a round number, it may have a few more."""
    size, dataset = chosen.dataset.tokenizer_size, chosen.dataset
    if size is None or not model.outputs or without_positions(model, dataset) is not None:
        return
    assert isinstance(model.loss, CrossEntropy | Nll)
    axis = model.loss.class_axis
    scores = model.outputs[0].shape[axis if axis > 0 else -1]
    if scores is not None and size > scores:
        raise _misfit(
            chosen,
            f"the tokenizer of {dataset.name!r} has {size} tokens, and model {model.name!r} has scores for {scores}: "
            "it is another model's",
        )


def _one_fits(chosen: Chosen, spec: TensorSpec, column: TensorSpec) -> None:
    wanted = spec.shape[1:]  # the batch is first
    if not _same_shape(wanted, column.shape):
        raise _misfit(
            chosen,
            f"a row of column {column.name!r} of {chosen.dataset.name!r} has shape {_shape(column.shape)}; "
            f"the model's input {spec.name!r} takes {_shape(wanted)}",
        )
    if is_floating(spec.dtype) != is_floating(column.dtype):
        raise _misfit(
            chosen,
            f"column {column.name!r} of {chosen.dataset.name!r} is {column.dtype}; "
            f"the model's input {spec.name!r} takes {spec.dtype}",
        )


def _targets_fit(model: ModelRecord, chosen: Chosen, *, tested: bool) -> None:
    loss, dataset = model.loss.name, chosen.dataset
    if loss == "program":
        return
    labels, weights = label_columns(model, dataset), model.loss.weight_column
    if len(labels) != 1:
        beside = f" beside {weights!r}" if weights else ""
        raise _misfit(
            chosen,
            f"loss {loss!r} takes one target column{beside}; dataset {dataset.name!r} has {len(labels)}",
        )
    _weights_fit(model, chosen, tested=tested)
    target = _columns(dataset, labels)[0]
    if model.loss.target == "class" and is_floating(target.dtype):
        _probabilities_fit(model, chosen, target)
    if model.loss.target == "value" and model.outputs:
        output = model.outputs[0].shape[1:]
        # Never broadcast: (n,) against (n, 1) would be compared each with each.
        if not _same_shape(output, target.shape):
            raise _misfit(
                chosen,
                f"loss {loss!r} compares each output with a target: the model gives {_shape(output)} a row, "
                f"target {target.name!r} of {dataset.name!r} has {_shape(target.shape)}; give the target that shape",
            )


def label_columns(model: ModelRecord, dataset: DatasetRecord) -> list[str]:
    """The targets without the weights of rows."""
    return [each for each in dataset.targets if each != model.loss.weight_column]


def label_column(model: ModelRecord, dataset: DatasetRecord) -> ColumnSpec:
    """The first of them, in a dataset that has one."""
    name = label_columns(model, dataset)[0]
    return next(column for column in dataset.columns if column.name == name)


def _with_weights(inputs: Inputs, match: ColumnMatch) -> ColumnMatch:
    """The labels first, and then the weights, where the dataset has some."""
    weights = inputs.model.loss.weight_column
    if weights is None:
        return match
    labels = [each for each in match.targets if each != weights]
    there = [weights] if weights in match.targets else []
    return match.model_copy(update={"targets": [*labels, *there]})


def _weights_fit(model: ModelRecord, chosen: Chosen, *, tested: bool) -> None:
    """Of test rows there need not be any."""
    name, dataset = model.loss.weight_column, chosen.dataset
    if name is None or (tested and name not in dataset.targets):
        return
    if name not in dataset.targets:
        raise _misfit(
            chosen,
            f"loss {model.loss.name!r} takes the weights of rows from {name!r}, and the targets of dataset "
            f"{dataset.name!r} are {', '.join(dataset.targets) or 'none'}; register it with targets "
            f"{[*dataset.targets, name]}",
        )
    column = next(each for each in dataset.columns if each.name == name)
    if column.shape:
        raise _misfit(
            chosen,
            f"weights {name!r} of {dataset.name!r} have shape {_shape(column.shape)} a row; give one number",
        )
    if column.minimum is not None and column.minimum < 0:
        raise _misfit(
            chosen,
            f"weights {name!r} of {dataset.name!r} go down to {column.minimum:g}; give 0 or more",
        )


def _probabilities_fit(model: ModelRecord, chosen: Chosen, target: TensorSpec) -> None:
    """Of cross-entropy the targets may be probabilities: floats of the outputs' shape."""
    loss, dataset = model.loss.name, chosen.dataset
    words = f"target {target.name!r} of {dataset.name!r} is {target.dtype}"
    if loss != "cross_entropy":
        raise _misfit(chosen, f"loss {loss!r} takes class indices (integers); {words}")
    if model.outputs and not _same_shape(model.outputs[0].shape[1:], target.shape):
        raise _misfit(
            chosen,
            f"loss {loss!r} takes class indices (integers), or a probability for each output, "
            f"{_shape(model.outputs[0].shape[1:])} a row; {words}, of shape {_shape(target.shape)}",
        )


def floating_inputs(dataset: DatasetRecord) -> list[str]:
    """The input columns that can be perturbed."""
    return [
        column.name for column in _columns(dataset, dataset.inputs) if is_floating(column.dtype)
    ]


def is_floating(dtype: str) -> bool:
    """Whether a dtype, as records name it, is of real numbers."""
    return "float" in dtype or dtype in ("half", "double") or dtype[:2] in ("<f", ">f")


def _columns(dataset: DatasetRecord, names: Sequence[str]) -> list[TensorSpec]:
    by_name = {column.name: column for column in dataset.columns}
    return [by_name[name] for name in names]


def _same_shape(wanted: Sequence[int | None], given: Sequence[int | None]) -> bool:
    return len(wanted) == len(given) and all(
        a is None or a == b for a, b in zip(wanted, given, strict=True)
    )


def _described(specs: Sequence[TensorSpec], *, batch: bool) -> str:
    listed = [
        f"{spec.name!r} {_shape(spec.shape[1:] if batch else spec.shape)} {spec.dtype}"
        for spec in specs
    ]
    return f"{len(specs)} inputs ({', '.join(listed)})"


def _shape(shape: Sequence[int | None]) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"


def _misfit(chosen: Chosen, words: str) -> InvalidRequest:
    error = InvalidRequest.field(f"{chosen.pointer}/dataset", words, chosen.dataset.name)
    assert isinstance(error, InvalidRequest)
    return error


def refuse_labels_out_of_range(model: ModelRecord, chosen: Chosen) -> None:
    """Raises InvalidRequest. The record has one range for all rows: of a part of them the worker judges."""
    loss = model.loss
    if loss.name == "bce_with_logits" and _is_whole(chosen):
        _refuse_outside_0_to_1(model, chosen)
    if not isinstance(loss, CrossEntropy | Nll) or not model.outputs or not _is_whole(chosen):
        return
    shape = model.outputs[0].shape  # the batch is first, then the classes
    classes = shape[loss.class_axis] if len(shape) > 1 else None
    dataset = chosen.dataset
    target = label_column(model, dataset)
    ignored = _IGNORED if loss.ignore_index is None else loss.ignore_index
    if classes is None or is_floating(target.dtype):
        return
    for label in (target.minimum, target.maximum):
        if label is None or label == ignored or 0 <= label < classes:
            continue
        words = (
            f"target {target.name!r} of {dataset.name!r} has the label {label:.0f}; model {model.name!r} has "
            f"{classes} outputs, so labels go from 0 to {classes - 1}. Correct the labels, choose the 'rows' without "
            "them, or register the model with that label as the loss's 'ignore_index'"
        )
        raise InvalidRequest.field(f"{chosen.pointer}/dataset", words, int(label))


def _refuse_nameless(model: ModelRecord, chosen: Chosen) -> None:
    """Of labels beyond the named ones a dataset has one kind at most, which may be what the loss ignores."""
    loss, dataset = model.loss, chosen.dataset
    if not isinstance(loss, CrossEntropy | Nll) or not dataset.class_names:
        return
    target = label_column(model, dataset)
    ignored = _IGNORED if loss.ignore_index is None else loss.ignore_index
    label, named = target.maximum, len(dataset.class_names)
    if is_floating(target.dtype) or label is None or label < named or label == ignored:
        return
    raise _misfit(
        chosen,
        f"target {target.name!r} of {dataset.name!r} has the label {label:.0f}, and its 'class_names' are those of the "
        f"labels 0 to {named - 1}. Register it with a name for each label, in the order of the model's outputs; or "
        "register the model with that label as the loss's 'ignore_index'",
    )


def _refuse_outside_0_to_1(model: ModelRecord, chosen: Chosen) -> None:
    dataset = chosen.dataset
    target = label_column(model, dataset)
    for label in (target.minimum, target.maximum):
        if label is not None and not 0 <= label <= 1:
            raise _misfit(
                chosen,
                f"target {target.name!r} of {dataset.name!r} has the label {label:g}; 'bce_with_logits' of model "
                f"{model.name!r} takes labels from 0 to 1. Correct the labels, or choose the 'rows' without them",
            )


def _is_whole(chosen: Chosen) -> bool:
    return chosen.rows.parts == (range(chosen.dataset.rows or 0),)
