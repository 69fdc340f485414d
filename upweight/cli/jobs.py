"""`upweight jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from upweight.cli import choices, job_views, units
from upweight.cli.choices import Labels, Limit, Oldest
from upweight.cli.following import ended, watched
from upweight.cli.shell import Shell
from upweight.cli.submission import Submission, rows_of
from upweight.cli.verb import JOB, JobArgument, JobArguments, group, verb

if TYPE_CHECKING:
    from upweight.schema import Delivery, JobRecord


jobs = group("Jobs: start them, watch them, stop them.")

Follow = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]


@verb(
    jobs,
    "submit",
    """
    upweight jobs submit --model digits-mlp --train digits-train --test digits-test --test-rows 0:100 \\
        --method cg --set rtol=1e-5 --regularization 0.05 --keep matrix,mean,top=10 --wait
    upweight jobs submit job.json --priority high
    cat job.json | upweight jobs submit - --json
    """,
)
def submit(
    shell: Shell,
    file: Annotated[
        str | None, typer.Argument(help="The job as JSON; - reads stdin. Options go before it.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="influences, factors, ihvp, self_influences, gradients or hvp."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Id, name, or name@version.")] = None,
    train: Annotated[str | None, typer.Option(help="Training dataset.")] = None,
    train_rows: Annotated[
        str | None, typer.Option(help="Some of its rows: 0:1000, ::10, or a file of ids.")
    ] = None,
    train_where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Rows by metadata or label. Repeatable."),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test dataset.")] = None,
    test_rows: Annotated[
        str | None, typer.Option(help="Some of its rows, or a file of ids.")
    ] = None,
    test_where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="As --train-where.")
    ] = None,
    hessian_on: Annotated[
        str | None, typer.Option(help="Dataset of the Hessian, if another than --train.")
    ] = None,
    hessian_rows: Annotated[
        str | None, typer.Option(help="Rows of the Hessian: 0:1000, or a file of ids.")
    ] = None,
    rhs: Annotated[
        str | None, typer.Option(help="For ihvp: an .npy file, a digest, or a job with vectors.")
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="For hvp: an .npy file, a digest, a job with vectors, a dataset's id."),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="For gradients: globs over the parameters; commas.")
    ] = None,
    curvature: Annotated[str | None, typer.Option(help="KIND or KIND:STRUCTURE; {kinds}.")] = None,
    method: Annotated[str | None, typer.Option(help="{methods}.")] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="The method's PARAMETER=VALUE. Repeatable.")
    ] = None,
    regularization: Annotated[
        str | None,
        typer.Option(
            "--regularization",
            "--lambda",
            help="λ, added to the Hessian: a number, auto, relative:0.1 (of the mean eigenvalue), or several: 1,2.",
        ),
    ] = None,
    influence_type: Annotated[str | None, typer.Option(help="up or perturbation.")] = None,
    perturb_at: Annotated[
        str | None, typer.Option(help="Perturb the output of this inner module.")
    ] = None,
    perturb_input: Annotated[str | None, typer.Option(help="Perturb this input column.")] = None,
    measurement: Annotated[
        str | None,
        typer.Option(
            help="loss, margin, logit:CLASS (a number, label, predicted) or span:START:END."
        ),
    ] = None,
    factors: Annotated[
        str | None, typer.Option(metavar=JOB, help="An earlier job, to use its factors.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=COLUMN where a model's input has another name. Repeatable."),
    ] = None,
    keep: Annotated[str | None, typer.Option(help="matrix, top=K, mean, factors; commas.")] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="Groups to add up over: test=mean, or test=y,train=source.")
    ] = None,
    scores_by: Annotated[
        str | None, typer.Option(help="layer or token: the parts of each influence, too.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROWS",
            help="A set of training rows that is removed together: 0:100, 3,17, or a file of ids. Repeatable.",
        ),
    ] = None,
    rescale: Annotated[
        bool | None, typer.Option(help="Of --groups: also at the curvature that is left.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, float64, tf32 or bf16; by default the model's own.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows at a time, or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="For what is random.")] = None,
    priority: Annotated[str | None, typer.Option(help="high, default or low.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds that it may run.")] = None,
    reuse: Annotated[bool | None, typer.Option(help="Look for factors of earlier jobs.")] = None,
    webhook: Annotated[str | None, typer.Option(help="Address that is told of the end.")] = None,
    label: Labels = None,
    name: Annotated[str | None, typer.Option(help="What you call the job.")] = None,
    note: Annotated[str | None, typer.Option(help="What there is to say about it.")] = None,
    wait: Follow = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job, start nothing.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print what it would take, start nothing.")
    ] = False,
) -> None:
    """Start a job, from options, from JSON, or from JSON with options on top; print its id."""
    submission = Submission.read(file)
    submission.select(
        "train",
        train,
        rows_of(shell, train_rows, train),
        choices.filters(train_where, "--train-where"),
    )
    submission.select(
        "test", test, rows_of(shell, test_rows, test), choices.filters(test_where, "--test-where")
    )
    submission.select(
        "hessian_on",
        hessian_on or (hessian_rows and train),
        rows_of(shell, hessian_rows, hessian_on or train),
    )
    submission.invert(method, choices.values(set, "--set"))
    submission.keep(keep)
    submission.put(
        kind=kind, model=model, rhs=rhs, vectors=vectors,
        parameters=choices.names(parameters), hessian_regularization=choices.damping(regularization),
        curvature=choices.curvature(curvature), influence_type=influence_type, factors=factors,
        perturb_at=perturb_at, perturb_input=perturb_input,
        groups=[rows_of(shell, each, train) for each in groups] if groups else None, rescale=rescale,
        measurement=choices.measurement(measurement),
        aggregate=choices.pairs(choices.names(aggregate), "--aggregate") or None,
        scores_by=scores_by, precision=precision, seed=seed,
        batch_size=None if batch_size is None else choices.value(batch_size),
        priority=priority, timeout_s=time_limit, reuse=reuse,
        labels=choices.pairs(label, "--label") or None,
        columns=choices.pairs(column, "--column") or None,
        name=name, note=note,
        webhook=None if webhook is None else {"url": webhook},
    )  # fmt: skip
    fields = submission.checked()
    if dry_run:
        shell.document(fields)
        return
    if estimate:
        shell.document(
            shell.client.jobs.create(submission.uploaded(shell.client), dry_run=True).estimate
        )
        return
    record = shell.client.jobs.create(submission.uploaded(shell.client))
    if wait:
        _follow(shell, record.id)
    elif shell.as_json:
        shell.document(record)
    else:
        print(record.id)


@verb(jobs, "list", "upweight jobs list --state running --dataset digits-train")
def show_all(
    shell: Shell,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed, …")] = None,
    model: Annotated[str | None, typer.Option(help="Jobs of this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Jobs with this dataset.")] = None,
    label: Labels = None,
    kind: Annotated[str | None, typer.Option(help="influences, retrain, quality, …")] = None,
    search: Annotated[
        str | None, typer.Option(help="A part of the id, the name, the note or a label.")
    ] = None,
    limit: Limit = 50,
    oldest_first: Oldest = False,
) -> None:
    """Show jobs, newest first."""
    chosen = any((state, model, dataset, label, kind, search))
    found = shell.client.jobs.list(
        limit=limit or None,
        state=state,
        model=model,
        dataset=dataset,
        labels=choices.pairs(label, "--label"),
        kind=kind,
        search=search,
        order="asc" if oldest_first else "desc",
    )
    called = job_views.names_of(shell.client)
    shell.list(
        found,
        job_views.HEADS,
        lambda record: job_views.row(record, called),
        "no such jobs; `upweight jobs list` shows all"
        if chosen
        else "no jobs; start one: upweight jobs submit --help",
        job_views.SPARE,
    )


@verb(jobs, "show", "upweight jobs show latest")
def show(shell: Shell, job: JobArgument) -> None:
    """Show one job: state, progress, cost, what went wrong."""
    job_views.show(shell, shell.client.jobs.get(job))


@verb(jobs, "watch", "upweight jobs watch latest")
def watch(shell: Shell, job: JobArgument) -> None:
    """Follow a job until it has ended; ends with 1 if the job did not succeed."""
    _follow(shell, job)


@verb(jobs, "change", 'upweight jobs change latest --name baseline --note "before cleaning"')
def change(
    shell: Shell,
    job: JobArgument,
    name: Annotated[str | None, typer.Option(help='Another name; "" takes it away.')] = None,
    note: Annotated[str | None, typer.Option(help='Another note; "" takes it away.')] = None,
) -> None:
    """Give a job another name or note."""
    if name is None and note is None:
        raise typer.BadParameter("give --name, --note, or both", param_hint="JOB")
    _changed(shell, shell.client.jobs.change(job, name=name, note=note))


@verb(jobs, "cancel", "upweight jobs cancel latest")
def cancel(shell: Shell, job: JobArguments) -> None:
    """Stop jobs; a running one stops within seconds."""
    for reference in job:
        _changed(shell, shell.client.jobs.cancel(reference))


@verb(jobs, "retry", "upweight jobs retry latest --wait")
def retry(shell: Shell, job: JobArgument, wait: Follow = False) -> None:
    """Run a failed or cancelled job again, from what it had finished."""
    record = shell.client.jobs.retry(job)
    if wait:
        _follow(shell, record.id)
    else:
        _changed(shell, record)


@verb(jobs, "deliveries", "upweight jobs deliveries latest")
def deliveries(shell: Shell, job: JobArgument) -> None:
    """Show what became of the events that the job's webhook was to be told."""
    heads = ("EVENT", "STATE", "TRIES", "LAST TRY", "STATUS", "WHY")
    found = shell.client.jobs.deliveries(job)
    shell.list(
        found, heads, _delivered, "no deliveries: the job has no webhook, or nothing to tell"
    )


@verb(jobs, "delete", "upweight jobs delete job_01JD0000000000000000000000")
def delete(shell: Shell, job: JobArguments) -> None:
    """Delete ended jobs and their results."""
    for reference in job:
        shell.client.jobs.delete(reference)
        shell.say(f"deleted {reference}")


def _changed(shell: Shell, record: JobRecord) -> None:
    if shell.as_json:
        shell.document(record)
    else:
        print(f"{record.id} {record.state}")


def _follow(shell: Shell, job: str) -> None:
    record = watched(shell, job)
    if not shell.as_json:
        job_views.show(shell, record)
    ended(shell, record)


def _delivered(delivery: Delivery) -> tuple[str, ...]:
    status = "" if delivery.last_status is None else str(delivery.last_status)
    when = units.age(delivery.last_try_at)
    return (
        delivery.event,
        delivery.state,
        str(delivery.tries),
        when,
        status,
        delivery.last_error or "",
    )
