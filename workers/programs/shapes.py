"""Shapes of inputs and outputs, and which of their dimensions are dynamic."""

from upweight.export.outputs import Returned
from workers.programs.errors import (
    EXPORT_LINE,
    BatchNotDynamic,
    GraphInvalid,
    InputUnsupported,
)
from workers.programs.expressions import Symbolic, parse_expression
from workers.programs.limits import Limits
from workers.programs.program import InputSpec, OutputSpec, dtype_name
from workers.programs.scalars import dtype_of, require_strided
from workers.programs.schema import ExportedProgram, Graph, SymInt, TensorMeta

# Tracing assumes two rows or more, and torch writes that as a minimum of 0 or of 2; the graph
# holds for one row all the same. A higher minimum is one that the user asked for.
_USUAL_MINIMUM = 2


def check_expressions(graph: Graph, limits: Limits) -> None:
    """Every symbolic size of the graph follows the grammar, used or not."""
    for name, meta in graph.tensor_values.items():
        if len(meta.sizes) > limits.tensor_rank:
            raise GraphInvalid(f"{name} has more than {limits.tensor_rank} dimensions")
        dtype_of(meta.dtype)
        for size in (*meta.sizes, *meta.strides, meta.storage_offset):
            _symbolic(size)
    values = (graph.sym_int_values, graph.sym_float_values, graph.sym_bool_values)
    for table in values:
        for value in table.values():
            if value.kind == "as_expr":
                parse_expression(value.as_expr.expr_str)


def input_spec(graph: Graph, name: str) -> tuple[InputSpec, str]:
    """What the input takes, and the symbol of its first dimension."""
    meta = _meta(graph, name)
    batch = _symbolic(meta.sizes[0]) if meta.sizes else None
    if batch is None:
        raise BatchNotDynamic(_static(name, meta))
    if not batch.bare:
        raise BatchNotDynamic(
            f"the first dimension of input {name!r} is computed ({meta.sizes[0].value.expr_str}), "
            f"but it must be the batch. Export with: {EXPORT_LINE}"
        )
    spec = InputSpec(name, dtype_name(dtype_of(meta.dtype)), _shape(meta), _example(meta))
    return spec, next(iter(batch.symbols))


def output_spec(graph: Graph, returned: Returned) -> OutputSpec:
    """What the graph says that the model returns. Whether that has one row per example, running it shows."""
    meta = _meta(graph, returned.value)
    return OutputSpec(returned.name, dtype_name(dtype_of(meta.dtype)), _shape(meta))


def batch_maximum(program: ExportedProgram, batches: frozenset[str]) -> int | None:
    """The largest batch for which the graph was exported; None without bound."""
    for text in program.range_constraints:
        if len(text) > 200:
            raise GraphInvalid("a range names no symbol")
    ranges = [program.range_constraints[name] for name in batches & set(program.range_constraints)]
    minimum = max((one.min_val or 0 for one in ranges), default=0)
    if minimum > _USUAL_MINIMUM:
        raise InputUnsupported(
            f"the graph holds for batches of {minimum} or more, but gradients are taken one "
            'example at a time: export with torch.export.Dim("batch") without min'
        )
    bounds = [one.max_val for one in ranges if one.max_val is not None]
    if any(bound < _USUAL_MINIMUM for bound in bounds):
        raise BatchNotDynamic(f"the graph holds for one batch size only. Use: {EXPORT_LINE}")
    return min(bounds, default=None)


def _meta(graph: Graph, name: str) -> TensorMeta:
    if name not in graph.tensor_values:
        raise GraphInvalid(f"{name!r} has no shape")
    meta = graph.tensor_values[name]
    require_strided(meta.layout)
    return meta


def _symbolic(size: SymInt) -> Symbolic | None:
    if size.kind == "as_int":
        return None
    parsed = parse_expression(size.as_expr.expr_str)
    return parsed if parsed.symbols else None


def _shape(meta: TensorMeta) -> tuple[int | None, ...]:
    shape = tuple(size.as_int if size.kind == "as_int" else None for size in meta.sizes)
    if any(size is not None and size < 0 for size in shape):
        raise GraphInvalid("a dimension is negative")
    return shape


def _example(meta: TensorMeta) -> tuple[int, ...]:
    hints = [size.as_expr.hint for size in meta.sizes]
    return tuple(
        size.as_int if size.kind == "as_int" else max(1, hint.as_int) if hint else _USUAL_MINIMUM
        for size, hint in zip(meta.sizes, hints, strict=True)
    )


def _static(name: str, meta: TensorMeta) -> str:
    return (
        f"input {name!r} has the fixed shape {list(_shape(meta))}: its first dimension must be a "
        "dynamic batch, the same one for every input, given in dynamic_shapes. "
        f"Export with: {EXPORT_LINE}"
    )
