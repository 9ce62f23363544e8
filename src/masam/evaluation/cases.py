"""Which prediction belongs to which reference: case ids from file names, and no case lost on the way.

A case is a volume, in a NIfTI file, a DICOM SEG or in memory, or a video, whose labels are a folder of PNG files, one a
frame.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from masam.errors import InputError, some_of
from masam.io import gate
from masam.io.video.label_frames import holds_colours, label_files
from masam.io.video.overlay import OVERLAY_ENDING
from masam.labels import LabelScheme
from masam.volume import Volume

Cases = str | Path | Sequence[str | Path] | Mapping[str, str | Path | Volume]
"""A folder of label files or of folders of label frames, a list of these, or case id to one or to a volume in memory.

A folder that holds label frames itself is one case.
"""

SUFFIXES = (".nii.gz", ".nii", ".dcm")
"""Endings of label files: NIfTI, and DICOM SEG."""

_ANY_OF = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def name_alike(predictions: Cases, references: Cases) -> tuple[Cases, Cases]:
    """Give two files, or two folders that hold label frames themselves, one case id, that of the reference.

    Args:
        predictions: Where the predictions are.
        references: Where the references are.

    Returns:
        Both by case id; or both as they are, if they are folders of cases, lists or mappings.

    Raises:
        InputError: The reference is a file, the prediction a folder.
        ResourceError: The system did not let us read.
    """
    if not (isinstance(predictions, str | Path) and isinstance(references, str | Path)):
        return predictions, references
    prediction, reference = Path(predictions), Path(references)
    if not reference.exists() or (reference.is_dir() and not (_is_video(prediction) and _is_video(reference))):
        return predictions, references
    if reference.is_file() and prediction.is_dir():
        raise InputError(f"{reference} is a file, so expected a file here too", where=prediction)
    # A file of another kind is refused by its reader, which names it.
    case = _case_id(reference) if reference.is_dir() or reference.name.endswith(SUFFIXES) else reference.name
    return {case: prediction}, {case: reference}


def collect_cases(source: Cases, role: str) -> dict[str, Path | Volume]:
    """Give every case its id: the file name without its ending of ``SUFFIXES``, or the name of the folder.

    Overlays that lie beside predicted label frames are no cases.

    Args:
        source: Where the label volumes or label frames are.
        role: "predictions" or "references", for messages.

    Returns:
        Case id to file, folder or volume, sorted by id.

    Raises:
        InputError: There is no case, a file is of another kind, volumes and videos are mixed, an id cannot be printed,
            or two ids differ in nothing but upper and lower case, Unicode form or suffix, so that the file system
            decides whether they are one.
        ResourceError: The system did not let us read.
    """
    if isinstance(source, Mapping):
        pairs = [(case, item if isinstance(item, Volume) else Path(item)) for case, item in source.items()]
    elif isinstance(source, str | Path):
        pairs = [(_case_id(path), path) for path in _cases_in(Path(source), role)]
    else:
        pairs = [(_case_id(Path(path)), Path(path)) for path in source]
    if not pairs:
        raise InputError(
            f"expected at least one {_ANY_OF} file, or folder of label frames, among the {role}, found none",
            where=source,
        )
    folders = [case for case, item in pairs if is_video(item)]
    if 0 < len(folders) < len(pairs):
        volume = next(case for case, item in pairs if not is_video(item))
        raise InputError(
            f"expected volumes or folders of label frames among the {role}, got both: volume {volume} and folder "
            f"{folders[0]}",
            where=source if isinstance(source, str | Path) else None,
            fix="keep them in folders of their own",
        )
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


def are_videos(predictions: Mapping[str, Path | Volume], references: Mapping[str, Path | Volume]) -> bool:
    """Say whether the cases are videos, on both sides.

    Raises:
        InputError: One side has volumes, the other label frames.
    """
    kinds = [any(is_video(item) for item in cases.values()) for cases in (predictions, references)]
    if kinds[0] != kinds[1]:
        said = ["folders of label frames" if kind else "volumes" for kind in kinds]
        raise InputError(
            f"the predictions are {said[0]}, the references {said[1]}", fix="give both sides as the same kind"
        )
    return kinds[0]


def is_video(item: Path | Volume) -> bool:
    """Say whether a case is the label frames of a video."""
    return isinstance(item, Path) and item.is_dir()


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


def require_known(values: Iterable[int], scheme: LabelScheme, where: object, *, ignore: bool) -> None:
    """Refuse label values that are not in the scheme.

    Args:
        values: Those that occur.
        scheme: The classes.
        where: File or case to name.
        ignore: Whether the value of voxels without a label may occur.

    Raises:
        InputError: One is not.
    """
    known = {label.value for label in scheme.labels}
    if ignore and scheme.ignore_value is not None:
        known.add(scheme.ignore_value)
    if unknown := [value for value in values if value not in known]:
        raise InputError(
            f"label value {', '.join(map(str, unknown[:8]))} is not in the label scheme (it knows {sorted(known)})",
            where=where,
            fix="correct the label file, or add the class to dataset.json",
        )


def _cases_in(folder: Path, role: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(
            f"expected a folder of {role}", where=folder, fix="give a folder that exists, or a list of files"
        )
    with gate.os_errors(folder):
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    volumes = [path for path in inside if path.name.endswith(SUFFIXES)]
    videos = [path for path in inside if path.is_dir() and label_files(path) and not _is_overlay(path)]
    # Pictures beside volumes are no label frames.
    if not volumes and label_files(folder):
        if videos:
            raise InputError(
                f"the folder holds label frames, and so does the folder {videos[0].name} in it",
                where=folder,
                fix="give the folder of one video, or one with nothing but such folders",
            )
        return [folder]
    return volumes + videos


def _is_video(path: Path) -> bool:
    """Say whether a path is a folder that holds label frames itself and no volumes."""
    if not path.is_dir() or not label_files(path):
        return False
    with gate.os_errors(path):
        return not any(file.name.endswith(SUFFIXES) for file in path.iterdir())


def _is_overlay(folder: Path) -> bool:
    """Say whether a folder lies beside the label frames of its case and holds pictures."""
    case = folder.name.removesuffix(OVERLAY_ENDING)
    if case == folder.name or not folder.with_name(case).is_dir():
        return False
    return holds_colours(next(iter(label_files(folder).values())))


def _case_id(path: Path) -> str:
    # A folder may be given as ".", whose own name says nothing. NFC: macOS spells an umlaut as two characters, and a
    # file written elsewhere as one.
    name = unicodedata.normalize("NFC", path.resolve().name if path.name in ("", "..") else path.name)
    if path.is_dir():
        return name
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    raise InputError(f"expected a {_ANY_OF} file", where=path)
