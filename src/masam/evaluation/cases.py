"""Cases to score: find them, pair predictions with references, and check that both are comparable.

A case is a volume (a NIfTI file, a DICOM SEG or a volume in memory) or a video (a folder with one PNG file of labels
per frame). Its id is the file name without the extension, or the folder name.
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
"""A folder of cases, a list of cases, or a mapping from case id to case.

A folder that directly contains label frames is a single case.
"""

SUFFIXES = (".nii.gz", ".nii", ".dcm")
"""Extensions of label files."""

_ANY_SUFFIX = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def pair_single_cases(predictions: Cases, references: Cases) -> tuple[Cases, Cases]:
    """Give two files, or two folders of label frames, the same case id; return other inputs unchanged.

    Raises InputError if the reference is a file, and the prediction is a folder.
    """
    if not (isinstance(predictions, str | Path) and isinstance(references, str | Path)):
        return predictions, references
    prediction, reference = Path(predictions), Path(references)
    are_videos = _is_single_video(prediction) and _is_single_video(reference)
    if not reference.exists() or (reference.is_dir() and not are_videos):
        return predictions, references
    if reference.is_file() and prediction.is_dir():
        raise InputError(f"expected a file, as the reference {reference} is a file, got a folder", where=prediction)
    # The reader refuses files of other formats, and names them.
    case = _case_id(reference) if reference.is_dir() or reference.name.endswith(SUFFIXES) else reference.name
    return {case: prediction}, {case: reference}


def collect_cases(source: Cases, role: str) -> dict[str, Path | Volume]:
    """Find all cases, without the overlays beside predicted label frames.

    Args:
        source: Location of the cases.
        role: "predictions" or "references", for messages.

    Returns:
        Mapping from case id to file, folder or volume, sorted by id.

    Raises:
        InputError: There is no case, a file has another format, volumes and videos are mixed, an id is not printable,
            or two ids differ only in case, Unicode normalisation or extension, which some file systems do not
            distinguish.
    """
    if isinstance(source, Mapping):
        pairs = [(case, item if isinstance(item, Volume) else Path(item)) for case, item in source.items()]
    else:
        paths = _cases_in(Path(source), role) if isinstance(source, str | Path) else [Path(path) for path in source]
        pairs = [(_case_id(path), path) for path in paths]
    if not pairs:
        raise InputError(
            f"expected at least one {_ANY_SUFFIX} file or folder of label frames among the {role}, found none",
            where=source,
        )
    videos = [case for case, item in pairs if is_video(item)]
    if 0 < len(videos) < len(pairs):
        volume = next(case for case, item in pairs if not is_video(item))
        raise InputError(
            f"expected volumes or folders of label frames among the {role}, got both: volume {volume} and folder "
            f"{videos[0]}",
            where=source if isinstance(source, str | Path) else None,
            fix="put them into separate folders",
        )
    names: dict[str, str] = {}
    for case, item in pairs:
        name = item.name if isinstance(item, Path) else case
        if not case.isprintable():
            # Line breaks and bytes that are not UTF-8 would corrupt tables and reports.
            raise InputError(f"the case id {case!r} contains unprintable characters", fix="rename the file")
        key = unicodedata.normalize("NFC", case).casefold()
        if key in names:
            raise InputError(f"{role} {names[key]!r} and {name!r} have the same case id", fix="rename or remove one")
        names[key] = name
    return dict(sorted(pairs, key=lambda pair: pair[0]))


def pair_cases(
    predictions: Mapping[str, Path | Volume],
    references: Mapping[str, Path | Volume],
    *,
    allow_missing: bool,
    allow_extra: bool,
) -> tuple[str, ...]:
    """Return the ids of the references without a prediction.

    Raises InputError if a prediction is missing or has no reference, and this is not allowed.
    """
    missing = [case for case in references if case not in predictions]
    extra = [case for case in predictions if case not in references]
    if extra and not allow_extra:
        raise InputError(
            f"{len(extra)} of {len(predictions)} predictions have no reference: {some_of(extra, 8)}",
            fix="add their references, or skip these predictions with extra=ignore",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(references)} cases have no prediction: {some_of(missing, 8)}",
            fix="predict them, or count each as a total failure with missing=worst",
        )
    return tuple(missing)


def are_videos(predictions: Mapping[str, Path | Volume], references: Mapping[str, Path | Volume]) -> bool:
    """Return whether the cases are videos; raise InputError if only the predictions or only the references are."""
    kinds = [any(is_video(item) for item in cases.values()) for cases in (predictions, references)]
    if kinds[0] != kinds[1]:
        names = ["folders of label frames" if kind else "volumes" for kind in kinds]
        raise InputError(
            f"the predictions are {names[0]}, the references are {names[1]}", fix="provide both in the same form"
        )
    return kinds[0]


def is_video(item: Path | Volume) -> bool:
    """Return whether a case is the label frames of a video."""
    return isinstance(item, Path) and item.is_dir()


def load_labels(items: Sequence[Path | Volume], case: str, scheme: LabelScheme) -> list[Volume]:
    """Return the label volumes of a case, reading files where necessary; raise InputError if values are not integers.

    A DICOM SEG, whose segments are identified by class names, is placed on the grid of the first item that is not one.
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
    """Raise InputError, for the file or case ``where``, if a prediction is not on the voxel grid of its reference."""
    fix = "score predictions on the grid of the reference (predict from the same image, do not resample)"
    if prediction.shape != reference.shape:
        raise InputError(
            f"the prediction has shape {prediction.shape}, its reference {reference.shape}", where=where, fix=fix
        )
    if not reference.geometry.matches(prediction.geometry, reference.shape):
        grids = [
            f"spacing {np.round(grid.spacing_mm, 4).tolist()} mm, affine {np.round(grid.affine[:3], 4).tolist()}"
            for grid in (prediction.geometry, reference.geometry)
        ]
        raise InputError(
            f"the geometry of the prediction differs from its reference: {grids[0]} instead of {grids[1]}",
            where=where,
            fix=fix,
        )


