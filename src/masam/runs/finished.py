"""Whether an earlier run has finished an output, from the same sources and with the files still intact.

Records of finished outputs (``predictions.json``, ``conversion.jsonl``, ``cell.json``) hold one entry per output: facts
about its sources, and the SHA-256 of its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masam.errors import InputError
from masam.io.video.reader import video_sha256


def is_finished(entry: Mapping[str, Any] | None, sources: Mapping[str, Any], files: Mapping[str, Path]) -> bool:
    """Check whether an output is finished and would become the same again from its sources.

    ``files`` are files, or folders of frames, by the key of the entry that holds their SHA-256.
    """
    if entry is None or not sources.items() <= entry.items():
        return False
    try:
        return all(path.exists() and video_sha256(path) == entry.get(key) for key, path in files.items())
    except InputError:
        return False  # an empty or irregular file


def values_sha256(values: object) -> str:
    """Return the SHA-256 of values that JSON can hold, in hex; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
