"""Models: a program, and the parameters that influence is taken over."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
)

from upweight.schema.base import CONTRACT, Answer, Contract, Digest, Labels, Name, Request, Text
from upweight.schema.display import Record
from upweight.schema.loss import Loss
from upweight.schema.problem import Problem
from upweight.schema.recipe import Recipe
from upweight.schema.retraining import Training

NEEDS_INITIAL = (
    "the recipe starts from the initial weights, and there are none: give them (initial=net0, a module with the "
    "same parameters or its state_dict), or let it start from the trained ones with 'start': 'warm'"
)
OwnPrecision = Literal["float32", "float64"]


class Pt2Program(Request):
    """A `torch.export` program with a dynamic batch dimension: a graph and weights, no source."""

    format: Literal["pt2"] = "pt2"
    blob: Digest


class FactoryProgram(Request):
    """A factory that the operator has allowed, by its exact dotted name, and weights as safetensors."""

    format: Literal["factory"] = "factory"
    factory: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$",
            max_length=300,
            examples=["torchvision.models:resnet18"],
        ),
    ]
    kwargs: Annotated[dict[str, JsonValue], Field(max_length=64)] = {}
    weights: Digest


class Adapter(Request):
    """An adapter of peft, LoRA (with DoRA) or IA³: its `adapter_config.json` and its safetensors weights.

    θ is what trained with it: its own parameters, biases, and those of `modules_to_save`.
    """

    config: Annotated[dict[str, JsonValue], Field(max_length=256)]
    weights: Digest


class HuggingFaceProgram(Request):
    """A `config.json` of an allowed `model_type`, without remote code, and weights as safetensors.

    A classifier's output is (rows, classes). A language model's is (rows, positions, vocabulary): the scores of the
    token after each position, so its loss is `{"name": "cross_entropy", "class_axis": -1}` and its targets are the next
    tokens, with -100 where there is none.
    """

    format: Literal["huggingface"] = "huggingface"
    config: Annotated[dict[str, JsonValue], Field(max_length=256)]
    task: Literal["sequence-classification", "causal-lm"] = "sequence-classification"
    inputs: Annotated[
        tuple[Literal["input_ids", "attention_mask", "token_type_ids"], ...],
        Field(min_length=1, max_length=3, description="What a row's columns are, in their order."),
    ] = ("input_ids",)
    weights: Digest
    frozen: Annotated[tuple[Text, ...], Field(max_length=100_000)] | None = Field(
        None,
        description="Names of the parameters that do not train, whose `requires_grad` is False; safetensors do not "
        "say. By default as the architecture has it: as a rule, none.",
    )
    # Left out where there is none: digests of models, and of what workers remember of them, stay what they were.
    adapter: Adapter | None = Field(
        None,
        exclude_if=lambda adapter: adapter is None,
        description="Trained over the model, which is held fixed then. All adapters over one base name the same "
        "blob of `weights`, which is stored once.",
    )


def _no_pickle(value: Any) -> Any:
    name = value.get("format") if isinstance(value, dict) else None
    if name in ("pickle", "pt", "pkl", "pth", "torchscript", "joblib"):
        raise ValueError(
            f"{name!r} can run code when it is loaded and is never accepted; export the model instead: "
            "torch.export.save(torch.export.export(model.eval(), (x,), "
            'dynamic_shapes=({0: torch.export.Dim("batch")},)), "model.pt2")'
        )
    return value


Program = Annotated[
    Pt2Program | FactoryProgram | HuggingFaceProgram,
    Field(discriminator="format"),
    BeforeValidator(_no_pickle),
]


def _globs(globs: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for glob in globs or ():
        if glob.strip() != glob:
            raise ValueError(
                f"{glob!r} begins or ends with a space; parameter globs look like 'head.*'"
            )
    return globs


OutputName = Text | Annotated[int, Field(ge=0, strict=True)]
Outputs = OutputName | Annotated[tuple[OutputName, ...], Field(min_length=2, max_length=2)]


def _from_zero(output: Any) -> Any:
    for each in output if isinstance(output, list | tuple) else [output]:
        if isinstance(each, int) and each < 0:
            raise ValueError(
                f"{each} is no place: places count from 0; or give the output's name, such as 'logits'"
            )
    return output


def _output(output: Outputs | None, info: ValidationInfo) -> Outputs | None:
    if isinstance(output, tuple):
        loss = info.data.get("loss")
        if loss is not None and loss.name != "gaussian_nll":
            raise ValueError(
                f"{loss.name} takes one output; two, the mean and the variance, are for gaussian_nll"
            )
        if output[0] == output[1]:
            raise ValueError("name two outputs: the mean, then the variance")
    return output


class ModelRequest(Request):
    """Registers a model. A worker checks it before its state goes from `checking` to `ready` or `rejected`."""

    name: Name
    program: Program
    loss: Loss
    output: Annotated[Outputs | None, BeforeValidator(_from_zero), AfterValidator(_output)] = Field(
        None,
        description="What the loss takes of a model that returns several tensors: a name (`logits`, "
        "`heads.first`: keys and fields, with dots between them), or the place in a tuple. For `gaussian_nll` also "
        "two, the mean and the variance.",
    )
    parameters: Annotated[
        Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)] | None,
        AfterValidator(_globs),
    ] = Field(
        None,
        description="Globs over the names of all parameters; the rest is held fixed. By default, null, those that "
        "train: whose `requires_grad` is true in the program.",
    )
    recipe: Recipe | None = Field(
        None, description="How it was trained, for jobs that train it anew, and for λ `auto`."
    )
    initial: Digest | None = Field(
        None,
        description="The weights that its training began with: a safetensors blob with the selected parameters under "
        "their names. A recipe with `start: initial` needs them.",
    )
    labels: Labels = {}

    @field_validator("initial")
    @classmethod
    def _initial_of_the_recipe(cls, initial: str | None, info: ValidationInfo) -> str | None:
        recipe = info.data.get("recipe")
        if recipe is not None and recipe.start == "initial" and initial is None:
            raise ValueError(NEEDS_INITIAL)
        return initial


class CheckState(StrEnum):
    """Where a model or dataset stands."""

    CHECKING = "checking"  # waits for a worker, or is being checked by one
    READY = "ready"  # jobs may use it
    REJECTED = "rejected"  # `problem` says why; never usable


class TensorSpec(Answer):
    """One tensor of a model's signature or one column of a dataset. A null in `shape` is a free size."""

    name: str
    dtype: str
    shape: list[int | None]


