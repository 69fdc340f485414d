"""Raw tensors of an archive: bytes and their description, each checked against the other."""

import re
from dataclasses import dataclass

import torch

from workers.programs.archive import CONSTANTS_CONFIG, WEIGHTS_CONFIG, Archive
from workers.programs.documents import parse
from workers.programs.errors import WeightsInvalid
from workers.programs.limits import Limits
from workers.programs.scalars import dtype_of, require_strided
from workers.programs.schema import Strict, TensorMeta


class Payload(Strict):
    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class PayloadConfig(Strict):
    config: dict[str, Payload]


_INTEGER_BOUND = 2**62
_VIEWS = 4


@dataclass(frozen=True)
class State:
    """The archive's tensors by their name in the user's model; tied ones are one object."""

    weights: dict[str, torch.Tensor]
    constants: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Folder:
    config: str
    base: str
    path_name: re.Pattern[str]


_WEIGHTS = _Folder(WEIGHTS_CONFIG, "data/weights/", re.compile(r"weight_\d{1,9}"))
_CONSTANTS = _Folder(CONSTANTS_CONFIG, "data/constants/", re.compile(r"tensor_\d{1,9}"))


def read_state(archive: Archive, limits: Limits) -> State:
    """All the tensors of the archive, on the CPU."""
    return State(_read(archive, _WEIGHTS, limits), _read(archive, _CONSTANTS, limits))


def _read(archive: Archive, folder: _Folder, limits: Limits) -> dict[str, torch.Tensor]:
    config = parse(PayloadConfig, archive.read(folder.config, limits.config_bytes), folder.config)
    storages: dict[str, _Storage] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, payload in config.config.items():
        meta = _checked_meta(name, payload, folder, limits)
        layout, member = _Layout.of(name, meta), folder.base + payload.path_name
        if member not in storages:
            storages[member] = _Storage(_bytes(archive, member, name, layout))
        tensors[name] = storages[member].view(name, payload.is_param, meta.requires_grad, layout)
    return tensors


def _checked_meta(name: str, payload: Payload, folder: _Folder, limits: Limits) -> TensorMeta:
    if payload.use_pickle:
        raise WeightsInvalid(
            f"{name!r} is pickled, and is never opened: use plain tensors, not subclasses"
        )
    if not folder.path_name.fullmatch(payload.path_name):
        raise WeightsInvalid(
            f"{name!r} lies in {payload.path_name[:100]!r}, which is not a tensor's member: "
            "models may hold tensors only, no objects"
        )
    if payload.tensor_meta is None:
        raise WeightsInvalid(f"{name!r} has no shape and dtype")
    if len(payload.tensor_meta.sizes) > limits.tensor_rank:
        raise WeightsInvalid(f"{name!r} has more than {limits.tensor_rank} dimensions")
    require_strided(payload.tensor_meta.layout)
    return payload.tensor_meta


@dataclass(frozen=True)
class _Layout:
    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, name: str, meta: TensorMeta) -> "_Layout":
        numbers = [*meta.sizes, *meta.strides, meta.storage_offset]
        if any(number.kind != "as_int" for number in numbers):
            raise WeightsInvalid(f"{name!r} has a symbolic shape")
        if any(not 0 <= number.as_int < _INTEGER_BOUND for number in numbers):
            raise WeightsInvalid(f"{name!r} has a negative or absurd size")
        if len(meta.sizes) != len(meta.strides):
            raise WeightsInvalid(f"{name!r} has {len(meta.sizes)} sizes, other strides")
        return cls(
            dtype_of(meta.dtype),
            tuple(size.as_int for size in meta.sizes),
            tuple(stride.as_int for stride in meta.strides),
            meta.storage_offset.as_int,
        )

    @property
    def elements(self) -> int:
        count = 1
        for size in self.sizes:
            count *= size
        return count

    @property
    def reach(self) -> int:
        """One past the last element of the storage that the view touches."""
        if self.elements == 0:
            return 0
        steps = zip(self.sizes, self.strides, strict=True)
        return self.offset + 1 + sum((size - 1) * stride for size, stride in steps)


class _Storage:
    """The bytes of a member, and the views of them that were given out."""

    def __init__(self, flat: torch.Tensor) -> None:
        self._flat = flat
        self._views: dict[tuple[object, ...], torch.Tensor] = {}
        self._viewed = 0

    def view(self, name: str, is_param: bool, requires_grad: bool, layout: _Layout) -> torch.Tensor:
        """The tensor that `layout` describes; equal views are one tensor, so that ties survive."""
        key = (layout, is_param, requires_grad)
        if key not in self._views:
            self._count(name, layout)
            tensor = _strided(self._flat, layout)
            if is_param:
                tensor = _parameter(name, tensor, requires_grad)
            self._views[key] = tensor
        return self._views[key]

    def _count(self, name: str, layout: _Layout) -> None:
        held = self._flat.numel()
        if layout.dtype != self._flat.dtype:
            raise WeightsInvalid(f"{name!r} reads bytes as {layout.dtype} that are another dtype")
        if layout.reach > held or layout.elements > held:
            raise WeightsInvalid(
                f"{name!r} needs {max(layout.reach, layout.elements)} elements, its bytes hold "
                f"{held}: the file is damaged, or the tensor is expanded (call .contiguous() "
                "before exporting)"
            )
        # On a device every view becomes memory of its own.
        self._viewed += layout.elements
        if self._viewed > _VIEWS * held:
            raise WeightsInvalid(f"{name!r} is one of too many views of the same bytes")


def _bytes(archive: Archive, member: str, name: str, layout: _Layout) -> torch.Tensor:
    if member not in archive:
        raise WeightsInvalid(f"the bytes of {name!r} ({member}) are missing")
    size = archive.size(member)
    if size % layout.dtype.itemsize:
        raise WeightsInvalid(f"{member} has {size} bytes: no whole number of {layout.dtype}")
    if size == 0:
        return torch.empty(0, dtype=layout.dtype)
    # In memory of torch's own, which is aligned: products round otherwise where weights lie otherwise.
    return torch.frombuffer(archive.read(member, size), dtype=layout.dtype).clone()


def _strided(flat: torch.Tensor, layout: _Layout) -> torch.Tensor:
    if layout.elements == 0:
        return torch.empty(layout.sizes, dtype=layout.dtype)
    return torch.as_strided(flat, layout.sizes, layout.strides, layout.offset)


def _parameter(name: str, tensor: torch.Tensor, requires_grad: bool) -> torch.nn.Parameter:
    if requires_grad and not (tensor.is_floating_point() or tensor.is_complex()):
        raise WeightsInvalid(f"{name!r} requires gradients but is of {tensor.dtype}")
    return torch.nn.Parameter(tensor, requires_grad=requires_grad)
