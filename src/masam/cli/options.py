"""Options that several commands share, and checks of the paths they are given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from masam.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from masam.cases.case import ReadOptions

Command = TypeVar("Command", bound=Callable[..., None])

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
# A string, not a Path: Path("./sam-vit-b") would drop the "./" that tells a file from a published name.
SamCheckpoint = Annotated[
    str | None,
    typer.Option(help="SAM weights, a file or a published name, if the model file does not contain the encoder."),
]
EmbedBase = Annotated[
    bool, typer.Option("--embed-base", help="Include the frozen encoder, so that the file needs no SAM weights.")
]
Licence = Annotated[
    str | None, typer.Option(help="Licence of the weights, such as CC-BY-4.0, to record in the output.")
]
PreferSform = Annotated[
    bool, typer.Option("--prefer-sform", help="Use the sform of NIfTI files whose sform and qform disagree.")
]
AssumeOrientation = Annotated[
    str | None, typer.Option(metavar="AXES", help="Axes of NIfTI files without sform and qform, such as RAS.")
]
NanFill = Annotated[
    float | None, typer.Option(metavar="VALUE", help="Value for voxels of NIfTI images that are NaN or infinite.")
]
Labels = Annotated[Path, typer.Option(help="Data set folder or its dataset.json.")]
Missing = Annotated[
    Literal["error", "worst"],
    typer.Option(help="Treat a case without a prediction as an error, or give it the worst scores."),
]


def read_options(prefer_sform: bool, assume_orientation: str | None, nan_fill: float | None) -> ReadOptions:
    """Return the given options of reading NIfTI files; those not given are absent."""
    options: ReadOptions = {}
    if prefer_sform:
        options["prefer_sform"] = True
    if assume_orientation is not None:
        options["assume_orientation"] = assume_orientation
    if nan_fill is not None:
        options["nan_fill"] = nan_fill
    return options


def epilog(*commands: str) -> str:
    """Return the end of a help text, with one example per line."""
    return "\n\n".join(["Examples:" if len(commands) > 1 else "Example:", *commands])


def examples(*commands: str) -> Callable[[Command], Command]:
    """Return a decorator that sets the epilog of a command to examples."""

    def decorate(command: Command) -> Command:
        vars(command)["epilog"] = epilog(*commands)
        return command

    return decorate


def require_ending(path: Path, *endings: str, option: str = "--out") -> None:
    """Check the extension of a file name."""
    if path.suffix not in endings:
        raise ConfigError(f"expected a name that ends in {' or '.join(endings)}, got {path.name}", where=option)


def require_writable(path: Path, option: str = "--out") -> None:
    """Check before the work starts that a file can be written."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        raise ResourceError("expected a file to write, got a folder", where=f"{option} {path}", fix="add a file name")
    try:
        # Permission bits do not tell whether root can write, for example to a read-only disk.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise ResourceError(
            f"cannot write to {parent} ({error.strerror})", where=f"{option} {path}", fix="choose a writable folder"
        ) from error


def require_new(path: Path, option: str = "--out") -> None:
    """Check before the work starts that a file or folder does not exist and can be written."""
    if path.exists() or path.is_symlink():
        raise ResourceError("the path already exists", where=f"{option} {path}", fix="choose another name or remove it")
    require_writable(path, option)


def labels_file(path: Path) -> Path:
    """Return the ``dataset.json`` of a data set folder, or the given file."""
    return path / "dataset.json" if path.is_dir() else path


def parse_settings(options: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Return the settings of a command line by key; ``a.b`` is key b of the group a.

    ``options`` are those of the command, None if not given; the texts ``KEY=VALUE`` of ``--set`` have priority.
    """
    import yaml

    settings = {key: value for key, value in options.items() if value is not None}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, got {assignment!r}", where="--set")
        try:
            settings[key.strip()] = parse_number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"expected a plain value for {key}, got {value!r}", where="--set") from error
    return settings


def parse_number(value: Any) -> Any:
    """Convert a text to a number if it is one; unlike YAML 1.1, accept 1e-4. Return other values unchanged."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            return kind(value)
    return value
