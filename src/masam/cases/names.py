"""From the names of files to cases: endings, channel numbers, and names that some systems take for one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from masam.cases.case import Case
from masam.errors import InputError
from masam.io import gate
from masam.io.nifti.file import ENDINGS

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
"""How nnU-Net names the file of one channel."""


def list_files(folder: Path, endings: Collection[str] = ENDINGS) -> list[Path]:
    """Return the files of a folder, sorted; none if there is no such folder. Hidden files do not count.

    Args:
        folder: Where to look.
        endings: Those of the files that are meant.

    Raises:
        ResourceError: The system did not let us read.
    """
    if not folder.is_dir():
        return []
    with gate.os_errors(folder):
        return sorted(
            path
            for path in folder.iterdir()
            if stem_of(path, endings) and not path.name.startswith(".") and not path.is_dir()
        )


def stem_of(path: Path, endings: Collection[str] = ENDINGS) -> str:
    """Return the name without its ending, or nothing if it has another one."""
    # NFC: macOS spells an umlaut as two characters, and a label written elsewhere as one.
    name = unicodedata.normalize("NFC", path.name)
    for ending in endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return ""


def split_channel(stem: str, stems: Collection[str]) -> tuple[str, int]:
    """Return case and channel of a name that may do without a channel.

    ``CASE_0000`` is channel 0 of CASE. Another number is a channel only beside such a name, otherwise part of the
    case's name.

    Args:
        stem: Name without its ending.
        stems: All such names of the folder.
    """
    match = CHANNEL.fullmatch(stem)
    if match and f"{match['case']}_0000" in stems:
        return match["case"], int(match["channel"])
    return stem, 0


def group_cases(found: Iterable[tuple[str, int, Path]], *, where: object, channels: int | None) -> tuple[Case, ...]:
    """Gather files into cases, sorted by id.

    Args:
        found: Case id, channel and file, in any order.
        where: Folder to name in an error.
        channels: Channels of a case; None accepts any number.

    Raises:
        InputError: Two files are one channel, two ids are one on some systems, or a channel is missing or surplus.
    """
    groups: dict[str, dict[int, Path]] = {}
    spelling: dict[str, tuple[str, Path]] = {}
    for case_id, channel, file in found:
        first_id, first = spelling.setdefault(case_id.casefold(), (case_id, file))
        group = groups.setdefault(case_id, {})
        if first_id != case_id or channel in group:
            raise InputError(
                f"{group.get(channel, first).name} and {file.name} are one case on some systems or by id",
                where=where,
                fix="rename or remove one",
            )
        group[channel] = file
    for case_id, group in groups.items():
        wanted = range(channels or max(group) + 1)
        if missing := set(wanted) - set(group):
            raise InputError(f"case {case_id} has no channel {min(missing):04d}", where=where, fix="add the file")
        if further := set(group) - set(wanted):
            raise InputError(
                f"case {case_id} has a channel {min(further):04d}, dataset.json has {channels}", where=where
            )
    return tuple(Case(i, tuple(groups[i][c] for c in sorted(groups[i]))) for i in sorted(groups))
