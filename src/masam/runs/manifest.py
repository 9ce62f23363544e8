"""Record how a result was made: versions, commit, command and times, without user, host or patient."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np

import masam
from masam.atomic import write_text

LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "pydantic", "safetensors", "matplotlib")
"""Libraries that can affect a result; those not installed are omitted."""

_GIT_SECONDS = 5


def build_manifest(kind: str, *, started: datetime | None = None, **facts: Any) -> dict[str, Any]:
    """Return a record of how a result is made, as values that JSON can hold; numbers that are not finite are None.

    Paths in the command and the facts keep only their last part, because folders may name users and machines.

    Args:
        kind: Name of the work, such as "train" or "predict".
        started: Start time with a time zone, by default now.
        facts: Further facts (seed, settings, device, counts): text, numbers, paths, times, lists and mappings of these,
            without names of patients.
    """
    now = datetime.now(UTC)
    return {
        "kind": kind,
        "masam": masam.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "libraries": _libraries(),
        "git": _git(),
        "started_utc": _utc(started or now),
        "finished_utc": _utc(now),
        "command": [_without_folders(argument) for argument in sys.argv],
        **{name: _plain(value) for name, value in facts.items()},
    }


def write_manifest(path: Path | str, manifest: Mapping[str, Any]) -> None:
    """Write a manifest of :func:`build_manifest`, perhaps with further values, as JSON."""
    write_text(Path(path), json.dumps(_plain(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _cpu() -> str | None:
    """Return the processor model according to Linux, or else according to Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None) or (
        platform.processor() or None
    )


def _libraries() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any] | None:
    """Return commit and state of the working tree that masam runs from; None for an installed package."""
    source = Path(__file__).resolve()
    # A package installed inside another repository must not report that repository's commit.
    if _run_git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _run_git(source.parent, "rev-parse", "HEAD")
    changes = _run_git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "changed": bool(changes)}


def _run_git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_folders(text: str) -> str:
    """Return an argument of a command without its folders; ``--option=path`` keeps the option."""
    option, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    if "/" not in value and "\\" not in value:
        return text
    home = Path(value) == Path.home()  # whose last part is the name of the user
    return f"{option}{equals}{'~' if home else PurePath(value.replace(chr(92), '/')).name or '/'}"


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case np.generic():
            return _plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case PurePath():
            return _without_folders(str(value))
        case datetime():
            return _utc(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
        case _:
            return str(value)
