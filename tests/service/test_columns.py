"""Which column goes to which input, by records alone; what comes of it in numbers is in tests/journeys."""

from __future__ import annotations

from typing import Any

import pytest

from service.jobs.validation.columns import match_columns
from service.jobs.validation.inputs import Chosen
from service.lifecycle.states import now
from upweight.errors import InvalidRequest
from upweight.schema import ColumnMatch, DatasetRecord, ModelRecord, parse_rows

DIGEST = "sha256:" + "0" * 64
ROW: dict[str, Any] = {"dtype": "float32", "shape": [None, 3]}


def model(*inputs: str, loss: str = "cross_entropy") -> ModelRecord:
    return ModelRecord(
        id="mdl_1", name="net", version=1, state="ready", created_at=now(), loss=loss,
        program={"format": "pt2", "blob": DIGEST}, parameters=["*"], digest=DIGEST, size_bytes=1,
        inputs=[{"name": name, **ROW} for name in inputs],
    )  # fmt: skip


def data(*inputs: str, targets: tuple[str, ...] = ("y",), **more: Any) -> Chosen:
    name = more.pop("name", "rows")
    record = DatasetRecord(
        id=f"dst_{name}", name=name, version=1, state="ready", created_at=now(), format="npz",
        inputs=list(inputs), targets=list(targets), digest=DIGEST, size_bytes=1, rows=4,
        columns=[{"name": each, "dtype": "float32", "shape": [3]} for each in (*inputs, *targets)],
        **more,
    )  # fmt: skip
    return Chosen(f"/{name}", record, parse_rows(None, 4))


def only(takes: ModelRecord, given: Chosen, **columns: str) -> ColumnMatch:
    (match,) = match_columns(takes, [given], columns)
    return match


