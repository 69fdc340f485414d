"""The JSON that says which member of an archive holds which tensor."""

from workers.programs.schema import Strict, TensorMeta


class Payload(Strict):
    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class PayloadConfig(Strict):
    config: dict[str, Payload]
