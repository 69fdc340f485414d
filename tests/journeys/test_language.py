"""A language model through the whole service: scores by layer and token, spans, against autograd in float64."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engine import decoder
from tests.journeys.subjects import Subject
from upweight import AsyncClient, Client, errors
from upweight.cli.command import command
from upweight.cli.exits import run
from upweight.results import InfluenceResult

ROWS, TEST, DAMPING = 9, 3, 0.2
LAYERS = ["embedding", "mixed", "inner", "norm", "head"]
NAME = "tiny-decoder"
pytestmark = pytest.mark.filterwarnings("ignore")
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def texts() -> tuple[Tensor, Tensor]:
    return decoder.texts(ROWS)


@pytest.fixture(scope="module")
def registered(online: Client, texts: tuple[Tensor, Tensor]) -> str:
    tokens, targets = texts
    online.models.register(
        NAME,
        decoder.decoder(),
        example=tokens[:2],
        loss={"name": "cross_entropy", "class_axis": -1},
    )
    online.datasets.register(
        NAME, x=tokens, y=targets, metadata={"prompt": [1] * ROWS, "stop": [2] * ROWS, "word": ["a"] * ROWS}
    )  # fmt: skip
    return NAME


def computed(online: Client, **options: Any) -> InfluenceResult:
    given = {"hessian_regularization": DAMPING, "curvature": "empirical_fisher", **options}
    return online.compute_influences(NAME, NAME, NAME, test_rows=f"0:{TEST}", **given)


def exact_factors(
    texts: tuple[Tensor, Tensor], right: Tensor | None = None, train: Tensor | None = None
) -> Tensor:
    """(C + λI)⁻¹ of the first test rows' gradients, or of others; C of all rows' gradients, or of `train`."""
    gradients = decoder.position_gradients(decoder.decoder(), *texts).sum(1)
    size, train = gradients.shape[1], gradients if train is None else train
    c = train.T @ train / ROWS + DAMPING * torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(c, (gradients[:TEST] if right is None else right).T).T


METHODS: list[dict[str, Any]] = [
    {},
    {"inversion_method": "cg", "rtol": 1e-13},
    {"curvature": {"kind": "empirical_fisher", "structure": "ekfac"}},
    {"inversion_method": "arnoldi", "rank_estimate": 8, "curvature": "gauss_newton"},
]


@pytest.mark.parametrize("by", ["layer", "token"])
@pytest.mark.parametrize("method", METHODS, ids=["direct", "cg", "ekfac", "arnoldi"])
def test_parts_add_up_to_the_rows_influences(
    online: Client, registered: str, by: Any, method: dict[str, Any]
) -> None:
    plain = computed(online, **method).numpy()
    result = computed(online, scores_by=by, **method)
    parts = getattr(result, f"by_{by}").numpy()
    assert parts.shape == (TEST, ROWS, 5)
    np.testing.assert_allclose(parts.sum(2), result.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.numpy(), plain, rtol=1e-6, atol=1e-9)


def test_parts_are_those_of_autograd(
    online: Client, registered: str, texts: tuple[Tensor, Tensor]
) -> None:
    factors = exact_factors(texts)
    positions = decoder.position_gradients(decoder.decoder(), *texts)
    tokens = computed(online, scores_by="token")
    expected = torch.einsum("mp,btp->mbt", factors, positions).numpy()
    np.testing.assert_allclose(tokens.by_token.numpy(), expected, rtol=1e-8, atol=1e-11)
    layers = computed(online, scores_by="layer", hessian_regularization=[DAMPING, 2 * DAMPING])
    assert layers.layer_names == LAYERS
    modules = decoder.decoder().children()
    sizes = [sum(p.numel() for p in part.parameters()) for part in modules]
    pieces = zip(factors.split(sizes, 1), positions.sum(1).split(sizes, 1), strict=True)
    expected = torch.stack([left @ right.T for left, right in pieces], 2).numpy()
    assert layers.by_layer.shape == (2, TEST, ROWS, len(LAYERS))
    np.testing.assert_allclose(layers.by_layer[0], expected, rtol=1e-8, atol=1e-11)
    one = layers.at(damping=DAMPING).by_layer[1:, [0, 4]]
    np.testing.assert_allclose(one, expected[1:, [0, 4]], rtol=1e-8, atol=1e-11)


def test_token_scores_have_the_weights_of_rows(
    online: Client, registered: str, texts: tuple[Tensor, Tensor]
) -> None:
    tokens, targets = texts
    weights = torch.linspace(0.0, 2.0, ROWS).double()
    loss = {"name": "cross_entropy", "class_axis": -1, "row_weights": "w"}
    weighted = f"{NAME}-weighted"
    online.models.register(weighted, decoder.decoder(), example=tokens[:2], loss=loss)
    online.datasets.register(weighted, x=tokens, w=weights, y=targets, targets=["w", "y"])
    found = online.compute_influences(
        weighted, weighted, registered, test_rows=f"0:{TEST}", scores_by="token",
        hessian_regularization=DAMPING, curvature="empirical_fisher",
    )  # fmt: skip
    positions = decoder.position_gradients(decoder.decoder(), *texts)
    scaled = weights[:, None, None] * positions
    factors = exact_factors(texts, positions.sum(1)[:TEST], scaled.sum(1))
    expected = torch.einsum("mp,btp->mbt", factors, scaled).numpy()
    np.testing.assert_allclose(found.by_token.numpy(), expected, rtol=1e-8, atol=1e-11)


def test_parts_are_the_same_in_blocks_of_many_workers(online: Client, registered: str) -> None:
    whole = computed(online, scores_by="token")
    blocks = {"spread": True, "test_rows": 2, "train_rows": 4}
    spread = computed(online, scores_by="token", blocks=blocks, keep={"matrix": False, "top": 2})
    np.testing.assert_allclose(spread.by_token[:], whole.by_token[:], rtol=1e-9, atol=1e-12)


def test_parts_are_read_by_http_the_command_and_as_tables(
    online: Client,
    http: httpx2.Client,
    registered: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = computed(online, scores_by="layer")
    parts = result.by_layer.numpy()
    path = f"/v1/jobs/{result.id}/influences"
    answer = http.get(path, params={"by": "layer", "test": "1", "train": "2:4"}).json()
    assert (answer["shape"], answer["layers"]) == ([1, 2, 5], LAYERS)
    np.testing.assert_allclose(answer["values"], parts[1:2, 2:4])
    refused = http.get(path, params={"by": "token"})
    assert refused.status_code == 404
    assert "'scores_by': 'token'" in refused.json()["detail"]
    with pytest.raises(errors.NotStored, match="scores_by='token'"):
        result.by_token  # noqa: B018
    frame = result.to_pandas("by_layer")
    assert (frame.columns.tolist(), frame.shape) == (LAYERS, (TEST * ROWS, 5))
    result.save(tmp_path / "all.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "all.npz")["by_layer"], parts)
    monkeypatch.setenv("UPWEIGHT_URL", str(http.base_url))
    capsys.readouterr()
    assert not run(
        command, ("results", "slice", result.id, "--test", "1", "--by", "layer", "--json")
    )
    assert json.loads(capsys.readouterr().out)["shape"] == [1, ROWS, 5]

    async def awaited() -> Array:
        async with AsyncClient(str(http.base_url)) as client:
            found = await client.jobs.result(result.id)
            return await found.by_layer[1]

    np.testing.assert_array_equal(asyncio.run(awaited()), parts[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"influence_type": "perturbation"}, "belongs to influence_type 'up'"),
        ({"aggregate": {"test": "mean"}}, "leave 'aggregate' and 'groups' out"),
        ({"precision": "bf16"}, "in full precision"),
        ({"keep": {"matrix": False, "factors": True}}, "keeps the factors alone"),
    ],
)
def test_parts_of_what_has_none_are_refused(
    online: Client, registered: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        computed(online, scores_by="token", **options)


def test_tokens_of_rows_with_one_label_are_refused(online: Client, iris: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="no label for each of several positions"):
        online.compute_influences(iris.name, iris.train, iris.test, scores_by="token")


def span_gradients(texts: tuple[Tensor, Tensor], start: int, end: int) -> Tensor:
    """Of the log-probability of labels start to end of the first rows, by autograd."""
    module, found = decoder.decoder(), []
    for x, y in zip(*(each[:TEST] for each in texts), strict=True):
        scores = module(x[None])[0, start:end]
        value = -F.cross_entropy(scores, y[start:end], reduction="sum")
        gradients = torch.autograd.grad(value, list(module.parameters()))
        found.append(torch.cat([each.flatten() for each in gradients]))
    return torch.stack(found)


def test_a_span_is_explained_by_its_log_probability(
    online: Client, registered: str, texts: tuple[Tensor, Tensor]
) -> None:
    """With bounds that are numbers, or metadata of each row; and contrasted with another one."""
    gradients = decoder.position_gradients(decoder.decoder(), *texts).sum(1)
    answer, other = span_gradients(texts, 1, 2), span_gradients(texts, 0, 1)
    expected = (exact_factors(texts, answer) @ gradients.T).numpy()
    for start, end in ((1, 2), ("prompt", "stop")):
        found = computed(online, measurement={"name": "span", "start": start, "end": end})
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-11)
    contrast = {"name": "span", "start": 1, "end": 2, "minus": {"start": 0, "end": "prompt"}}
    found = computed(online, measurement=contrast)
    expected = (exact_factors(texts, answer - other) @ gradients.T).numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-11)
    # What raises the log-probability helps.
    assert found.top(0, 1).items[0].row == int(np.argmin(expected[0]))


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ({"start": 1, "end": 6}, "1:6 is outside the rows"),
        ({"start": 2, "end": 2}, "positions 2 to 2 are none"),
        ({"start": "word", "end": 3}, "no metadata column .* with whole numbers; there are 'prompt', 'stop'"),
        ({"start": 1, "end": 4}, "position 2 of row 0 has no label"),
        ({"start": "stop", "end": "prompt"}, "row 0 has the positions 0 to 4"),
    ],
)  # fmt: skip
def test_a_span_outside_the_row_is_refused(
    online: Client, registered: str, span: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        computed(online, measurement={"name": "span", **span})


WORDS = ["<pad>", "the", "<b>cat</b>", "sat", "on", "a", "mat"]


def tokenizer(words: list[str]) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    found = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[1]))
    found.enable_padding(pad_id=0, pad_token=words[0])
    return found


def test_a_tokenizer_shows_rows_as_words(
    online: Client, fresh_name: str, texts: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """Of a live tokenizer, of its file, and of a derived dataset."""
    made = tokenizer(WORDS)
    made.save(str(tmp_path / "tokenizer.json"))
    for given in (made, tmp_path):
        record = online.datasets.register(fresh_name, x=texts[0], y=texts[1], tokenizer=given)
        assert (record.tokenizer_size, record.preview.kind) == (7, "text")
        assert json.loads(online.blobs.get(record.preview.vocabulary)) == ["", *WORDS[1:]]
    derived = online.datasets.derive(f"{fresh_name}-less", record, drop=[0])
    assert (derived.tokenizer, derived.preview) == (record.tokenizer, record.preview)


def test_a_ranking_a_notebook_and_a_suspect_show_words(
    online: Client, registered: str, fresh_name: str, texts: tuple[Tensor, Tensor], http: httpx2.Client,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokens, targets = texts
    online.datasets.register(fresh_name, x=tokens, y=targets, tokenizer=tokenizer(WORDS))
    result = online.compute_influences(
        registered, fresh_name, fresh_name, curvature="empirical_fisher", test_rows="0:2",
        hessian_regularization=DAMPING,
    )  # fmt: skip
    shown = ["", *WORDS[1:]]
    lines = [" ".join(shown[token] for token in row if shown[token]) for row in tokens.tolist()]
    ranking = result.top(0, 2, words=True)
    assert [item.text for item in ranking] == [lines[item.row] for item in ranking]
    assert ranking.items[0].text in ranking._repr_html_().replace("&lt;", "<").replace("&gt;", ">")
    assert result.top(0, 2).items[0].text is None
    assert lines[ranking.items[0].row].replace("<", "&lt;").replace(">", "&gt;") in result._repr_html_()  # fmt: skip
    tasks = result.export("label-studio", k=1)
    assert tasks[0]["data"]["text"] == lines[tasks[0]["data"]["row"]]
    monkeypatch.setenv("UPWEIGHT_URL", str(http.base_url))
    capsys.readouterr()
    assert not run(command, ("results", "top", result.id, "--test", "0", "-k", "2", "--words"))
    assert lines[ranking.items[0].row] in capsys.readouterr().out
    plain = computed(online)
    with pytest.raises(errors.NotStored, match="have no text; register the dataset with its 'tok"):
        plain.top(0, 2, words=True)


def test_a_preview_that_gives_no_words_is_refused(
    online: Client, iris: Subject, fresh_name: str
) -> None:
    data = online.datasets.register(fresh_name, x=iris.x_train[:4], y=iris.y_train[:4])
    result = online.compute_influences(
        iris.name, data, data, curvature="gauss_newton", test_rows="0:1",
        hessian_regularization=iris.damping,
    )  # fmt: skip
    for given in (
        b'{"a": 0}',
        b'["a", 1]',
        b"[" * 100_000,
        b'["a", ["b"]]',
        b'["\\x"]',
        b'["\xff"]',
    ):
        preview = {"kind": "text", "column": "y", "vocabulary": online.blobs.put(given).digest}
        with pytest.raises(errors.InvalidRequest, match="the blob is no list of words") as told:
            online.datasets.change(data, preview=preview)
        assert told.value.errors[0].pointer == "/preview/vocabulary"
    words = b' [ "kein", "K\\u00e4se", "", "\\"" ] '
    preview = {"kind": "text", "column": "y", "vocabulary": online.blobs.put(words).digest}
    online.datasets.change(data, preview=preview)
    shown = {each.text for each in result.top(0, 4, words=True).items}
    assert shown <= {"kein", "Käse", ""}
    absent = {"kind": "text", "column": "y", "vocabulary": f"sha256:{'7' * 64}"}
    with pytest.raises(errors.InvalidRequest, match="upload a JSON list of words first"):
        online.datasets.change(data, preview=absent)
    with pytest.raises(errors.InvalidRequest, match=r"'x' is float\d+, and the tokens of a text"):
        online.datasets.change(data, preview={"kind": "text", "column": "x"})


def test_bm25_stands_beside_a_ranking_and_a_selection_for_tasks(
    online: Client, registered: str, texts: tuple[Tensor, Tensor], fresh_name: str,
    http: httpx2.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bm25s = pytest.importorskip("bm25s")
    rows = [list(map(str, row)) for row in texts[0].tolist()]
    tasks = ["b", "a", "b"] * (ROWS // 3)
    names = [f"r{row}" for row in range(ROWS)]
    online.datasets.register(
        fresh_name, x=texts[0], y=texts[1], ids=names, metadata={"task": tasks}
    )
    index = bm25s.BM25()
    index.index(rows[2:], show_progress=False)
    scores = np.stack([index.get_scores(row) for row in rows])
    options: dict[str, Any] = {
        "curvature": "empirical_fisher", "hessian_regularization": DAMPING, "train_rows": "2:",
    }  # fmt: skip
    plain = online.compute_influences(
        registered, fresh_name, fresh_name, test_rows="0:3", **options
    )
    grouped = online.compute_influences(
        registered, fresh_name, fresh_name, aggregate={"test": {"by": "task", "reduce": "mean"}},
        **options,
    )  # fmt: skip
    of_a = scores[[at for at, task in enumerate(tasks) if task == "a"]].mean(0)
    for result, test, expected in (
        (plain, 1, scores[1]), (plain, None, scores[:3].mean(0)), (grouped, 0, of_a)
    ):  # fmt: skip
        found = result.bm25(test, 4).items
        assert [each.score for each in found] == pytest.approx(sorted(expected)[::-1][:4])
        own = [each.score for each in found]
        assert [expected[each.column] for each in found] == pytest.approx(own)
        assert all(each.id == names[each.row] and each.row == each.column + 2 for each in found)
    with pytest.raises(errors.InvalidRequest, match="which has 3: 0 to 2"):
        plain.bm25(3)
    monkeypatch.setenv("UPWEIGHT_URL", str(http.base_url))
    capsys.readouterr()
    assert not run(command, ("results", "bm25", plain.id, "--test", "1", "-k", "1", "--json"))
    assert json.loads(capsys.readouterr().out)["items"][0]["row"] == plain.bm25(1, 1).items[0].row


def test_a_tokenizer_that_does_not_fit_is_refused(
    online: Client, registered: str, fresh_name: str, texts: tuple[Tensor, Tensor]
) -> None:
    tokens, targets = texts
    refused: list[tuple[Any, str]] = [
        (tokenizer(WORDS[:5]), "has the tokens 0 to 4, and column 'x' has token 6"),
        (b'{"version": "1.0"}', "it is no tokenizer.json"),
        (b"no json", "it is no tokenizer.json"),
    ]
    for given, words in refused:
        blob = online.blobs.put(given).digest if isinstance(given, bytes) else given
        with pytest.raises(errors.Rejected, match=words):
            online.datasets.register(fresh_name, x=tokens, y=targets, tokenizer=blob)
    with pytest.raises(errors.Rejected, match="no input has token numbers"):
        online.datasets.register(
            fresh_name, x=tokens.double(), y=targets, tokenizer=tokenizer(WORDS)
        )
    with pytest.raises(errors.InvalidRequest, match="path of a tokenizer"):
        online.datasets.register(fresh_name, x=tokens, y=targets, tokenizer="nowhere.json")
    larger = online.datasets.register(
        fresh_name, x=tokens, y=targets, tokenizer=tokenizer([*WORDS, "more"])
    )
    with pytest.raises(errors.InvalidRequest, match=r"8 tokens, and model .* has scores for 7"):
        online.compute_influences(registered, larger, larger, test_rows="0:1")


class Adapted(torch.nn.Module):
    """As peft wraps a model: the base is held fixed, a low rank is added to a layer, and forward takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.base = decoder.decoder().requires_grad_(False)
        self.down = torch.nn.Linear(decoder.WIDTH, 2, bias=False)
        self.up = torch.nn.Linear(2, 5, bias=False)
        plain = self.base.inner

        def both(value: Tensor) -> Tensor:
            return torch.nn.functional.linear(value, plain.weight, plain.bias) + self.up(
                self.down(value)
            )

        plain.forward = both  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {"logits": self.base(*args, **kwargs)}


def test_an_adapter_over_a_model_that_is_held_fixed_trains_alone(
    online: Client, registered: str, fresh_name: str, texts: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(1)
    model = Adapted().double().eval()
    record = online.models.register(
        fresh_name, model, example={"tokens": texts[0][:2]}, output="logits",
        loss={"name": "cross_entropy", "class_axis": -1},
    )  # fmt: skip
    assert [each.name for each in record.selected] == ["down.weight", "up.weight"]
    online.datasets.register(fresh_name, tokens=texts[0], y=texts[1])
    result = online.compute_influences(
        fresh_name, fresh_name, fresh_name, curvature="empirical_fisher", hessian_regularization=DAMPING
    )  # fmt: skip
    trained, rows = [model.down.weight, model.up.weight], []
    for x, y in zip(*texts, strict=True):
        loss = F.cross_entropy(model(x[None])["logits"][0], y)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]))
    g = torch.stack(rows)
    c = g.T @ g / ROWS + DAMPING * torch.eye(g.shape[1], dtype=torch.float64)
    exact = (g @ torch.linalg.solve(c, g.T)).numpy()
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-8, atol=1e-11)