class ParameterSpec(Answer):
    """One selected parameter: `offset` is its place in the flat vector that factors and gradients use."""

    name: str
    shape: list[int]
    offset: int

    @property
    def module(self) -> str:
        """Of the module that it is of: what is before its last dot; without one, its own name."""
        return self.name.rpartition(".")[0] or self.name


class HeldFixed(Answer):
    """The parameters that influence is not taken over: their values count, as they are."""

    parameter_count: int = Field(description="The number of their scalars.")
    parameters: list[str] = Field(description="Their names.")
    reason: str = Field(description="`requires_grad is False`, or `not matched by the globs`.")


class ModelRecord(Record):
    """A registered model."""

    id: str
    name: str
    version: int
    state: CheckState
    problem: Problem | None = None
    created_at: datetime
    checked_at: datetime | None = None
    program: Program
    loss: Loss
    output: Outputs | None = Field(
        None, description="As asked for; null for a model that returns one tensor."
    )
    parameters: list[str] | None = Field(
        None, description="Globs, as asked for; null for the parameters that train."
    )
    labels: dict[str, str] = {}
    digest: str = Field(
        description="Of all that decides results: program, weights, loss, selected parameters."
    )
    size_bytes: int
    inputs: list[TensorSpec] = []
    arguments: list[str] = Field(
        [],
        description="Of a factory's model, whose `inputs` are not known: what its forward calls them.",
    )
    outputs: list[TensorSpec] = Field([], description="What the loss takes of the model.")
    selected: list[ParameterSpec] = []
    parameter_count: int | None = Field(None, description="p: the number of selected scalars.")
    held_fixed: HeldFixed | None = Field(
        None, description="What is not selected, and why; null where everything is."
    )
    unused: list[str] = Field(
        [],
        description="Selected parameters that no loss depends on, as of a head whose output is not chosen. Influences "
        "are the same with and without them, but H is singular there without λ.",
    )
    shifted: list[str] = Field(
        [],
        description="Selected parameters to all of whose entries (along their first axis) the same can be added "
        "without a change of any loss, as before a softmax: H is singular there without λ.",
    )
    rank_per_row: int | None = Field(
        None,
        description="Of a model whose outputs are linear in the selected parameters: what a row adds to the rank of H "
        "at most. Null where that is not known.",
    )
    activation_bytes: int | None = Field(
        None,
        description="What a row keeps in memory for a gradient that can be differentiated again, by rows like those "
        "that the model was exported with. Null for a factory's model, and where an earlier release checked it.",
    )
    window_bytes: int | None = Field(
        None,
        description="What a row's convolutions keep beside that for products with a curvature: the windows of their "
        "inputs. 0 where there are none, null as with `activation_bytes`.",
    )
    reached_bytes: int | None = Field(
        None,
        description="The same of their cotangents, which products with the Hessian take.",
    )
    place_matrix_bytes: int | None = Field(
        None,
        description="Of convolutions over small images as matrices over all places, which products keep whatever "
        "the rows.",
    )
    dtype: str | None = Field(None, description="Of the selected parameters, the widest of them.")
    precision: OwnPrecision | None = Field(
        None,
        description="What jobs compute in that do not say: the widest type that the model computes in itself, and "
        "at least `float32`, so that half precision is computed in `float32`.",
    )
    precision_note: str | None = Field(
        None, description="Which of its parts are in half precision, and what they are computed in."
    )
    recipe: Recipe | None = Field(None, description="How it was trained, as far as that was said.")
    initial: str | None = Field(
        None, description="Digest of the weights that its training began with."
    )
    weights: str | None = Field(
        None,
        description="Digest of the selected parameters' values, of a model that a job has trained; null where they "
        "are the program's own.",
    )
    training: Training | None = Field(
        None, description="Of a model that a job has trained: its parent, its data, its metrics."
    )
    contract: Contract = CONTRACT
    used_by: list[str] = Field(
        [], description="Jobs that hold it; it can't be deleted before they are."
    )
