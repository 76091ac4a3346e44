"""The commands of archives: ``export RUN``, ``verify NEW --against OLD``, ``delta``, ``apply``, ``sign``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eideticnet import __version__
from eideticnet.export.archive.contents import BUNDLE
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.reader import check_there, read_archive
from eideticnet.export.archive.releases import HANDLERS, RELEASES, release
from eideticnet.export.archive.releases import revoke as revoke_release
from eideticnet.export.archive.signature import check_signature, fingerprint, read_trusted
from eideticnet.export.archive.signature import sign as write_signature
from eideticnet.export.errors import ArchiveError, ExportError
from eideticnet.export.files import check_writable, into_place, refuse_to_replace, scratch_folder, whole_file
from eideticnet.export.proof.options import MaxDrop, RoutingData
from eideticnet.export.proof.verify import MAX_DROP, NO_VERDICT, STATUS
from eideticnet.export.proof.verify import verify as prove
from eideticnet.export.show import show, show_build
from eideticnet.signals import stoppable

PASSWORD = "EIDETIC_SIGNING_PASSWORD"
_stoppable = stoppable("no file was left half-written")
Store = Annotated[Path, typer.Option(help="Where the archive goes.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Take the place of another archive of that name and version.")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where it is served; auto takes CUDA if it can.")
]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads of each worker that serves it.")]
Buckets = Annotated[
    list[int],
    typer.Option(help="A number of rows that batches are padded to; on CUDA 1 to 256 unless stated."),
]


@_stoppable
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained network.")],
    name: Annotated[str, typer.Option(help="The model's name; default: the run folder's.")] = "",
    model_version: Annotated[str, typer.Option(help="Default: the number of tasks, as N.0.")] = "",
    format: Annotated[
        Literal["onnx", "torchscript", "pt2", "triton"],
        typer.Option(help="Graph format; triton: the model's folder in a Triton repository, with ONNX."),
    ] = "onnx",
    store: Store = Path("model_store"),
    bundle: Annotated[Path | None, typer.Option(help="Also keep the bundle in this new folder.")] = None,
    prefix: Annotated[
        list[int], typer.Option(help="Also write a graph for requests pinned to one of the first N tasks.")
    ] = [],  # noqa: B006
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Real inputs, .npz or .safetensors, that may travel in the archive: x, task, label."
        ),
    ] = None,
    layout: Annotated[
        Literal["nested", "paged", "dense", "auto"] | None,
        typer.Option(
            help="Blocks one by one, in a few pages or all in one, which promises no bits; auto measures. "
            "Default: that of NAME's newest archive in STORE, or paged.",
            show_default=False,
        ),
    ] = None,
    repack: Annotated[
        bool,
        typer.Option(
            "--repack",
            help="Lay RUN's pages anew, for the tasks that there are. No earlier version compares.",
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"], typer.Option(help="What the graph computes in.")
    ] = "float32",
    routing_data: Annotated[
        Path | None,
        typer.Option(help="Real inputs by which another layout or precision is judged; default: validation."),
    ] = None,
    max_instances: Annotated[int, typer.Option(min=1, help="Instances that one request may hold.")] = 64,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1 << 27,
            help="Pixels of a picture that are decoded; default: 64 for each of the input's, or 512 x 512.",
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
    bucket: Buckets = [],  # noqa: B006
    replace: Replace = False,
) -> None:
    """Export RUN and pack it into an archive.

    It is STORE/NAME-VERSION.mar, or of --format triton STORE/NAME, whose path is printed. What is there with
    other content stays, unless --replace is given.
    """
    from eideticnet.export.build import build as export_run  # late: the other commands need no torch

    if triton := format == "triton":
        _refuse_for_triton(prefix=prefix, bucket=bucket, max_pixels=max_pixels, validation=validation)
    handler = {"device": device, "threads": threads} | ({"buckets": sorted(set(bucket))} if bucket else {})
    archive = export_run(
        run,
        store,
        name=name,
        model_version=model_version,
        keep=bundle,
        format="onnx" if triton else format,
        triton=triton,
        prefixes=prefix,
        validation=validation,
        layout=layout,
        precision=precision,
        routing_data=routing_data,
        max_instances=max_instances,
        max_pixels=max_pixels,
        serving={"handler": handler},
        replace=replace,
        repack=repack,
    )
    typer.echo(archive)
    show_build(read_bundle((archive / BUNDLE).read_bytes()) if triton else read_archive(archive).bundle)


def _refuse_for_triton(**options: Any) -> None:
    """``ExportError`` for what is an option of our handler, which Triton does not run."""
    for name, value in options.items():
        if value:
            said = f"--{name.replace('_', '-')} is for the handler in an archive"
            raise ExportError(f"{said}, and Triton runs the graph alone: leave it out, or --format triton")


@_stoppable
def verify(
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The archive that is to replace another.")],
    against: Annotated[Path, typer.Option(help="The archive that is served now.")],
    routing_data: RoutingData = None,
    max_drop: MaxDrop = MAX_DROP,
    report: Annotated[Path | None, typer.Option(help="Also write the JSON report to this file.")] = None,
) -> None:
    """Prove that NEW forgets nothing.

    It has to hold every task of the archive AGAINST unchanged, and to route as well.
    Exit status: 0 proven, 1 refused, 3 not comparable; 2 where there is no verdict or it can't be kept,
    for a file that the command names can't be read or written. The JSON report goes to standard output.
    """
    try:
        if report is not None:
            refuse_to_replace(report, new, against, *([routing_data] if routing_data else []))
            check_writable(report)
        found = prove(new, against, routing_data, max_drop)
        text = json.dumps(found.to_json(), indent=1, ensure_ascii=False)
        typer.echo(text)
        show(found)
        if report is not None:
            with whole_file(report) as file:
                file.write(f"{text}\n".encode())
    except (ArchiveError, OSError) as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(NO_VERDICT) from None
    raise typer.Exit(STATUS[found.verdict])


@_stoppable
def delta(
    new: Annotated[Path, typer.Argument(metavar="NEW", help="An archive.")],
    against: Annotated[Path, typer.Option(help="The earlier archive that receivers have.")],
    out: Annotated[Path, typer.Option(help="The delta's file.")],
) -> None:
    """Write what NEW adds to another archive.

    That is the archive AGAINST; how large the delta is, is said.
    """
    check_writable(out)
    write_delta(against, new, out)
    sizes = out.stat().st_size, new.stat().st_size
    typer.echo(f"{out}: {sizes[0]} bytes, {sizes[0] / sizes[1]:.1%} of the {sizes[1]} bytes of {new}")


@_stoppable
def apply(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The archive that the delta was made against.")],
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="The delta.")],
    store: Store = Path("model_store"),
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Of the new archive; default: 16 times those of OLD and DELTA.")
    ] = None,
    replace: Replace = False,
) -> None:
    """Make the new archive from OLD and DELTA.

    Byte for byte, in STORE; its path is printed.
    """
    with scratch_folder(store / f"{delta.stem}.mar") as temporary:
        made = temporary / "new.mar"
        apply_delta(old, delta, made, max_bytes)
        archive = read_archive(made)
        destination = store / f"{archive.name}-{archive.version}.mar"
        refuse_to_replace(destination, old, delta)
        into_place(made, destination, replace=replace)
    typer.echo(destination)


def sign(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive.")],
    private_key: Annotated[
        Path,
        typer.Option(
            help="PEM private key of an elliptic curve. An encrypted one is opened by what the "
            f"environment has as {PASSWORD}."
        ),
    ],
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM certificate of that key, and those between it and a trusted one."),
    ] = None,
) -> None:
    """Sign ARCHIVE.

    The signature is ARCHIVE.sig, in the format of OpenSSF's model-signing, and its path is printed. Keep it
    beside the archive: serve and deploy take both.
    """
    read_archive(archive, revoked=True)
    typer.echo(write_signature(archive, private_key, certificate, os.environ.get(PASSWORD, "")))


def verify_signature(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive.")],
    public_key: Annotated[
        list[Path],
        typer.Option(help="PEM public key that is trusted, or a certificate. Several: any of them."),
    ],
    signature: Annotated[Path | None, typer.Option(help="Default: ARCHIVE.sig.")] = None,
) -> None:
    """Check who signed ARCHIVE.

    That it is just as it was when somebody signed it who is trusted. Says who that is.
    """
    check_there(archive)
    trusted = [pem for file in public_key for pem in read_trusted(file)]
    signer = check_signature(archive, trusted, signature=signature)
    typer.echo(f"{archive} is as {fingerprint(signer)} signed it")


def release_handlers(
    revoke: Annotated[
        str, typer.Option(metavar="SHA256", help="Of a file: no handler that has it is accepted any more.")
    ] = "",
    because: Annotated[str, typer.Option(help="The reason, which every archive is told.")] = "",
) -> None:
    """Let archives carry these handlers.

    Adds the files in handlers/ to the released ones, the only code that an archive may carry.
    With --revoke, takes what was released away again.
    """
    if revoke or because:
        typer.echo(f"{RELEASES}: {revoke_release(revoke, because)} revoked")
        return
    added = release(HANDLERS, __version__)
    typer.echo(f"{RELEASES}: {'added' if added else 'they are in it already'}")
