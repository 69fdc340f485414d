"""Whatever the bytes, reading gives a program or a ProgramError, and runs nothing."""

import contextlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs.tampering import CONSTANTS, GRAPH, WEIGHTS, members_of, write
from workers.programs.errors import ProgramError
from workers.programs.expressions import parse_expression
from workers.programs.operators import ALLOWED, resolve
from workers.programs.pt2 import read_pt2

pytestmark = pytest.mark.filterwarnings("ignore")
quick = settings(
    max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

integers = st.one_of(
    st.integers(-2, 8), st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**30])
)
targets = st.one_of(
    st.sampled_from(sorted(ALLOWED)).map(lambda name: f"torch.ops.aten.{name}.default"),
    st.sampled_from(sorted(ALLOWED)).map(lambda name: f"torch.ops.aten.{name}.Tensor"),
    st.sampled_from(
        ["_operator.add", "torch.sym_max", "torch.ops.higher_order.wrap_with_autocast"]
    ),
    st.text(max_size=30),
)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), integers, st.floats(allow_nan=False), st.text(max_size=8), targets
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["as_int", "as_tensor", "as_name", "name", "as_expr", "as_none", "x"]),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=5,
)


def attempt(path: Path) -> None:
    """Reads; any error but ours fails the test."""
    with suppress(ProgramError):
        read_pt2(path)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The document with another value in one place."""
    if not place:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[place[0]] = replaced(copy[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize("member", [GRAPH, WEIGHTS, CONSTANTS])
@quick
@given(data=st.data())
def test_any_field_may_hold_anything(
    member: str, data: st.DataObject, archive_of: Any, tmp_path_factory: Any
) -> None:
    members = members_of(archive_of("attention"))
    document = json.loads(members[member])
    kept = [place for place in places(document) if "metadata" not in place]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(kept))
        value = data.draw(values)
        try:
            document = replaced(document, place, value)
        except (KeyError, IndexError, TypeError):
            continue  # the first change removed the place of the second
    content = json.dumps(document).encode()
    attempt(write(tmp_path_factory.mktemp("f") / "m.pt2", {**members, member: content}))


@quick
@given(data=st.data())
def test_any_byte_may_be_any_byte(data: st.DataObject, mlp: Path, tmp_path_factory: Any) -> None:
    content = bytearray(mlp.read_bytes())
    end = data.draw(st.sampled_from([len(content), 200]))
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the changes go to the directory at the end, where all the offsets are.
        position = data.draw(st.integers(1, end)) - 1
        at = position if data.draw(st.booleans()) else len(content) - 1 - position % 1500
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("f") / "m.pt2"
    path.write_bytes(content)
    attempt(path)


@quick
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80"]))
def test_any_file_is_answered(content: bytes, start: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("f") / "m.pt2"
    path.write_bytes(start + content)
    attempt(path)


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.text(alphabet="()',=Symbolinteg0123456789 AddMulTrue", max_size=60),
    )
)
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(ProgramError):
        parse_expression(text)


@settings(max_examples=300, deadline=None)
@given(target=targets)
def test_any_target_is_pure_or_refused(target: str) -> None:
    try:
        op = resolve(target)
    except ProgramError:
        return
    assert op.namespace == "aten"
    assert not op._schema.is_mutable
