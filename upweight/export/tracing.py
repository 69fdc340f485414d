"""A module's forward as a graph with a free batch dimension. torch is imported when called, not before.

What a graph of forward alone would lose is written into it: a region without gradients (`no_grad`, `inference_mode`,
`set_grad_enabled`, `x.data`) becomes `detach` of what leaves it. Autocast is left out, in the graph and in what it is
compared with: it chooses how exactly a function is computed, not which one.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import IO, TYPE_CHECKING, Any, cast

from upweight.export.substitutes import exportable, replaced

if TYPE_CHECKING:
    import torch
    from torch import fx, nn
    from torch.export import ExportedProgram

Tensors = tuple["torch.Tensor", ...]
Named = dict[str, "torch.Tensor"]
ATTENTION = "scaled_dot_product"


def traced(module: nn.Module, args: Tensors, kwargs: Named) -> ExportedProgram:
    """The module as it is, for batches of any size. Raises whatever torch raises on the way."""
    from torch.export import Dim, export

    batch = {0: Dim("batch")}
    shapes: Any = dict.fromkeys(kwargs, batch) if kwargs else (batch,) * len(args)
    if args and _takes_any_number(module):
        shapes = (shapes,)
    with _data_as_detach(), _by_name(module, kwargs):
        program = export(module, args, kwargs or None, dynamic_shapes=shapes)
    return written_out(program)


@contextmanager
def _by_name(module: nn.Module, kwargs: Named) -> Iterator[None]:
    """Of a forward that takes what is called by name as `**kwargs`: as if it named each, which torch takes alone."""
    forward = module.forward
    known = inspect.signature(forward).parameters
    if not any(key not in known for key in kwargs):
        yield
        return

    def named(**given: Any) -> Any:
        return forward(**given)

    kind, own = inspect.Parameter.POSITIONAL_OR_KEYWORD, "forward" in vars(module)
    named.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(key, kind) for key in kwargs]
    )
    module.forward = named
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


def as_graph(module: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> nn.Module:
    """The module as its graph computes it, for this one shape of its arguments."""
    from torch.export import export

    with _data_as_detach():
        program = export(module, *call)
    return written_out(program).module()


def as_any_batch(module: nn.Module, args: Tensors, axes: tuple[int, ...]) -> fx.GraphModule:
    """The module as its graph computes it, with these axes of each argument free as far as its forward lets them."""
    from torch.export import Dim, export

    free = dict.fromkeys(axes, Dim.AUTO)
    with _data_as_detach():
        program = export(module, args, dynamic_shapes=(free,) * len(args))
    return written_out(program).module()


def written_out(program: ExportedProgram) -> ExportedProgram:
    """With regions, attention and operators that write to their arguments replaced by plain operators."""
    import torch
    from torch.export import default_decompositions

    _detach_regions(program)
    if not any(_needs_writing_out(node) for node in _nodes(program)):
        return program
    rules: dict[Any, Callable[..., Any]] = {
        operator: rule
        for operator, rule in default_decompositions().items()  # type: ignore[no-untyped-call]
        if ATTENTION in str(operator)
    }
    rules[torch.ops.aten.copy.default] = (
        _copy  # what writing to a slice becomes; torch has no derivative of it
    )
    return program.run_decompositions(rules)


def _copy(written: torch.Tensor, source: torch.Tensor, _non_blocking: bool = False) -> torch.Tensor:
    return source.to(written.dtype).expand(written.shape)


def strip_source(program: ExportedProgram) -> None:
    """A program is a graph and weights: the tracer's notes of source lines and paths stay at home.

    So do its notes of which graph a node was copied from, by addresses in memory: without them the same module gives
    the same bytes, which the service knows again.
    """
    for node in _nodes(program):
        node.meta.pop("stack_trace", None)
        node.meta.pop("from_node", None)


@contextmanager
def as_exported(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, its arithmetic plain, and torch silent; all is put back in the end."""
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(_evaluating(module))
        stack.enter_context(_twice_differentiable())
        stack.enter_context(_plain_regions())
        stack.enter_context(_without_caches(module))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of torch's deprecations, log lines and printed graphs, in this thread alone: nobody can act on them."""
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handlers = [
        handler
        for name, each in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] == "torch" and isinstance(each, logging.Logger)
        for handler in each.handlers
    ]
    for handler in handlers:
        handler.addFilter(of_others)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stderr(cast("IO[str]", _OfOthers(sys.stderr, thread))),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(of_others)


