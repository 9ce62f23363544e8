"""File names of data sets: endings, case ids and channel numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from masam.io import gate
from masam.io.nifti.file import ENDINGS

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
"""Name of a single-channel file in nnU-Net's layout, without its ending."""


def visible_entries(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder without hidden ones (macOS's ``._*`` included); empty without a folder."""
    with gate.os_errors(folder):
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if not entry.name.startswith(".")]


def list_files(folder: Path, endings: Collection[str] = ENDINGS) -> list[Path]:
    """Return the visible files of a folder that have one of these endings, sorted."""
    return [path for path in visible_entries(folder) if stem_of(path, endings) and not path.is_dir()]


def normal_name(path: Path) -> str:
    """Return the name of a path in NFC form; macOS stores an umlaut as two characters, other systems as one."""
    return unicodedata.normalize("NFC", path.name)


def stem_of(path: Path, endings: Collection[str] = ENDINGS) -> str:
    """Return the file name without its ending, or an empty string if it has none of the endings."""
    name = normal_name(path)
    return next((name[: -len(ending)] for ending in endings if name.lower().endswith(ending)), "")


def split_channel(stem: str, stems: Collection[str]) -> tuple[str, int]:
    """Return case id and channel of a file name without ending, in which the channel is optional.

    ``CASE_0000`` is channel 0 of CASE. Another number is a channel only if ``CASE_0000`` is one of the ``stems`` of the
    folder; otherwise it is part of the case id.
    """
    match = CHANNEL.fullmatch(stem)
    if match and f"{match['case']}_0000" in stems:
        return match["case"], int(match["channel"])
    return stem, 0
