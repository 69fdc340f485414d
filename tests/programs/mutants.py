"""Archives as an attacker might change them, each made by a number: the same number gives the same bytes."""

import io
import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from tests.programs.tampering import CONSTANTS, GRAPH, WEIGHTS, Members
from workers.programs.operators import ALLOWED

NUMBERS = (
    -1, 0, 1, 2, 3, 7, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**40, 2**53 + 1, 2**62, 2**63 - 1, -(2**31), -(2**63),
    2**63, 2**64, 10**30,
)  # fmt: skip
FLOATS = (0.0, -0.0, 1e-45, 1.0, -1.0, 3.4e38, 1e308, -1e308, "Infinity", "-Infinity", "NaN")
WORDS = (
    "", "x", "../../etc/passwd", "\u202e\u0000", "é" * 300, "__class__", "self", "torch", "sum", "mean", "ij,jk->ik",
    "a" * 10_000, "%s%n", "bilinear",
)  # fmt: skip
EXPRESSIONS = (
    "Pow(Integer(10), Pow(Integer(10), Integer(10)))",
    "Add(" * 5_000 + "Integer(1)" + ")" * 5_000,
    "Mul(" + ", ".join(f"Symbol('s{i}')" for i in range(800)) + ")",
    "Symbol('s0', positive=True, integer=True)",
    "PowByNatural(Integer(2), Integer(" + "9" * 40 + "))",
    "__import__('os').system('true')",
    "Integer(" + "9" * 5_000 + ")",
    "oo", "Symbol('')", "s0 + 1", "FloorDiv(Symbol('s31'), Integer(0))", "(" * 20_000,
)  # fmt: skip
TARGETS = (
    "torch.ops.higher_order.cond", "torch.ops.aten.from_file.default", "torch.ops.aten.empty.memory_format",
    "torch.ops.prim.device.default", "builtins.eval", "os.system", "_operator.pow", "_operator.getitem", "math.trunc",
    "torch.ops.aten.as_strided.default", "torch.ops.aten.set_.source_Storage", "torch.ops.aten.resize_.default",
    "torch.ops.aten.add_.Tensor", "torch.ops.aten.zero_.default", "torch.ops.aten.__class__.default",
)  # fmt: skip
_OF_ONE = (
    "abs", "sin", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erfinv", "lgamma", "digamma", "sigmoid", "relu", "sign",
    "isnan", "logical_not", "argmax", "fft_fft", "real", "clone", "detach", "cumsum", "trace", "t", "flatten",
)  # fmt: skip
NAMES = (
    "../../../tmp/climbed", "/etc/passwd", "..\\..\\x", "a/../b", "model/./x", "CON", "\u202egnp.x", "x" * 600,
    "data/weights/weight_99", "data/constants/custom_obj_0", "data/aotinductor/model/x.so", "code/__init__.py",
    "data.pkl", "extra/é", "extra/" + "e" * 400, "models/other.json",
)  # fmt: skip

Draw = random.Random


def mutant(seed: int, bases: list[Members]) -> bytes:
    """One of `bases` with one to three changes."""
    draw = random.Random(seed)
    members = dict(draw.choice(bases))
    for _ in range(draw.choice((1, 1, 2, 3))):
        change = draw.choice(_CHANGES)
        change(draw, members)
    content = _zipped(draw, members)
    return draw.choice(_OF_BYTES)(draw, content) if draw.random() < 0.2 else content


def _edited(member: str, draw: Draw, members: Members, change: Callable[[Draw, Any], None]) -> None:
    try:
        document = json.loads(members[member])
        change(draw, document)
        members[member] = json.dumps(document).encode()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return  # an earlier change took what this one needs


def _any_field(draw: Draw, members: Members) -> None:
    """Any value anywhere becomes another one, goes, or is there twice."""
    _edited(draw.choice((GRAPH, GRAPH, WEIGHTS, CONSTANTS)), draw, members, _replace_somewhere)


def _replace_somewhere(draw: Draw, document: Any) -> None:
    for _ in range(40):
        inner = document
        while isinstance(inner, dict | list) and inner:
            key = (
                draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
            )
            holder, inner = inner, inner[key]
            if key == "metadata":
                break
            if not isinstance(inner, dict | list) or draw.random() < 0.08:
                _change_at(draw, holder, key)
                return


