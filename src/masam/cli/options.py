"""Options that several commands share, each described once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from masam.errors import ConfigError, ResourceError

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
# Text, not a path: Path("./sam-vit-b") would lose what tells a file from the published weights of that name.
SamCheckpoint = Annotated[
    str | None,
    typer.Option(help="SAM's weights, where the model's file does not hold the encoder: a file or a published name."),
]

EmbedBase = Annotated[
    bool, typer.Option("--embed-base", help="Put the frozen encoder into the file, so that it stands alone.")
]

Licence = Annotated[str | None, typer.Option(help="Terms of the weights, such as CC-BY-4.0, noted in what is written.")]


def require_ending(path: Path, *endings: str, option: str = "--out") -> None:
    """Refuse a file name whose ending is not of its format.

    Raises:
        ConfigError: It ends otherwise.
    """
    if path.suffix not in endings:
        raise ConfigError(f"expected a name that ends in {' or '.join(endings)}, got {path.name}", where=option)


def require_writable(path: Path, option: str = "--out") -> None:
    """Refuse, before the work, a file that could not be written after it.

    Raises:
        ResourceError: There is a folder of that name, or its own folder cannot be made or written to.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        raise ResourceError("expected a file to write, got a folder", where=f"{option} {path}", fix="add a file name")
    try:
        # Tried, not asked: root may write everywhere by its mode, and yet not to a read-only disk.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ResourceError(
            f"cannot write to {parent} ({error.strerror})",
            where=f"{option} {path}",
            fix="choose a place you may write to",
        ) from error


def require_new(path: Path, option: str = "--out") -> None:
    """Refuse, before the work, a file or folder that is there already or could not be written after it.

    Raises:
        ResourceError: There is something of that name, or its folder cannot be made or written to.
    """
    if path.exists() or path.is_symlink():
        raise ResourceError(
            "there is something of that name already",
            where=f"{option} {path}",
            fix="choose another name, or remove it",
        )
    require_writable(path, option)


def labels_file(path: Path) -> Path:
    """Return the ``dataset.json`` that is meant: the file itself, or the one of a data set folder."""
    return path / "dataset.json" if path.is_dir() else path
