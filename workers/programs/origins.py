"""Which module of the user's model a node came from: names alone, by which an inner output can be perturbed."""

import re
from collections.abc import Mapping

from torch import fx

STACK = "nn_module_stack"  # of fx's metadata: key -> (path of the module, its type)
_PATH = re.compile(r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")
_LONGEST = 20_000


def note_origin(graph: fx.Graph, before: fx.Node | None, metadata: Mapping[str, str]) -> None:
    """Marks the nodes after `before` that have no mark yet."""
    paths = _paths(metadata.get(STACK, ""))
    for node in reversed(graph.nodes):
        if node is before:
            return
        node.meta.setdefault(STACK, {path: (path, "") for path in paths})


def module_of(metadata: Mapping[str, str]) -> str:
    """The innermost module that a node came from, in words: its path and type, or the model itself."""
    text = metadata.get(STACK, "")
    entries = [each.split(",") for each in text.split(";")] if len(text) <= _LONGEST else []
    inner = next(
        (each for each in reversed(entries) if len(each) > 2 and _PATH.fullmatch(each[1])), None
    )
    if inner is None:
        return "the model's own forward"
    kind = inner[2].rpartition(".")[2]
    return f"module {inner[1]!r}" + (f" ({kind})" if _PATH.fullmatch(kind) else "")


def last_node(graph: fx.Graph) -> fx.Node | None:
    """The node that the next one will follow."""
    return next(iter(reversed(graph.nodes)), None)


def _paths(text: str) -> list[str]:
    """Of `key,path,type;key,path,type`, outermost first. What is no plain path is passed over: it is only a name."""
    if len(text) > _LONGEST:
        return []
    entries = [entry.split(",") for entry in text.split(";")]
    return [entry[1] for entry in entries if len(entry) > 1 and _PATH.fullmatch(entry[1])]