class _OfOthers:
    """A stream to which one thread's writing is dropped."""

    def __init__(self, stream: IO[str], thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nodes(program: ExportedProgram) -> Iterator[fx.Node]:
    for part in program.graph_module.modules():
        yield from getattr(getattr(part, "graph", None), "nodes", ())


def _needs_writing_out(node: fx.Node) -> bool:
    import torch

    if node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or ATTENTION in schema.name)


def _detach_regions(program: ExportedProgram) -> None:
    """Marks what leaves a region without gradients; writing the region out would forget that it was one."""
    import torch
    from torch import fx

    region = torch.ops.higher_order.wrap_with_set_grad_enabled
    for part in list(program.graph_module.modules()):
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            if node.target is torch.ops.aten.detach_.default:
                _detach_from_here(node)
            if node.target is not region or node.args[0] is not False:
                continue
            inner = cast("fx.GraphModule", getattr(part, node.args[1].target))
            (output,) = inner.graph.find_nodes(op="output")
            with inner.graph.inserting_before(output):
                output.args = fx.map_arg(output.args, _detached(inner.graph))
            inner.recompile()


def _detach_from_here(node: fx.Node) -> None:
    """`x.detach_()` cuts the gradient of x for all that comes after it."""
    import torch

    node.target = torch.ops.aten.detach.default
    (written,) = cast("tuple[fx.Node]", node.args)
    written.replace_all_uses_with(
        node, delete_user_cb=lambda user: user is not node and node < user
    )


def _detached(graph: fx.Graph) -> Callable[[fx.Node], fx.Node]:
    import torch

    def detached(node: fx.Node) -> fx.Node:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return node
        found = graph.call_function(torch.ops.aten.detach.default, (node,))
        found.meta = dict(node.meta)
        return found

    return detached


def _takes_any_number(module: nn.Module) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextmanager
def _without_caches(module: nn.Module) -> Iterator[None]:
    """transformers' language models would return what generating further tokens needs, which is no tensor."""
    configs = {
        id(config): config for part in module.modules() if (config := vars(part).get("config"))
    }
    caching = [each for each in configs.values() if getattr(each, "use_cache", None) is True]
    for each in caching:
        each.use_cache = False
    try:
        yield
    finally:
        for each in caching:
            each.use_cache = True


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Attention as arithmetic: the fused kernels and torch's fast path know no second derivative."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            exportable(),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _data_as_detach() -> Iterator[None]:
    """`x.data` is `x.detach()` to the tracer, which can't follow it otherwise."""
    import torch
    from torch.overrides import TorchFunctionMode

    class AsDetach(TorchFunctionMode):
        def __torch_function__(
            self,
            function: Any,
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            if function == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
                return args[0].detach()
            return function(*args, **(kwargs or {}))

    with AsDetach():
        yield


@contextmanager
def _plain_regions() -> Iterator[None]:
    """Inference mode as `no_grad`, which a graph can hold, and neither autocast nor checkpoints, in this thread."""
    import torch
    from torch.utils.checkpoint import CheckpointFunction

    def enter_inference(self: Any) -> None:
        self._grad_before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(not self.mode)

    def leave_inference(self: Any, *_error: Any) -> None:
        torch._C._set_grad_enabled(self._grad_before)

    def enter_autocast(self: Any) -> Any:
        return self

    def leave_autocast(self: Any, *_error: Any) -> None:
        pass

    def without_checkpoint(run: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
        return run(*args)

    autocast, inference = torch.amp.autocast_mode.autocast, torch.inference_mode
    with ExitStack() as stack:
        for owner, name, replacement in (
            (inference, "__enter__", enter_inference),
            (inference, "__exit__", leave_inference),
            (autocast, "__enter__", enter_autocast),
            (autocast, "__exit__", leave_autocast),
            (CheckpointFunction, "apply", staticmethod(without_checkpoint)),
        ):
            stack.enter_context(replaced(owner, name, replacement))
        yield