def require_known_values(values: Iterable[int], scheme: LabelScheme, where: object, *, ignore: bool) -> None:
    """Raise InputError, for the file or case ``where``, if a value does not belong to the scheme.

    The ignore value of the scheme is accepted if ``ignore``.
    """
    known = {label.value for label in scheme.labels}
    if ignore and scheme.ignore_value is not None:
        known.add(scheme.ignore_value)
    if unknown := [value for value in values if value not in known]:
        raise InputError(
            f"expected label values of the label scheme, {sorted(known)}, got {', '.join(map(str, unknown[:8]))}",
            where=where,
            fix="correct the label file, or add the class to dataset.json",
        )


def _cases_in(folder: Path, role: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"expected a folder of {role}", where=folder, fix="check the path, or give a list of files")
    with gate.os_errors(folder):
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    volumes = [path for path in inside if path.name.endswith(SUFFIXES)]
    videos = [path for path in inside if path.is_dir() and label_files(path) and not _is_overlay(path)]
    # PNG files beside volumes are not label frames.
    if not volumes and label_files(folder):
        if videos:
            raise InputError(
                f"the folder and its subfolder {videos[0].name} both contain label frames",
                where=folder,
                fix="give the folder of one video, or a folder that contains one folder per video",
            )
        return [folder]
    return volumes + videos


def _is_single_video(path: Path) -> bool:
    """Return whether a path is a folder that directly contains label frames and no volumes."""
    if not path.is_dir() or not label_files(path):
        return False
    with gate.os_errors(path):
        return not any(file.name.endswith(SUFFIXES) for file in path.iterdir())


def _is_overlay(folder: Path) -> bool:
    """Return whether a folder contains the overlays of a case whose label frames are beside it."""
    case = folder.name.removesuffix(OVERLAY_ENDING)
    if case == folder.name or not folder.with_name(case).is_dir():
        return False
    return holds_colours(next(iter(label_files(folder).values())))


def _case_id(path: Path) -> str:
    # The name of "." is empty. NFC, because macOS stores an umlaut as two characters and other systems as one.
    name = unicodedata.normalize("NFC", path.resolve().name if path.name in ("", "..") else path.name)
    if path.is_dir():
        return name
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    raise InputError(f"expected a {_ANY_SUFFIX} file", where=path)
