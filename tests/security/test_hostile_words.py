"""`uri`s, webhooks' addresses, globs and names that no friend would write: an answer in words, no error of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from service.datasets.uris import allowed_place
from service.settings import Settings
from tests.service.acting import Acting, digest_of
from upweight.errors import InvalidRequest
from workers.engine import EngineError, Problem, make_loss

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
thorough = settings(quick, max_examples=200)
STRANGE = (
    "", " ", ".", "..", "...", "a\x00b", "a\nb", "\u202egnp.exe", "ｅｖｉｌ", "e\u0301", "\u00e9", "\ufeffa", "٣",
    "a" * 5_000, "%2e%2e", "%00", "${jndi:ldap://x}", "'; DROP TABLE x; --", "<script>", "{namespace}", "mdl_1", "a@1",
    "a/../b", "*", "\ud7ff", "\U0010ffff", "𝐚", "-", "_", "a b", "constructor", "__proto__",
)  # fmt: skip
strange = st.one_of(st.sampled_from(STRANGE), st.text(max_size=60))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is allowed, beside one whose name only begins with the same letters, and one that links lead to."""
    root = tmp_path_factory.mktemp("lake")
    for name in ("data", "data/mine", "database", "secret", "objects"):
        (root / name).mkdir()
        (root / name / "x.npz").write_bytes(b"x")
    (root / "data" / "link").symlink_to(root / "secret")
    return root


PARTS = (
    "..", ".", "", "data", "database", "mine", "link", "secret", "objects", "x.npz", "%2e%2e", "..%2f", "%252e", "\\..",
    "data\x00", "DATA", "data ", "ｄata", "..;", "~", "lake", "lake2", "lake-private", "default", "other",
    "@169.254.169.254", "?x=1", "#f", "lake@evil", "lake:80",
)  # fmt: skip
PREFIXES = (
    "", "/", "file://", "file:///", "FILE:///", "s3://", "S3://", "s3:/", "gs://", "az://", "http://", "https://",
    "ftp://", "gopher://", "memory://", "data:", "//", "s3://lake", "s3://lake2", "s3://lake@", "s3://user:pw@lake",
    "http://127.0.0.1", "http://[::ffff:169.254.169.254]", "http://2130706433", "http://0177.0.0.1", "{root}/data",
    "{root}", "file://{root}/data", "file://localhost{root}/data", "{root}/data/..",
)  # fmt: skip
uris = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(PREFIXES),
    st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=8)), max_size=5),
)


@thorough
@given(uri=uris, format=st.sampled_from(["npz", "parquet", "safetensors"]))
def test_a_uri_leads_under_an_allowed_prefix_or_is_refused(
    uri: str, format: str, lake: Path
) -> None:
    allowed = f"{lake}/data,s3://lake/{{namespace}}"
    made = Settings(storage=str(lake / "objects"), dataset_prefixes=allowed)
    try:
        place = allowed_place(uri.replace("{root}", str(lake)), format, made, "default")
    except InvalidRequest:
        return
    if place.root.startswith("s3://"):
        # The whole bucket and the whole namespace, not names that begin like them; a file's folder may be the prefix.
        assert f"{place.root}/".startswith("s3://lake/default/") or (
            place.root == "s3://lake" and place.name == "default"
        )
        assert ".." not in place.root.split("/")
    else:
        assert Path(place.root).resolve().is_relative_to((lake / "data").resolve())


@quick
@given(name=strange, body=st.sampled_from(["models", "datasets"]))
def test_no_name_is_an_error_of_ours(name: str, body: str, acting: Acting) -> None:
    programs: Any = {"format": "pt2", "blob": digest_of(b"")}
    request = {
        "models": {"name": name, "program": programs, "loss": "cross_entropy", "parameters": [name or "*"]},
        "datasets": {"name": name, "format": "npz", "blobs": [digest_of(b"")], "inputs": [name],
                     "labels": {name: name}},
    }[body]  # fmt: skip
    answer = acting.post(f"/v1/{body}", request)
    assert answer.status_code == 422, answer.text
    assert len(answer.content) < 20_000
    for path in (
        f"/v1/{body}/{quote(name, safe='')}",
        f"/v1/{body}?name={quote(name)}&label={quote(name)}",
    ):
        assert acting.client.get(path).status_code in (200, 307, 404, 405, 422), path


@quick
@given(uri=uris)
def test_no_uri_or_webhook_is_an_error_of_ours(uri: str, acting: Acting) -> None:
    answer = acting.post("/v1/datasets", {"name": "d", "format": "npz", "uri": uri})
    assert answer.status_code == 422, answer.text
    answer = acting.post("/v1/jobs", acting.job_request(webhook={"url": uri}))
    assert answer.status_code in (404, 422), answer.text


@quick
@given(rows=strange)
def test_no_choice_of_rows_is_an_error_of_ours(rows: str, acting: Acting) -> None:
    answer = acting.post("/v1/jobs", acting.job_request(test={"dataset": "test", "rows": rows}))
    assert answer.status_code in (404, 422), answer.text


GLOBS = (
    "*a" * 60 + "b",
    "[" * 200,
    "[!" + "a" * 300 + "]",
    "?" * 400,
    "[a-",
    "[]]",
    "**",
    "\\",
    "é*",
    "(a+)+$",
    "{a,b}",
)


@quick
@given(glob=st.one_of(st.sampled_from(GLOBS), strange))
def test_any_glob_selects_parameters_or_is_refused(glob: str) -> None:
    """Against a long name, for patterns that cost a naive matcher time without end."""
    module = nn.ModuleDict({"a" * 400: nn.Linear(1, 1)})
    module.forward = lambda x: module["a" * 400](x)  # type: ignore[method-assign]
    try:
        problem = Problem(module.eval(), make_loss("mse"), (glob,))
    except EngineError:
        return
    assert problem.size in (1, 2)
