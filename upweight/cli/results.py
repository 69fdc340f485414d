"""`upweight results`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upweight.cli import rankings, units
from upweight.cli.rankings import Damping
from upweight.cli.shell import Shell
from upweight.cli.slices import FILE_NUMBERS, chosen, printed, refuse_size, written
from upweight.cli.verb import JobArgument, group, verb

if TYPE_CHECKING:
    from upweight.schema import JobRecord


def drawable(text: str | None, result: Any, kind: str, axis: int) -> Any:
    """Positions along an axis; of perturbations a single one."""
    if text is None:
        return None
    shape = result.shape
    if axis >= len(shape):
        raise typer.BadParameter("self-influences have no test rows", param_hint="--test")
    positions = list(chosen(text, shape[axis]))
    if kind == "heatmap" and len(shape) > 2 and len(positions) == 1:
        return positions[0]
    return positions


def known_wrong(text: str | None) -> list[int] | None:
    """Numbers with commas between them, or a file of them."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix == ".npy":
        import numpy as np

        rows = np.load(path, allow_pickle=False)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise typer.BadParameter(f"{path} must hold row numbers", param_hint="--flipped")
        return [int(row) for row in rows]
    words = path.read_text(encoding="utf-8") if path.is_file() else text
    try:
        return [int(word) for word in words.replace(",", " ").split()]
    except ValueError:
        message = f"{text!r} is no file, and no row numbers with commas between them"
        raise typer.BadParameter(message, param_hint="--flipped") from None


results = group("Results: slices, rankings, files, pictures.")

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write an .npy file instead of printing.")
]
Array = Annotated[
    str | None,
    typer.Option(
        help="influences, mean, by_layer, by_token, rescaled, factors, gradients or products."
    ),
]


@verb(
    results,
    "slice",
    """
    upweight results slice latest --test 0:5 --train ::100
    upweight results slice latest --test 3 -o row.npy
    upweight results slice latest --test 3 --by layer
    """,
)
def slice_(
    shell: Shell,
    job: JobArgument,
    test: Annotated[str | None, typer.Option(help="Rows of the matrix: 0:10, 3,5, ::2.")] = None,
    train: Annotated[str | None, typer.Option(help="Columns of the matrix.")] = None,
    by: Annotated[
        str | None, typer.Option(help="layer or token: the parts of a job with such --scores-by.")
    ] = None,
    name: Annotated[
        str, typer.Option("--array", help="influences, rescaled (of --groups) or factors.")
    ] = "influences",
    output: Output = None,
    damping: Damping = None,
) -> None:
    """Print a part of the influences, tab-separated, or write it into a file.

    Positions come first, in front and at the head; after them the ids of their rows, where the datasets have some.
    """
    array, record, called = _array(shell, job, name, damping, by)
    axes = [chosen(text, size) for text, size in zip((test, train), array.shape, strict=False)]
    if output is not None:
        refuse_size(axes, array.shape, FILE_NUMBERS, "`upweight results save` streams all of it")
        print(written(array, axes, output))
        return
    from upweight.results.labels import names_of

    names = shell.client._link.run(names_of(record, called, axes))
    printed(shell, array, axes, names)


verb(
    results,
    "top",
    """
    upweight results top latest --test 3 -k 5 --sign harmful
    upweight results top latest --test 0 -k 5 --words
    """,
)(rankings.top)
verb(
    results,
    "bm25",
    "upweight results bm25 latest --test 0 -k 5",
)(rankings.bm25)
verb(
    results,
    "suspects",
    """
    upweight results suspects latest -k 20
    upweight results suspects latest -k 50 --json
    """,
)(rankings.suspects)
verb(
    results,
    "rows",
    """
    upweight results rows latest --sort -loss --limit 10
    upweight results rows latest --side train --rows 0:5 --json
    """,
)(rankings.rows)


@verb(results, "report", "upweight results report latest --json")
def report(shell: Shell, job: JobArgument) -> None:
    """Show what a quality job measured, or what a retraining changed."""
    from upweight.cli.quality import shown

    result = shell.client.jobs.result(job)
    if hasattr(result, "table"):
        shown(shell, result.table())
        return
    kind = result.job.request.kind
    if kind != "retrain":
        words = f"{job} computed {kind}; there are reports of quality and retrain"
        raise typer.BadParameter(words, param_hint="JOB")
    document = result.report()
    plain = {name: value for name, value in document.items() if not isinstance(value, dict | list)}
    shell.record(document, [(name, str(value)) for name, value in plain.items()])


@verb(
    results,
    "export",
    """
    upweight results export latest tasks.json --to label-studio -k 100
    upweight results export latest issues.csv --to cleanlab
    upweight results export latest --to mlflow
    """,
)
def export(
    shell: Shell,
    job: JobArgument,
    path: Annotated[
        Path | None, typer.Argument(help="The file; for mlflow and wandb the table's name.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(help="cleanlab, label-studio, fiftyone, argilla, datasets, mlflow or wandb."),
    ] = "cleanlab",
    k: Annotated[
        int | None, typer.Option("-k", help="The first so many suspects; without, all.", min=1)
    ] = None,
    share: Annotated[
        float, typer.Option(help="Part of the rows that is marked as issues.", min=0, max=1)
    ] = 0.05,
    damping: Damping = None,
) -> None:
    """Hand suspects over to another tool, in the form that it takes; low scores are suspect."""
    result = rankings.ranked_by(shell, job, "export", damping)
    if path is None and to not in ("mlflow", "wandb"):
        raise typer.BadParameter(f"say which file to write for {to}", param_hint="FILE")
    if to == "wandb":
        from upweight.extras import needed

        wandb = needed("wandb", "--to wandb")
        with wandb.init(project="upweight", name=result.id):
            result.export(to, path or Path("suspects"), k=k, share=share)
        return
    print(result.export(to, path, k=k, share=share))


@verb(results, "save", "upweight results save latest influences.parquet")
def save(
    shell: Shell,
    job: JobArgument,
    path: Annotated[Path, typer.Argument(help=".npy, .npz, .safetensors, .csv or .parquet.")],
    array: Array = None,
    damping: Damping = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="A .csv with a line a test row, a column a training row.")
    ] = False,
) -> None:
    """Stream a result into a file, put in place when it is whole."""
    saved = rankings.result_of(shell, job, damping).save(path, array, wide=wide)
    if shell.as_json:
        shell.document({"path": str(saved), "size_bytes": saved.stat().st_size})
    else:
        print(saved)


