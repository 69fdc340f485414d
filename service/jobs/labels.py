"""Whether class labels lie among the classes of the model, told from the range of a dataset's column."""

from __future__ import annotations

from service.jobs.validation.inputs import Chosen
from upweight.errors import InvalidRequest
from upweight.schema import CrossEntropy, ModelRecord, Nll

_IGNORED = -100  # what the losses pass over when 'ignore_index' is not given


def refuse_labels_out_of_range(model: ModelRecord, chosen: Chosen) -> None:
    """Raises InvalidRequest. The record has one range for all rows: of a part of them the worker judges."""
    loss = model.loss
    if not isinstance(loss, CrossEntropy | Nll) or not model.outputs or not _is_whole(chosen):
        return
    shape = model.outputs[0].shape  # the batch is first, then the classes
    classes = shape[loss.class_axis] if len(shape) > 1 else None
    dataset = chosen.dataset
    target = next(column for column in dataset.columns if column.name == dataset.targets[0])
    ignored = _IGNORED if loss.ignore_index is None else loss.ignore_index
    if classes is None:
        return
    for label in (target.minimum, target.maximum):
        if label is None or label == ignored or 0 <= label < classes:
            continue
        words = (
            f"target {target.name!r} of {dataset.name!r} has the label {label:.0f}; model {model.name!r} has "
            f"{classes} outputs, so labels go from 0 to {classes - 1}. Mend the labels, choose the 'rows' without "
            "them, or register the model with that label as the loss's 'ignore_index'"
        )
        raise InvalidRequest.field(f"{chosen.pointer}/dataset", words, int(label))


def _is_whole(chosen: Chosen) -> bool:
    return chosen.rows.parts == (range(chosen.dataset.rows or 0),)
