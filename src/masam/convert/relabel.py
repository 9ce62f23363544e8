"""Change the values of label files: merge, remove or renumber classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masam.cases.folder import find_images
from masam.convert.products import Rule
from masam.errors import ConfigError, InputError
from masam.io.nifti.file import read_labels, write_volume
from masam.progress import Progress, Silent

Others = int | Literal["refuse", "keep"]
"""Treatment of a value that a mapping does not name: replaced by this value, refused, or kept."""

_VALUES = 2**16
_MOST_SHOWN = 8


def relabelled(
    values: NDArray[np.integer], mapping: Mapping[int, int], others: Others, where: object = None
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Map label values, 0 to 65535, to new values in the smallest type; errors name the file ``where``."""
    table = np.full(_VALUES, others, np.int32) if isinstance(others, int) else np.arange(_VALUES, dtype=np.int32)
    if others == "refuse":
        table[:] = -1
    table[list(mapping)] = list(mapping.values())
    mapped = table[values]
    if (unknown := mapped < 0).any():
        found, counts = np.unique(values[unknown], return_counts=True)
        listed = ", ".join(f"{v} ({n} voxels)" for v, n in zip(found[:_MOST_SHOWN], counts, strict=False))
        raise InputError(
            f"expected the label values {', '.join(map(str, sorted(mapping)))}, got {listed}",
            where=where,
            fix="download the file again",
        )
    return mapped.astype(np.uint8) if mapped.max() < 256 else mapped.astype(np.uint16)


def relabel_file(source: Path, target: Path, *, mapping: Mapping[int, int], others: Others = "refuse") -> None:
    """Write a NIfTI label file with new values, on the same grid, see :func:`relabelled`."""
    labels = read_labels(source)
    write_volume(target, labels.with_array(relabelled(np.asarray(labels.array, np.int32), mapping, others, source)))


def relabelling(mapping: Mapping[int, int], others: Others = "refuse") -> Rule:
    """Return the rule by which label files get new values."""
    changed = ", ".join(f"{old} to {new}" for old, new in sorted(mapping.items()) if old != new)
    description = f"labels: {changed or 'as they are'}; others: {others}"
    return Rule(description, partial(relabel_file, mapping=mapping, others=others))


def relabel_folder(
    source: Path, root: Path, mapping: Mapping[int, int], progress: Progress | None = None
) -> list[Path]:
    """Write ``root/CASE.nii.gz`` with new values for each label file of a folder, or for one file.

    Values that the mapping does not name are kept. Returns the files written.
    """
    if not mapping or not all(0 <= value < _VALUES for pair in mapping.items() for value in pair):
        raise ConfigError(f"expected at least one pair of values from 0 to {_VALUES - 1}, got {dict(mapping)}")
    if root.resolve() in (source.resolve(), source.resolve().parent):
        raise ConfigError("expected a folder other than the one of the files", where=root, fix="name a new folder")
    cases = find_images(source)
    progress = progress or Silent()
    progress.start("relabelling", len(cases))
    written = []
    for case in cases:
        if len(case.images) != 1:
            raise InputError(f"expected one label file, got {len(case.images)} channels", where=case.id)
        target = root / f"{case.id}.nii.gz"
        relabel_file(case.images[0], target, mapping=mapping, others="keep")
        written.append(target)
        progress.advance(case.id)
    return written
