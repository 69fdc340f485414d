"""`upweight blobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upweight.cli import choices, units
from upweight.cli.exits import Exit
from upweight.cli.shell import Shell
from upweight.cli.verb import group, verb

blobs = group("Blobs: files by the digest of what they hold, as models and datasets refer to them.")

Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="sha256:…")]
EXAMPLE = "sha256:" + "ab" * 32


@verb(blobs, "put", "upweight blobs put weights.safetensors")
def put(
    shell: Shell,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="What to upload.")],
) -> None:
    """Upload files; print their digests. What is stored already is not sent again."""
    for path in choices.existing(files):
        record = shell.client.blobs.put(path)
        shell.document(record) if shell.as_json else print(record.digest)


@verb(blobs, "show", f"upweight blobs show {EXAMPLE}")
def show(shell: Shell, digest: Digest) -> None:
    """Show whether a blob is stored, and how large it is."""
    record = shell.client.blobs.head(digest)
    if record is None:
        shell.say(f"{digest} is not stored")
        raise typer.Exit(Exit.NOT_FOUND)
    shell.record(record, [("digest", record.digest), ("size", units.size(record.size_bytes))])


@verb(blobs, "download", f"upweight blobs download {EXAMPLE} weights.safetensors")
def download(
    shell: Shell, digest: Digest, path: Annotated[Path, typer.Argument(help="The file.")]
) -> None:
    """Stream a blob into a file, put in place when it is whole and its digest is right."""
    saved = shell.client.blobs.download(digest, path)
    if shell.as_json:
        shell.document({"path": str(saved), "size_bytes": saved.stat().st_size})
    else:
        print(saved)


@verb(blobs, "url", f"upweight blobs url {EXAMPLE} --method PUT")
def url(
    shell: Shell,
    digest: Digest,
    method: Annotated[str, typer.Option(help="GET to download, PUT to upload.")] = "GET",
) -> None:
    """Print an address at which the object storage itself gives or takes a blob, for a while."""
    if method not in ("GET", "PUT"):
        raise typer.BadParameter(f"{method!r} is neither GET nor PUT", param_hint="--method")
    found = shell.client.blobs.url(digest, method)  # type: ignore[arg-type]
    shell.document(found) if shell.as_json else print(found.url)


@verb(blobs, "complete", f"upweight blobs complete {EXAMPLE}")
def complete(shell: Shell, digest: Digest) -> None:
    """Have the service check what was uploaded to an address of `url --method PUT`."""
    record = shell.client.blobs.complete(digest)
    shell.document(record) if shell.as_json else print(record.digest)
