"""``masam weights``: download, verify and import published weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from masam.cli.console import print_json, print_line, print_table, show_progress
from masam.cli.options import EmbedBase, Json, Licence, Quiet, epilog, require_ending, require_writable
from masam.errors import ConfigError

Name = Annotated[str, typer.Argument(help="Name of published weights, such as sam-vit-b.")]


app = typer.Typer(
    name="weights",
    help="Download and verify published SAM weights, and import official MA-SAM models.",
    epilog=epilog("masam weights list", "masam weights get sam-vit-b"),
    no_args_is_help=True,
)


@app.command("list", epilog=epilog("masam weights list"))
def list_weights(json: Json = False) -> None:
    """List the published weights and whether they are on this machine."""
    from masam.weights.published import PUBLISHED, cache_folder, state

    states = {name: state(name) for name in PUBLISHED}
    if json:
        print_json([_record(name, states[name]) for name in PUBLISHED])
        return
    rows: list[tuple[str, ...]] = [("name", "model", "file size", "licence", "on this machine", "source")]
    rows += [
        (name, entry.size, entry.file_size, entry.licence, states[name], entry.page)
        for name, entry in PUBLISHED.items()
    ]
    print_table(rows, title=f"Published weights; downloads are in {cache_folder()}")


@app.command(epilog=epilog("masam weights get sam-vit-b"))
def get(
    name: Name,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="Expected SHA-256, if the host does not publish one.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download weights, verify them, and print their path. Existing files are not downloaded again."""
    from masam.weights import cache

    with show_progress(quiet) as progress:
        file = cache.get(name, progress=progress, offline=offline, sha256=sha256)
    if json:
        print_json(_record(name, "yes"))
    else:
        print_line(str(file))


@app.command(epilog=epilog("masam weights verify", "masam weights verify sam-vit-b"))
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of published weights; default: all on this machine.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify the hashes of downloaded weights again."""
    from masam.weights import cache

    with show_progress(quiet) as progress:
        result = cache.verify(names or (), progress=progress)
    if json:
        failed = {name: str(error) for name, error in result.failed.items()}
        print_json({"verified": result.verified, "failed": failed})
    else:
        for name, sha256 in result.verified.items():
            print_line(f"{name}: as published, SHA-256 {sha256}")
    result.raise_failures()


@app.command(epilog=epilog("masam weights path sam-vit-b"))
def path(name: Name) -> None:
    """Print the path of weights, for scripts; the exit code is 3 if they are not on this machine."""
    from masam.weights.published import require_cached

    print_line(str(require_cached(name)))


@app.command(
    "import",
    epilog=epilog(
        "masam weights import --sam sam-vit-h --adapter epoch_159.pth --trained-on btcv --out btcv.safetensors"
    ),
)
def import_reference(
    sam: Annotated[str, typer.Option(help="SAM weights for the adapter's backbone: a file or a published name.")],
    adapter: Annotated[Path, typer.Option(help="epoch_N.pth of the official MA-SAM, automatic or box variant.")],
    out: Annotated[Path, typer.Option(help="Model file to write, .safetensors.")],
    trained_on: Annotated[
        Literal["btcv", "prostate", "pancreas"] | None,
        typer.Option(help="Classes and preprocessing of the official programs."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="plan.yaml to use instead.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels during its training.")] = 512,
    fact_scale: Annotated[float, typer.Option(help="Scale of FacT during its training.")] = 1.0,
    licence: Licence = None,
    embed_base: EmbedBase = False,
    json: Json = False,
) -> None:
    """Convert an official MA-SAM model; all hyperparameters but two are inferred from its tensors."""
    from masam.export.identify import identify
    from masam.preprocess.plan import Plan
    from masam.weights.model_file import save
    from masam.weights.official import import_reference as import_model

    require_ending(out, ".safetensors")
    require_writable(out)
    if plan is not None and trained_on is not None:
        raise ConfigError("the two options exclude each other; give one of them", where="--plan and --trained-on")
    model = import_model(
        sam,
        adapter,
        image_size=image_size,
        fact_scale=fact_scale,
        trained_on=trained_on,
        plan=None if plan is None else Plan.from_yaml(plan),
        licence=licence,
    )
    save(out, model, embed_base=embed_base)
    facts = identify(out)
    if json:
        print_json(facts)
        return
    print_line(
        f"wrote {out}: {facts['size']}, {facts['num_classes']} classes at {facts['image_size']} pixels, "
        f"rank {facts['fact_rank']}, adapters of {facts['adapter_channels']}, {facts['depth']} blocks"
    )
    if model.card.plan is None:
        print_line("it has no plan, so masam predict cannot prepare scans for it: give --trained-on or --plan")


def _record(name: str, state: str) -> dict[str, Any]:
    """Return the entry of published weights and their state on this machine, as plain values."""
    from masam.weights.published import PUBLISHED, cache_folder
    from masam.weights.receipt import read_receipt

    entry = PUBLISHED[name]
    file = cache_folder() / entry.filename
    receipt = read_receipt(file)
    verified = {"sha256": receipt.sha256, "bytes": receipt.bytes} if receipt else {}
    return asdict(entry) | verified | {"on_this_machine": state, "path": str(file) if receipt else None}