def _change_at(draw: Draw, holder: Any, key: Any) -> None:
    way = draw.random()
    if way < 0.15:
        del holder[key]
    elif way < 0.25 and isinstance(holder, list):
        holder.insert(key, holder[draw.randrange(len(holder))])
    elif isinstance(holder[key], bool):
        holder[key] = not holder[key]
    else:
        holder[key] = _value(draw, holder[key])


def _value(draw: Draw, old: Any) -> Any:
    if draw.random() < 0.7:  # of its own kind: what gets furthest
        if isinstance(old, int):
            return draw.choice((*NUMBERS, old + 1, old - 1, -old))
        if isinstance(old, float):
            return draw.choice(FLOATS)
        if isinstance(old, str):
            return draw.choice((*WORDS, *EXPRESSIONS, *TARGETS))
    nested: Any = 0
    for _ in range(draw.choice((1, 3, 5_000))):
        nested = [nested]
    return draw.choice((None, True, *NUMBERS, *FLOATS, *WORDS, [], {}, {"as_int": 2**62}, nested))


def _expression(draw: Draw, members: Members) -> None:
    def change(draw: Draw, document: Any) -> None:
        found = [each for each in _inside(document) if "expr_str" in each]
        draw.choice(found)["expr_str"] = draw.choice(EXPRESSIONS)

    _edited(GRAPH, draw, members, change)


