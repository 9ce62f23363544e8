"""``masam weights``: weights that others publish, on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import EmbedBase, Json, Licence, Quiet, require_ending, require_writable

Name = Annotated[str, typer.Argument(help="Name of published weights, such as sam-vit-b.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    weights = typer.Typer(
        name="weights",
        help="Get and check SAM weights that others publish, and import official MA-SAM models.",
        epilog="Examples: masam weights list | masam weights get sam-vit-b",
        no_args_is_help=True,
    )
    weights.command("list", epilog="Example: masam weights list")(list_weights)
    weights.command("get", epilog="Example: masam weights get sam-vit-b")(get)
    weights.command("verify", epilog="Examples: masam weights verify | masam weights verify sam-vit-b")(verify)
    weights.command("path", epilog="Example: masam weights path sam-vit-b")(path)
    weights.command(
        "import",
        epilog="Example: masam weights import --sam sam-vit-h --adapter epoch_159.pth --trained-on btcv "
        "--out btcv.safetensors",
    )(import_reference)
    app.add_typer(weights)


def list_weights(json: Json = False) -> None:
    """Print the weights that have a name, and which of them are on this machine."""
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
    print_table(rows, title=f"Weights by name; those that were downloaded are in {cache_folder()}")


def get(
    name: Name,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network: only what is on this machine.")] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="Expected SHA-256, where the host states none.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download weights, verify them, and print where they are. What is there already is not downloaded again."""
    from masam.weights import cache

    with listening(quiet) as progress:
        file = cache.get(name, progress=progress, offline=offline, sha256=sha256)
    if json:
        print_json(_record(name, "yes"))
    else:
        print_line(str(file))


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of published weights; all on this machine without.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hash the weights on this machine again, and find those that have changed."""
    from masam.weights import cache

    with listening(quiet) as progress:
        found = cache.verify(names or (), progress=progress)
    if json:
        failed = {name: str(error) for name, error in found.failed.items()}
        print_json({"verified": found.verified, "failed": failed})
    else:
        for name, sha256 in found.verified.items():
            print_line(f"{name}: as published, SHA-256 {sha256}")
    found.raise_failures()


def path(name: Name) -> None:
    """Print where weights are, for scripts; exit code 3 if they are not on this machine."""
    from masam.weights.published import require_cached

    print_line(str(require_cached(name)))


def import_reference(
    sam: Annotated[str, typer.Option(help="SAM's weights of the adapter's backbone: a file or a published name.")],
    adapter: Annotated[Path, typer.Option(help="The official MA-SAM's epoch_N.pth, automatic or box variant.")],
    out: Annotated[Path, typer.Option(help="Model file to write, .safetensors.")],
    trained_on: Annotated[
        Literal["btcv", "prostate", "pancreas"] | None,
        typer.Option(help="Classes and preparation as in the official programs."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan of your own in their place.")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the input in pixels that it was trained with.")] = 512,
    fact_scale: Annotated[float, typer.Option(help="Factor of FacT that it was trained with.")] = 1.0,
    licence: Licence = None,
    embed_base: EmbedBase = False,
    json: Json = False,
) -> None:
    """Turn an official MA-SAM model into one of masam's; every number but two is read off its tensors."""
    from masam.errors import ConfigError
    from masam.export.identify import identify
    from masam.preprocess.plan import Plan
    from masam.weights.model_file import save
    from masam.weights.official import import_reference as import_model

    require_ending(out, ".safetensors")
    require_writable(out)
    if plan is not None and trained_on is not None:
        raise ConfigError("the two say the same; give one of them", where="--plan and --trained-on")
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
        print_line("it carries no plan, so masam predict cannot prepare scans for it: give --trained-on or --plan")


def _record(name: str, state: str) -> dict[str, Any]:
    """Return what is known of published weights, as plain values."""
    from masam.weights.published import PUBLISHED, cache_folder
    from masam.weights.receipt import read_receipt

    entry = PUBLISHED[name]
    file: Path = cache_folder() / entry.filename
    receipt = read_receipt(file)
    known = {"sha256": receipt.sha256, "bytes": receipt.bytes} if receipt else {}
    return asdict(entry) | known | {"on_this_machine": state, "path": str(file) if receipt else None}
