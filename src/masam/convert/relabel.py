"""Other numbers for the classes of label files: merging, leaving out, renumbering."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, InputError
from masam.progress import Progress, Silent

Others = int | Literal["refuse", "keep"]
"""What becomes of a value that a mapping does not name: this value, an error, or itself."""

_VALUES = 2**16
_MOST_SHOWN = 8


def relabelled(
    values: NDArray[np.integer], mapping: Mapping[int, int], others: Others, where: object = None
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Give label values other numbers.

    Args:
        values: Whole numbers from 0 to 65535, of any shape.
        mapping: New value by old value.
        others: What becomes of all other values.
        where: File to name in an error.

    Returns:
        The same shape, in the smallest type.

    Raises:
        InputError: There is a value that the mapping does not name, and others are refused.
    """
    table = np.full(_VALUES, others, np.int32) if isinstance(others, int) else np.arange(_VALUES, dtype=np.int32)
    if others == "refuse":
        table[:] = -1
    for old, new in mapping.items():
        table[old] = new
    mapped = table[values]
    if (unknown := mapped < 0).any():
        found, counts = np.unique(values[unknown], return_counts=True)
        listed = ", ".join(f"{v} ({n} voxels)" for v, n in zip(found[:_MOST_SHOWN], counts, strict=False))
        raise InputError(
            f"expected the label values {', '.join(map(str, sorted(mapping)))}, got {listed}",
            where=where,
            fix="download the file again",
        )
    smallest: NDArray[np.uint8] | NDArray[np.uint16] = mapped.astype(np.uint8 if mapped.max() < 256 else np.uint16)
    return smallest


def relabel_file(source: Path, target: Path, *, mapping: Mapping[int, int], others: Others = "refuse") -> None:
    """Write a label file with other numbers, on the same grid.

    Args:
        source: NIfTI file of labels.
        target: NIfTI file to write.
        mapping: New value by old value.
        others: What becomes of all other values.

    Raises:
        InputError: The file is refused, or holds a value that is not expected.
        ResourceError: A file cannot be read or written.
    """
    from masam.io.nifti.file import read_labels, write_volume

    labels = read_labels(source)
    write_volume(target, labels.with_array(relabelled(np.asarray(labels.array, np.int32), mapping, others, source)))


def rule_of(mapping: Mapping[int, int], others: Others) -> str:
    """Say in words what becomes of label values."""
    changed = ", ".join(f"{old} to {new}" for old, new in sorted(mapping.items()) if old != new)
    return f"labels: {changed or 'as they are'}; others: {others}"


def rewriting(mapping: Mapping[int, int], others: Others = "refuse") -> tuple[str, partial[None]]:
    """Return the rule in words, and the function that writes a label file by it."""
    return rule_of(mapping, others), partial(relabel_file, mapping=mapping, others=others)


def relabel_folder(
    source: Path, root: Path, mapping: Mapping[int, int], progress: Progress | None = None
) -> list[Path]:
    """Write label files with other numbers: ``CASE.nii.gz`` for each, values that are not named as they are.

    Args:
        source: Folder of label files, or one file.
        root: Folder to write to.
        mapping: New value by old value.
        progress: Told of every file.

    Returns:
        The files.

    Raises:
        ConfigError: The mapping is empty or a value is not one, or the folder is the source itself.
        InputError: A file is refused.
        ResourceError: A file cannot be read or written.
    """
    from masam.cases.folder import find_images

    if not mapping or not all(0 <= value < _VALUES for pair in mapping.items() for value in pair):
        raise ConfigError(f"expected at least one pair of values from 0 to {_VALUES - 1}, got {dict(mapping)}")
    if root.resolve() in (source.resolve(), source.resolve().parent):
        raise ConfigError("expected another folder than that of the files", where=root, fix="name a new folder")
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
