"""The JSON of an exported program (torch's export schema 8), as far as models need it.

Strict: a field or type which is not here is refused. What could carry code or objects (custom
objects, operators as arguments, compiled delegates) is not here, so it cannot be written down.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,299}$")]
QualifiedName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=1000)
]
Text = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,300}$")]
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Float = Annotated[float, Field(allow_inf_nan=False)] | Literal["Infinity", "-Infinity", "NaN"]


class Strict(BaseModel):
    """No conversion, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Union(Strict):
    """Torch's tagged union: an object with exactly one of the fields."""

    @model_validator(mode="after")
    def _one_field(self) -> "Union":
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one field is needed")
        return self

    @property
    def kind(self) -> str:
        """The name of the field that is set."""
        return next(iter(self.model_fields_set))

    @property
    def value(self) -> Any:
        """The value of the field that is set."""
        return getattr(self, self.kind)


class Device(Strict):
    type: Text
    index: Integer | None = None


class Hint(Union):
    as_int: Integer = 0
    as_bool: bool = False
    as_float: Float = 0.0


class Expression(Strict):
    expr_str: Annotated[str, StringConstraints(max_length=20_000)]
    hint: Hint | None = None


class SymInt(Union):
    as_expr: Expression = Expression(expr_str="")
    as_int: Integer = 0


class SymFloat(Union):
    as_expr: Expression = Expression(expr_str="")
    as_float: Float = 0.0


class SymBool(Union):
    as_expr: Expression = Expression(expr_str="")
    as_bool: bool = False


class TensorMeta(Strict):
    dtype: Integer
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Integer


class TensorName(Strict):
    name: Name


class SymIntArgument(Union):
    as_name: Name = "_"
    as_int: Integer = 0


class SymFloatArgument(Union):
    as_name: Name = "_"
    as_float: Float = 0.0


class SymBoolArgument(Union):
    as_name: Name = "_"
    as_bool: bool = False


class OptionalTensor(Union):
    as_tensor: TensorName = TensorName(name="_")
    as_none: bool = True


class Complex(Strict):
    real: Float
    imag: Float


class Subgraph(Strict):
    name: Name
    graph: "Graph"


class Argument(Union):
    as_none: bool = True
    as_tensor: TensorName = TensorName(name="_")
    as_tensors: list[TensorName] = []
    as_int: Integer = 0
    as_ints: list[Integer] = []
    as_float: Float = 0.0
    as_floats: list[Float] = []
    as_string: Text = ""
    as_sym_int: SymIntArgument = SymIntArgument(as_int=0)
    as_sym_ints: list[SymIntArgument] = []
    as_scalar_type: Integer = 0
    as_memory_format: Integer = 0
    as_layout: Integer = 0
    as_device: Device = Device(type="cpu")
    as_bool: bool = False
    as_bools: list[bool] = []
    as_sym_bool: SymBoolArgument = SymBoolArgument(as_bool=False)
    as_sym_float: SymFloatArgument = SymFloatArgument(as_float=0.0)
    as_sym_floats: list[SymFloatArgument] = []
    as_optional_tensors: list[OptionalTensor] = []
    as_optional_tensor: OptionalTensor = OptionalTensor(as_none=True)
    as_complex: Complex = Complex(real=0.0, imag=0.0)
    as_graph: "Subgraph | None" = None


class NamedArgument(Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{0,100}$")]
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(Strict):
    target: Annotated[str, StringConstraints(max_length=300)]
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: dict[str, str]
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None


class Graph(Strict):
    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: dict[Name, SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, Any], Field(max_length=0)] = {}
    sym_float_values: dict[Name, SymFloat] = {}


class UserValue(Strict):
    arg: Argument


class ParameterInput(Strict):
    arg: TensorName
    parameter_name: QualifiedName


class BufferInput(Strict):
    arg: TensorName
    buffer_name: QualifiedName
    persistent: bool


class ConstantTensorInput(Strict):
    arg: TensorName
    tensor_constant_name: QualifiedName


class ConstantValue(Union):
    as_none: bool = True
    as_int: Integer = 0
    as_float: Float = 0.0
    as_string: str = ""
    as_bool: bool = False


class ConstantInput(Strict):
    name: str
    value: ConstantValue


class InputBinding(Union):
    user_input: UserValue = UserValue(arg=Argument(as_none=True))
    parameter: ParameterInput | None = None
    buffer: BufferInput | None = None
    tensor_constant: ConstantTensorInput | None = None
    constant_input: ConstantInput | None = None


class OutputBinding(Union):
    """The mutations are named, not described: each is refused whatever it says."""

    user_output: UserValue = UserValue(arg=Argument(as_none=True))
    loss_output: dict[str, Any] = {}
    buffer_mutation: dict[str, Any] = {}
    parameter_mutation: dict[str, Any] = {}
    user_input_mutation: dict[str, Any] = {}
    gradient_to_parameter: dict[str, Any] = {}
    gradient_to_user_input: dict[str, Any] = {}
    token: dict[str, Any] = {}


class Signature(Strict):
    input_specs: list[InputBinding]
    output_specs: list[OutputBinding]


class CallSignature(Strict):
    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: str
    out_spec: str
    forward_arg_names: list[str] | None = None


class CallEntry(Strict):
    fqn: str
    signature: CallSignature | None = None


class NamedTuple(Strict):
    field_names: list[str]


class GraphModule(Strict):
    graph: Graph
    signature: Signature
    module_call_graph: list[CallEntry]
    metadata: dict[str, str] = {}
    treespec_namedtuple_fields: dict[str, NamedTuple] = {}


class Range(Strict):
    min_val: int | None
    max_val: int | None


class SchemaVersion(Strict):
    major: Literal[8]
    minor: Annotated[int, Field(ge=0, le=20)]


class ExportedProgram(Strict):
    """`guards_code` is text that torch would run; here it is only ever text."""

    graph_module: GraphModule
    opset_version: dict[str, int]
    range_constraints: dict[str, Range]
    schema_version: SchemaVersion
    verifiers: list[str] = []
    torch_version: str = "<=2.4"
    guards_code: list[str] = []
