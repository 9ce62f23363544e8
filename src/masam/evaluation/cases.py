"""Which prediction belongs to which reference: case ids from file names, and no case lost on the way."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from masam.errors import InputError, some_of
from masam.labels import LabelScheme
from masam.volume import Volume

Cases = str | Path | Sequence[str | Path] | Mapping[str, str | Path | Volume]
"""A folder of label files, a list of them, or case id to file or volume in memory."""

SUFFIXES = (".nii.gz", ".nii", ".dcm")
"""Endings of label files: NIfTI, and DICOM SEG."""

_ANY_OF = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def collect_cases(source: Cases, role: str) -> dict[str, Path | Volume]:
    """Give every case its id, the file name without ``.nii.gz``, ``.nii`` or ``.dcm``.

    Args:
        source: Where the label volumes are.
        role: "predictions" or "references", for messages.

    Returns:
        Case id to file or volume, sorted by id.

    Raises:
        InputError: There is no case, a file is of another kind, an id cannot be printed, or two ids differ in nothing
            but upper and lower case, Unicode form or suffix, so that the file system decides whether they are one.
    """
    if isinstance(source, Mapping):
        pairs = [(case, item if isinstance(item, Volume) else Path(item)) for case, item in source.items()]
    elif isinstance(source, str | Path):
        pairs = [(_case_id(path), path) for path in _files_in(Path(source), role)]
    else:
        pairs = [(_case_id(Path(path)), Path(path)) for path in source]
    if not pairs:
        raise InputError(f"expected at least one {_ANY_OF} file among the {role}, found none", where=source)
    known: dict[str, str] = {}
    for case, item in pairs:
        name = item.name if isinstance(item, Path) else case
        if not case.isprintable():
            # Line breaks, and bytes that are not UTF-8, which no table or report could hold.
            raise InputError(f"the case id {case!r} holds characters that cannot be printed", fix="rename the file")
        key = unicodedata.normalize("NFC", case).casefold()
        if key in known:
            raise InputError(
                f"{role} {known[key]!r} and {name!r} have the same case id", fix="rename one of them or remove it"
            )
        known[key] = name
    return dict(sorted(pairs, key=lambda pair: pair[0]))


def pair_cases(
    predictions: Mapping[str, Path | Volume],
    references: Mapping[str, Path | Volume],
    *,
    allow_missing: bool,
    allow_extra: bool,
) -> tuple[str, ...]:
    """Check that every reference has its prediction.

    Args:
        predictions: Case id to prediction.
        references: Case id to reference.
        allow_missing: Whether a reference may be without a prediction.
        allow_extra: Whether a prediction may be without a reference.

    Returns:
        Ids of the references without a prediction.

    Raises:
        InputError: A prediction is missing or left over and that is not allowed.
    """
    missing = [case for case in references if case not in predictions]
    extra = [case for case in predictions if case not in references]
    if extra and not allow_extra:
        raise InputError(
            f"{len(extra)} of {len(predictions)} predictions have no reference: {some_of(extra, 8)}",
            fix="give their references, or ignore them with extra=ignore",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(references)} cases have no prediction: {some_of(missing, 8)}",
            fix="predict them, or count each as a total failure with missing=worst",
        )
    return tuple(missing)


def load_labels(items: Sequence[Path | Volume], case: str, scheme: LabelScheme) -> list[Volume]:
    """Return the label volumes of a case, read from their files where they are files.

    Args:
        items: Files or volumes. A DICOM SEG is put on the grid of the first that is none.
        case: The case's id, to name in an error.
        scheme: Classes by whose names the segments of a SEG are known.

    Raises:
        InputError: A file is refused, or the values are not whole numbers.
    """
    volumes = [item for item in items if isinstance(item, Volume)]
    for volume in volumes:
        if not (np.issubdtype(volume.array.dtype, np.integer) or volume.array.dtype == np.bool_):
            raise InputError(f"expected label values of an integer type, got {volume.array.dtype}", where=case)
    files = [item for item in items if not isinstance(item, Volume)]
    if not files:
        return volumes
    from masam.io.images import read_label_files

    read = iter(read_label_files(files, scheme, volumes[0] if volumes else None))
    return [item if isinstance(item, Volume) else next(read) for item in items]


def check_same_grid(prediction: Volume, reference: Volume, where: object) -> None:
    """Refuse a prediction whose voxels lie elsewhere than the reference's.

    Args:
        prediction: Labels to score.
        reference: Labels to score against.
        where: File or case to name.

    Raises:
        InputError: Shape or geometry differ; the message holds both.
    """
    fix = "score predictions on the grid of the reference (predict from the same image, do not resample)"
    if prediction.shape != reference.shape:
        raise InputError(
            f"the prediction has shape {prediction.shape}, its reference {reference.shape}", where=where, fix=fix
        )
    if not reference.geometry.matches(prediction.geometry, reference.shape):
        both = [
            f"spacing {np.round(grid.spacing_mm, 4).tolist()} mm, affine {np.round(grid.affine[:3], 4).tolist()}"
            for grid in (prediction.geometry, reference.geometry)
        ]
        raise InputError(
            f"the prediction lies elsewhere than its reference: {both[0]} against {both[1]}", where=where, fix=fix
        )


def _files_in(folder: Path, role: str) -> Iterable[Path]:
    if not folder.is_dir():
        raise InputError(
            f"expected a folder of {role}", where=folder, fix="give a folder that exists, or a list of files"
        )
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))


def _case_id(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    raise InputError(f"expected a {_ANY_OF} file", where=path)