@verb(
    results,
    "plot",
    """
    upweight results plot latest top.png --test 3 -k 4
    upweight results plot latest heat.svg --kind heatmap --test 0:50 --train ::10
    upweight results plot latest found.png --kind ranking --flipped 3,17,204
    """,
)
def plot(
    shell: Shell,
    job: JobArgument,
    path: Annotated[Path, typer.Argument(help=".png, .svg or .pdf.")],
    kind: Annotated[str, typer.Option(help="top, heatmap, ranking or damping.")] = "top",
    test: Annotated[str | None, typer.Option(help="Rows of the matrix.")] = None,
    train: Annotated[str | None, typer.Option(help="Columns, for a heatmap.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Training rows of each sign, for top.", min=1)
    ] = None,
    by_class: Annotated[
        bool | None, typer.Option(help="For a heatmap: rows put together by label.")
    ] = None,
    flipped: Annotated[
        str | None,
        typer.Option(help="For a ranking: rows known to be wrong, or a .npy or text file of them."),
    ] = None,
    damping: Damping = None,
) -> None:
    """Draw the rows that mattered most, a heat map, how soon wrong labels are found, or what λ changes."""
    result: Any = rankings.result_of(shell, job, damping)
    if not hasattr(result, "plot"):
        raise typer.BadParameter(
            f"{job} computed {result.job.request.kind}: there is nothing to draw"
        )
    given = {"test": drawable(test, result, kind, 0), "train": drawable(train, result, kind, 1), "k": k,
             "by_class": by_class, "flipped": known_wrong(flipped)}  # fmt: skip
    result.plot(kind, path, **{name: value for name, value in given.items() if value is not None})
    if shell.as_json:
        shell.document({"path": str(path), "size_bytes": path.stat().st_size})
    else:
        print(path)


@verb(results, "info", "upweight results info latest --array residuals")
def info(
    shell: Shell,
    job: JobArgument,
    array: Annotated[str | None, typer.Option(help="Print this array of it.")] = None,
    output: Output = None,
) -> None:
    """Show what the inversion says of itself: convergence, iterations, residuals."""
    found = shell.client.jobs.result(job).info
    if array is None:
        arrays = [
            (name, f"array {units.shape(spec.shape)} {spec.dtype}")
            for name, spec in found.arrays.items()
        ]
        document = {"method": found.method, "summary": found.summary,
                "arrays": [spec.model_dump(mode="json") for spec in found.arrays.values()]}  # fmt: skip
        pairs = [
            ("method", found.method),
            *((k, str(v)) for k, v in found.summary.items()),
            *arrays,
        ]
        shell.record(document, pairs)
        return
    if array not in found.arrays:
        raise typer.BadParameter(
            f"there is no array {array!r}; there are {', '.join(found.arrays) or 'none'}",
            param_hint="--array",
        )
    values = found[array]
    axes = [chosen(None, size) for size in values.shape[:2]]
    if output is not None:
        refuse_size(axes, values.shape, FILE_NUMBERS, "ask the SDK: result.info[…].save(path)")
        print(written(values, axes, output))
        return
    printed(shell, values, axes)


@verb(results, "files", "upweight results files latest")
def files(shell: Shell, job: JobArgument) -> None:
    """Show the objects that a result consists of."""
    found = shell.client.jobs.result(job).files()
    heads = ("PATH", "SIZE", "DIGEST")
    shell.list(
        found.files,
        heads,
        lambda file: (file.path, units.size(file.size_bytes), file.digest or ""),
        "no files",
    )


def _array(
    shell: Shell, job: str, name: str, damping: float | None, by: str | None
) -> tuple[Any, JobRecord, str]:
    """An array of a job's result, the job, and what the array is called."""
    from upweight.results.stored import vectors

    result = rankings.result_of(shell, job, damping)
    found = result.job.result
    if found is not None and found.dampings is not None:
        there = ", ".join(map(repr, found.dampings))
        raise typer.BadParameter(
            f"{job} has several λ's; say which of {there}", param_hint="--damping"
        )
    if by in ("layer", "token"):
        if not hasattr(result, "by_layer"):
            raise typer.BadParameter(f"{job} computed {result.job.request.kind}", param_hint="--by")
        return getattr(result, f"by_{by}"), result.job, f"by_{by}"
    if by not in (None, "row"):
        raise typer.BadParameter(f"{by!r} is none of layer, token and row", param_hint="--by")
    known = [each for each in ("influences", "rescaled", "factors") if hasattr(type(result), each)]
    if not known:  # of factors and solutions, which have one array
        return result.x, result.job, vectors(result.job).name
    if name not in known:
        raise typer.BadParameter(
            f"{job} has no array {name!r}; there are {', '.join(known)}", param_hint="--array"
        )
    return getattr(result, name), result.job, name
