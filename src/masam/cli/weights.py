"""``masam weights``: weights that others publish, on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from masam.cli.console import listening, print_json, print_line, print_table
from masam.cli.options import Json, Quiet

Name = Annotated[str, typer.Argument(help="Name of published weights, such as sam-vit-b.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    weights = typer.Typer(
        name="weights",
        help="Get and check SAM weights that others publish.",
        epilog="Examples: masam weights list | masam weights get sam-vit-b",
        no_args_is_help=True,
    )
    weights.command("list", epilog="Example: masam weights list")(list_weights)
    weights.command("get", epilog="Example: masam weights get sam-vit-b")(get)
    weights.command("verify", epilog="Examples: masam weights verify | masam weights verify sam-vit-b")(verify)
    weights.command("path", epilog="Example: masam weights path sam-vit-b")(path)
    app.add_typer(weights)


def list_weights(json: Json = False) -> None:
    """Print the published weights, and which of them are on this machine."""
    from masam.published import PUBLISHED, cache_folder, state

    states = {name: state(name) for name in PUBLISHED}
    if json:
        print_json([_record(name, states[name]) for name in PUBLISHED])
        return
    rows: list[tuple[str, ...]] = [("name", "model", "file size", "licence", "on this machine", "source")]
    rows += [
        (name, entry.size, entry.file_size, entry.licence, states[name], entry.page)
        for name, entry in PUBLISHED.items()
    ]
    print_table(rows, title=f"Published weights; those on this machine are in {cache_folder()}")


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
    from masam import weights_cache

    with listening(quiet) as progress:
        file = weights_cache.get(name, progress=progress, offline=offline, sha256=sha256)
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
    """Hash downloaded weights again, and find those that have changed."""
    from masam import weights_cache
    from masam.published import cache_folder

    with listening(quiet) as progress:
        found = weights_cache.verify(names or (), progress=progress)
    if json:
        failed = {name: str(error) for name, error in found.failed.items()}
        print_json({"verified": found.verified, "failed": failed})
    elif not found.verified and not found.failed:
        print_line(f"no published weights in {cache_folder()}")
    else:
        for name, sha256 in found.verified.items():
            print_line(f"{name}: as published, SHA-256 {sha256}")
    found.raise_failures()


def path(name: Name) -> None:
    """Print where weights are, for scripts; exit code 3 if they are not on this machine."""
    from masam.published import require_cached

    print_line(str(require_cached(name)))


def _record(name: str, state: str) -> dict[str, Any]:
    """Return what is known of published weights, as plain values."""
    from masam.io.receipt import read_receipt
    from masam.published import PUBLISHED, cache_folder

    entry = PUBLISHED[name]
    file: Path = cache_folder() / entry.filename
    receipt = read_receipt(file)
    known = {"sha256": receipt.sha256, "bytes": receipt.bytes} if receipt else {}
    return asdict(entry) | known | {"on_this_machine": state, "path": str(file) if receipt else None}