def refused(takes: ModelRecord, *given: Chosen, **columns: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        match_columns(takes, given, columns)
    assert caught.value.errors[0].pointer.startswith(("/columns", given[-1].pointer))
    return caught.value.detail


@pytest.mark.parametrize("inputs", [("a", "b", "c"), ("c", "a", "b"), ("b", "a", "c")])
def test_the_same_names_in_any_order_go_to_their_inputs(inputs: tuple[str, ...]) -> None:
    match = only(model("a", "b", "c"), data(*inputs))
    assert (match.inputs, match.how) == (["a", "b", "c"], "by name")


@pytest.mark.parametrize(
    "inputs", [("a", "b", "d"), ("b", "a", "d"), ("A", "b", "c"), ("e", "f", "g")]
)
def test_other_names_are_refused_though_their_number_fits(inputs: tuple[str, ...]) -> None:
    words = refused(model("a", "b", "c"), data(*inputs))
    assert "'a', 'b', 'c'" in words
    assert ", ".join(map(repr, inputs)) in words


@pytest.mark.parametrize("names", [("xs_0", "xs_1"), ("args_0", "args_1")])
def test_inputs_that_torch_has_numbered_are_places(names: tuple[str, ...]) -> None:
    match = only(model(*names), data("q", "a"))
    assert (match.inputs, match.how) == (["q", "a"], "by place: the model's inputs have no names")
    assert only(model(*names), data(*reversed(names))).inputs == list(names)
    assert only(model(*names), data("q", "a"), **{names[0]: "a", names[1]: "q"}).inputs == [
        "a",
        "q",
    ]


def test_columns_that_numpy_has_numbered_are_places() -> None:
    match = only(model("q", "a"), data("arr_0", "arr_1", targets=("arr_2",)))
    assert match.inputs == ["arr_0", "arr_1"]
    assert match.how == "by place: the dataset's columns have no names"
    assert "'arr_1', 'arr_0'" in refused(model("q", "a"), data("arr_1", "arr_0"))


def test_where_the_model_tells_no_names_the_datasets_agree_with_the_first() -> None:
    train, test = data("q", "a", name="train"), data("a", "q", name="test")
    matches = match_columns(model(), [train, test], {})
    assert [match.inputs for match in matches] == [["q", "a"], ["q", "a"]]
    assert matches[1].how.endswith("in the order of 'train' by name")
    assert "'a', 'b', those of 'train' 'q', 'a'" in refused(
        model(), train, data("a", "b", name="test")
    )
    alone = match_columns(model(), [data("x", name="train"), data("pixels", name="test")], {})
    assert [match.inputs for match in alone] == [["x"], ["pixels"]]


@pytest.mark.parametrize(
    ("takes", "given", "inputs", "targets", "how"),
    [
        ("x y", data("x"), "x", "y", "by name"),
        ("y x", data("x"), "y x", "", "by name"),
        ("x w y", data("x", targets=("y", "w")), "x", "w y", "by name"),
        ("x y", data("pixels"), "pixels", "y", "by place: the one input 'x' takes 'pixels'; by name"),
        ("a b y", data("b", "a", targets=("t",)), "a b", "t", "by name; by place: the one target 'y' takes 't'"),
    ],
)  # fmt: skip
def test_a_program_takes_targets_by_name_or_the_one_there_is(
    takes: str, given: Chosen, inputs: str, targets: str, how: str
) -> None:
    match = only(model(*takes.split(), loss="program"), given)
    assert (match.inputs, match.targets, match.how) == (inputs.split(), targets.split(), how)


@pytest.mark.parametrize(
    ("takes", "given"),
    [
        (
            "y x",
            data("x", targets=("label",)),
        ),  # x stands where the target should
        ("label features", data("x", targets=("label",))),
        ("x y w", data("x", targets=("label", "weight"))),
        ("a b y", data("a", "c")),
    ],
)
def test_a_programs_columns_that_could_be_swapped_are_refused(takes: str, given: Chosen) -> None:
    assert "matched by name" in refused(model(*takes.split(), loss="program"), given)


def test_inputs_of_a_factory_are_the_first_arguments_of_its_forward() -> None:
    takes = model().model_copy(update={"arguments": ["query", "key", "mask"]})
    assert only(takes, data("key", "query")).inputs == ["query", "key"]
    assert only(takes, data("pixels")).inputs == ["pixels"]
    assert "'query', 'key', the columns of dataset 'rows' 'q', 'k'" in refused(
        takes, data("q", "k")
    )
    assert only(takes, data("q", "key"), query="q").inputs == ["q", "key"]
    nameless = only(takes, data("a", "b", "c", "d"))
    assert nameless.how == "by place: the model's inputs have no names"


def test_a_column_goes_to_one_input_only() -> None:
    assert "one input only" in refused(model("a", "b"), data("a", "c"), a="c", b="c")


@pytest.mark.parametrize("named", ["features", "preview"])
def test_features_are_taken_in_the_order_of_the_first_that_names_them(named: str) -> None:
    def table(name: str, *features: str) -> Chosen:
        said: Any = {"features": {"x": features}}
        if named == "preview":  # as datasets have them that were registered before
            said = {"preview": {"kind": "table", "column": "x", "names": features}}
        return data("x", name=name, **said)

    plain = data("x", name="plain")
    test = table("test", "c", "a", "b")
    matches = match_columns(model("x"), [plain, table("train", "a", "b", "c"), test], {})
    assert [match.features for match in matches] == [{}, {}, {"x": ["a", "b", "c"]}]
    words = refused(model("x"), table("train", "a", "b", "c"), table("test", "a", "b", "d"))
    assert "only 'test' has 'd' and only 'train' has 'c'" in words


def test_thousands_of_features_are_told_in_a_few() -> None:
    many = [f"gene {at}" for at in range(5000)]
    train = data("x", name="train", features={"x": many})
    test = data("x", name="test", features={"x": [*many[:-1], "other"]})
    words = refused(model("x"), train, test)
    assert "and 4980 more" in words
    assert "only 'test' has 'other' and only 'train' has 'gene 4999'" in words
    assert len(words) < 2000


def test_classes_may_be_fewer_but_not_others() -> None:
    train = data("x", name="train", class_names=["a", "b", "c"])
    match_columns(model("x"), [train, data("x", name="test", class_names=["a", "b"])], {})
    match_columns(model("x"), [train, data("x", name="test")], {})
    words = refused(model("x"), train, data("x", name="test", class_names=["b", "c"]))
    assert "'b', 'c', those of 'train' 'a', 'b', 'c'" in words


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        ("Price Volume", "columns={'volume': 'Volume', 'price': 'Price'}"),
        ("prices vol", "columns={'volume': 'vol', 'price': 'prices'}"),
        ("price vol", "columns={'volume': 'vol'}"),
        ("x0 x1", "columns={'volume': …}"),
    ],
)
def test_an_error_pairs_inputs_with_columns_that_are_spelt_alike_and_never_by_place(
    columns: str, advice: str
) -> None:
    assert refused(model("volume", "price"), data(*columns.split())).endswith(advice)
