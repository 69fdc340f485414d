"""Builds a Hugging Face model of an allowed type from its config alone, and gives it the user's safetensors weights.

The class is transformers' own, by the config's architecture; nothing is downloaded, and no code comes with a model.
The model is first laid out without memory, on torch's meta device, and compared with the weights' header: a config
that claims terabytes is refused by the shapes that the weights do not have.
"""

import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from upweight.export.outputs import Output
from upweight.export.tracing import as_any_batch, as_exported
from workers.engine.autodiff.graph.trace import draw_with
from workers.programs.adapters import adapt
from workers.programs.errors import ConfigRefused, OutputUnsupported, ProgramError
from workers.programs.fitting import write_out
from workers.programs.program import InputSpec, OutputSpec, Program, parameter_specs
from workers.programs.state import check_state, load_state

LOGITS = "logits"
_TASKS = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}
_HARMLESS = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "model_type"}
)
_BUFFER_BYTES = 64 << 20
_TOKENS = 4
_DRAWN_ROWS, _DRAWN_TOKENS = (
    3,
    5,
)  # unlike each other, so that the tracer takes neither for the other


def read_huggingface(
    config: Mapping[str, Any],
    task: str,
    inputs: Sequence[str],
    weights: Path,
    *,
    allowed: Collection[str],
    frozen: Sequence[str] | None = None,
    output: Output = None,
    drawn: bool = True,
    adapter: tuple[Mapping[str, Any], Path] | None = None,
) -> Program:
    """The model of this config, in float32, attention written out ("eager"). Raises nothing but ProgramError.

    `drawn`: products are taken by its graph, which is drawn when the first is asked for.

    `adapter`: the config and the weights of one that trains over it.
    `frozen` names the parameters that do not train; None leaves them as the architecture has them.
    `inputs` names the columns that rows have, in their order. A classifier's output is (B, classes), a language model's
    (B, positions, vocabulary): the scores of the token that follows each position.
    """
    if output not in (None, LOGITS):
        raise OutputUnsupported(
            f"there is no output {output!r}: a model from its config gives {LOGITS!r}, whatever else "
            "transformers returns; for another register the live model, which is exported then",
            field="/output",
        )
    kind = config.get("model_type")
    if kind not in allowed:
        raise ConfigRefused(
            f"model_type {str(kind)[:100]!r} is not allowed here; allowed are: {', '.join(sorted(allowed)) or 'none'}. "
            "The operator adds types in the settings; or export the model to pt2",
            field="/program/config/model_type",
        )
    try:
        module = _built(config, task, weights)
        if frozen is not None:
            _freeze(module, frozen)
        if adapter is not None:
            adapt(module, *adapter)
        _take_columns(module, inputs)
        module.register_forward_hook(_logits)
        if "attention_mask" in inputs:
            _require_looking_both_ways(module, inputs)
    except ProgramError:
        raise
    # transformers raises errors of many kinds on configs that only look right.
    except Exception as exc:
        raise ConfigRefused(
            f"no model can be made of this config ({type(exc).__name__}: {str(exc)[:300]}); send the config.json that "
            "save_pretrained wrote"
        ) from exc
    if drawn:
        draw_with(module, partial(_graph, inputs=tuple(inputs)))
    return Program(
        module=module,
        inputs=tuple(InputSpec(name, "int64", (None, None), (2, _TOKENS)) for name in inputs),
        outputs=(OutputSpec(LOGITS, "float32", _output_shape(module, task)),),
        parameters=parameter_specs(module),
        format="huggingface",
    )


def _freeze(module: nn.Module, frozen: Sequence[str]) -> None:
    held = dict(module.named_parameters(remove_duplicate=False))
    for at, name in enumerate(frozen):
        if name not in held:
            raise ConfigRefused(
                f"the model has no parameter {name!r} to be frozen: send the names that named_parameters() gives",
                field=f"/program/frozen/{at}",
            )
    module.requires_grad_(True)
    for name in frozen:
        held[name].requires_grad_(False)


def _output_shape(module: Any, task: str) -> tuple[int | None, ...]:
    if task == "causal-lm":
        return (None, None, module.config.vocab_size)
    return (None, module.config.num_labels)