def _inside(document: Any) -> list[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(document, list):
        return [found for each in document for found in _inside(each)]
    if isinstance(document, dict):
        return [document, *(found for each in document.values() for found in _inside(each))]
    return []


def _target(draw: Draw, members: Members) -> None:
    def change(draw: Draw, document: Any) -> None:
        draw.choice(document["graph_module"]["graph"]["nodes"])["target"] = draw.choice(TARGETS)

    _edited(GRAPH, draw, members, change)


def _operator(draw: Draw, members: Members) -> None:
    """A node becomes an allowed operator with arguments of the right kinds and any value: what reaches the kernels."""
    _edited(GRAPH, draw, members, _other_operator)


def _other_operator(draw: Draw, document: Any) -> None:
    graph = document["graph_module"]["graph"]
    node = draw.choice(graph["nodes"])
    packet = getattr(torch.ops.aten, draw.choice(sorted(ALLOWED)))
    pure = [each for each in packet.overloads() if not getattr(packet, each)._schema.is_mutable]
    op = getattr(packet, draw.choice(pure or packet.overloads()))
    tensors = [each["as_tensor"]["name"] for each in graph["inputs"]]
    tensors += [
        each["arg"]["as_tensor"]["name"] for each in node["inputs"] if "as_tensor" in each["arg"]
    ] * 4
    node["target"] = f"torch.ops.aten.{packet.__name__}.{op._overloadname}"
    node["inputs"] = [
        {
            "name": each.name,
            "arg": _argument(draw, str(each.type), tensors),
            "kind": 1 + each.kwarg_only,
        }
        for each in op._schema.arguments
        if not each.has_default_value() or draw.random() < 0.3
    ]


def _rename(draw: Draw, members: Members) -> None:
    """A node becomes another function of one tensor: mostly a model, too."""

    def change(draw: Draw, document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        one = [each for each in nodes if len(each["inputs"]) == 1]
        draw.choice(one)["target"] = f"torch.ops.aten.{draw.choice(_OF_ONE)}.default"

    _edited(GRAPH, draw, members, change)


def _argument(draw: Draw, kind: str, tensors: list[str]) -> dict[str, Any]:
    if kind.startswith("Optional[") and draw.random() < 0.3:
        return {"as_none": True}
    kind = kind.removeprefix("Optional[").rstrip("]")
    small = (*range(-2, 6), *range(-2, 6))
    tensor = {"name": draw.choice(tensors)}
    some = range(draw.randrange(4))
    match kind:
        case "Tensor":
            return {"as_tensor": tensor}
        case "List[Tensor":
            return {"as_tensors": [{"name": draw.choice(tensors)} for _ in some]}
        case "List[int":
            return {"as_ints": [draw.choice((*small, *NUMBERS[:17])) for _ in some]}
        case "List[float":
            return {"as_floats": [draw.choice(FLOATS) for _ in some]}
        case "bool":
            return {"as_bool": draw.random() < 0.5}
        case "float":
            return {"as_float": draw.choice(FLOATS)}
        case "str":
            return {"as_string": draw.choice(WORDS)}
        case "number":
            return draw.choice(({"as_int": draw.choice(small)}, {"as_float": draw.choice(FLOATS)}))
        case _:
            return {"as_int": draw.choice((*small, *NUMBERS[:17]))}


def _weights(draw: Draw, members: Members) -> None:
    """Sizes, strides, offsets and dtypes that their bytes don't bear out."""

    def change(draw: Draw, document: Any) -> None:
        payload = draw.choice(list(document["config"].values()))
        meta = payload["tensor_meta"]
        field = draw.choice(
            ("sizes", "strides", "storage_offset", "dtype", "layout", "path_name", "pickle")
        )
        if field in ("sizes", "strides"):
            draw.choice(meta[field])["as_int"] = draw.choice(NUMBERS)
        elif field == "storage_offset":
            meta[field]["as_int"] = draw.choice(NUMBERS)
        elif field == "path_name":
            payload[field] = draw.choice(("weight_0", "weight_1", "opaque_obj_0", *NAMES))
        elif field == "pickle":
            payload["use_pickle"] = True
        else:
            meta[field] = draw.randrange(-2, 40)

    _edited(WEIGHTS, draw, members, change)


def _member(draw: Draw, members: Members) -> None:
    """A member goes, comes, is renamed, or holds something else."""
    name = draw.choice(list(members))
    match draw.randrange(5):
        case 0:
            del members[name]
        case 1:
            members[draw.choice(NAMES)] = draw.choice(list(members.values()))
        case 2:
            members[draw.choice(NAMES)] = members.pop(name)
        case 3:
            members[name] = draw.choice(
                (b"", b"[" * 200_000, b"\x80\x04.", b"NaN", b'{"a":' * 50_000, b"\xff\xfe")
            )
        case _:
            content = members[name]
            members[name] = content[: draw.randrange(len(content) + 1)] + draw.randbytes(
                draw.randrange(9)
            )


_CHANGES = (
    _any_field,
    _any_field,
    _operator,
    _operator,
    _rename,
    _operator,
    _expression,
    _target,
    _weights,
    _weights,
    _member,
)


def _zipped(draw: Draw, members: Members) -> bytes:
    buffer = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if draw.random() < 0.04 else zipfile.ZIP_STORED
    odd = draw.choice(list(members)) if draw.random() < 0.08 and members else None
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(f"model/{name}")
            info.compress_type = packed
            if name == odd:
                way = draw.randrange(3)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16 if way == 0 else 0
                info.flag_bits |= 1 if way == 1 else 0
                if way == 2:
                    archive.NameToInfo.pop(info.filename, None)
                    archive.writestr(info, b"first")
                    archive.NameToInfo.pop(info.filename, None)
            archive.writestr(info, content)
    return buffer.getvalue()


def _flip(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 5)):
        # Half of them in the directory at the end, where the offsets and sizes are.
        first = max(0, len(changed) - 1500) if draw.random() < 0.5 else 0
        changed[draw.randrange(first, len(changed))] = draw.randrange(256)
    return bytes(changed)


def _directory(draw: Draw, content: bytes) -> bytes:
    """An offset, size or count of the directory is another."""
    changed = bytearray(content)
    entries = [i for i in range(len(changed) - 46) if changed[i : i + 4] == b"PK\x01\x02"]
    place, length = draw.choice([(10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)])
    at = (
        draw.choice(entries) + place
        if entries and draw.random() < 0.7
        else len(changed) - 22 + draw.choice((8, 10, 12, 16))
    )
    value = draw.choice(
        (0, 1, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, len(content), draw.randrange(1 << 16))
    )
    changed[at : at + length] = struct.pack("<Q", value)[:length]
    return bytes(changed)


_OF_BYTES = (_flip, _directory, lambda draw, content: content[: draw.randrange(len(content))])
