"""Reading a scan that the user gives to a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from masam.cases.folder import Case, load_case
from masam.predict.requirements import match_channels, require_channels, require_modality
from masam.preprocess.plan import Plan
from masam.volume import Volume

Scan = Volume | str | Path | Sequence[str | Path]
"""A volume, a file, or one file per channel."""


def read_scan(plan: Plan, scan: Scan) -> Volume:
    """Return the volume of a scan, read from its files if necessary.

    Args:
        plan: Plan of the model.
        scan: A volume, a file, or one file per channel.

    Raises:
        InputError: The file or its content is refused, or the number of channels is not the model's.
        ModelError: The model is for videos.
    """
    require_modality(plan, is_video=False, what="a volume")
    if not isinstance(scan, Volume):
        paths = tuple(Path(path) for path in ([scan] if isinstance(scan, str | Path) else scan))
        scan, _ = load_case(match_channels(plan, Case(paths[0].name, paths), where=paths[0]))
    require_channels(plan, scan.channels)
    return scan