def _built(config: Mapping[str, Any], task: str, weights: Path) -> nn.Module:
    made = _config(config)
    architecture = _architecture(config, task)
    with torch.device("meta"):
        outline = architecture(made)
    check_state(outline, weights)
    buffers = sum(each.nbytes for each in outline.buffers())
    if buffers > weights.stat().st_size + _BUFFER_BYTES:
        raise ConfigRefused(f"the config asks for {buffers} bytes of tables beside the weights")
    module: nn.Module = architecture(made)
    load_state(module, weights)
    return module.eval()


def _library() -> Any:
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        return importlib.import_module("transformers")
    except ImportError as exc:
        raise ConfigRefused(
            "this worker has no transformers; the operator installs upweight[huggingface]",
            field="/program/format",
        ) from exc


def _config(config: Mapping[str, Any]) -> Any:
    """The config's object, of fields that its class knows and nothing else."""
    kind = _library().CONFIG_MAPPING[config["model_type"]]
    known = kind().to_dict().keys() | _HARMLESS | {"num_labels"}
    unknown = sorted(config.keys() - known)
    if unknown:
        raise ConfigRefused(
            f"the config has {unknown[0][:100]!r}, which {kind.__name__} does not know: leave it out",
            field=f"/program/config/{unknown[0][:100]}",
        )
    # Weights are read in float32, and the attention that has second derivatives is the one written out.
    plain = {name: value for name, value in config.items() if name not in _HARMLESS}
    return kind(**{**plain, "attn_implementation": "eager", "use_cache": False})


def _architecture(config: Mapping[str, Any], task: str) -> Any:
    """transformers' own class for the type and task, which must be the one that the config names."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    found = getattr(auto, _TASKS[task]).get(config["model_type"], ())
    names = [found] if isinstance(found, str) else list(found)
    given = config.get("architectures") or names[:1]
    if len(given) != 1 or given[0] not in names:
        raise ConfigRefused(
            f"for {task} of a {config['model_type']} the architecture is {' or '.join(names) or 'none'}, "
            f"not {str(given)[:200]}: choose the task that fits, or export the model to pt2",
            field="/program/config/architectures",
        )
    return getattr(_library(), given[0])


def _take_columns(module: nn.Module, inputs: Sequence[str]) -> None:
    """Lets the module be called with a dataset's columns, by their place."""

    def by_name(
        called: nn.Module, columns: tuple[Tensor, ...], _rest: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        named: dict[str, Any] = dict(zip(inputs, columns, strict=True))
        if "attention_mask" in named:
            dtype = next(each.dtype for each in called.parameters())
            named["attention_mask"] = _spread(named["attention_mask"], dtype)
        return (), named

    module.register_forward_pre_hook(by_name, with_kwargs=True)


def _graph(module: nn.Module, inputs: tuple[str, ...]) -> fx.GraphModule:
    """What the module computes of any rows and tokens, as a graph. Raises whatever torch raises on the way."""
    device = next(module.parameters()).device
    column = torch.ones((_DRAWN_ROWS, _DRAWN_TOKENS), dtype=torch.int64, device=device)
    columns = {name: column.clone() for name in inputs}
    with as_exported(module):
        found = as_any_batch(module, tuple(columns.values()), axes=(0, 1))
    write_out(found)
    return found


def _spread(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T) of ones and zeros as (B, 1, 1, T) of 0 and −∞ nearly: the form that asks nothing of values under vmap."""
    return (1 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def _logits(_module: nn.Module, _inputs: Any, result: Any) -> Tensor:
    found = getattr(result, LOGITS, None)
    if not isinstance(found, Tensor):
        raise OutputUnsupported("the model returns no logits")
    return found


def _require_looking_both_ways(module: nn.Module, inputs: Sequence[str]) -> None:
    """A mask as `_spread` makes it would let a model that looks back alone look ahead, too."""
    tokens = torch.arange(_TOKENS)[None] % 3
    columns = {name: torch.zeros_like(tokens) for name in inputs} | {"input_ids": tokens}
    columns["attention_mask"] = torch.ones_like(tokens)
    with torch.no_grad():
        masked = module(*(columns[name] for name in inputs))
        plain = module.forward(input_ids=tokens).logits
    if not torch.allclose(masked, plain, rtol=1e-3, atol=1e-4):
        raise ConfigRefused(
            "this architecture attends to earlier tokens alone, so it needs no attention_mask here: leave that input "
            "out, and pad at the end",
            field="/program/inputs",
        )
