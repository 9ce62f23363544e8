"""Data set folders: which files are a case, in the nnU-Net v2 and in the MSD layout.

nnU-Net v2: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz`` (one file a channel), ``labelsTr/CASE.nii.gz``, the same
with ``Ts`` for testing (labels optional). MSD: a ``dataset.json`` that lists the files itself. Hidden files (macOS's
``._*`` among them) are never data. Data sets of videos are those of :mod:`masam.io.video_cases`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import numpy as np

from masam.errors import InputError, some_of
from masam.io import gate
from masam.io.case import ENDINGS, Case
from masam.io.images import SEG_ENDING, find_dicom, read_image, read_label_image, require_same_grid
from masam.io.splits import Split, make_splits, read_splits, write_splits
from masam.io.video import is_video
from masam.io.video_cases import is_video_ending, read_video_cases
from masam.labels import LabelScheme
from masam.volume import Volume

__all__ = [
    "CHANNEL", "ENDINGS", "Case", "CaseFolder", "Split", "channel_names", "find_images", "list_nifti", "load_case",
    "make_splits", "read_dataset", "read_splits", "stem_of", "write_splits",
]  # fmt: skip

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
"""How nnU-Net names the file of one channel."""


class _Transform(TypedDict):
    """How the transform of a NIfTI file is read."""

    prefer_sform: bool
    assume_orientation: str | None


@dataclass(frozen=True)
class CaseFolder:
    """A data set.

    Attributes:
        root: Its folder.
        name: Its name.
        channel_names: What each channel shows, such as ``("CT",)``.
        labels: Its classes.
        training: Cases with a label, sorted by id.
        test: Cases for testing, sorted by id; with or without a label.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: LabelScheme
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def read_dataset(root: Path) -> CaseFolder:
    """Read what a data set folder holds; voxels are not looked at.

    Args:
        root: Folder with a ``dataset.json`` of nnU-Net v2 or of MSD.

    Raises:
        InputError: The file or a key is missing or wrong, files do not pair up, ids repeat, or there is no case.
        ResourceError: The system did not let us read.
    """
    file = root / "dataset.json"
    with gate.system_border(root):
        if not file.exists():
            raise InputError("expected a data set folder with a dataset.json", where=root, fix="check the path")
    content = gate.read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"expected a mapping, got {type(content).__name__}", where=file)
    is_msd = "training" in content
    channels = channel_names(_key(content, "modality" if is_msd else "channel_names", file), file)
    labels = LabelScheme.from_mapping(_key(content, "labels", file), where=f"{file}: labels")
    if is_msd:
        training, test = _msd_cases(root, content, labels, file)
    elif is_video_ending(content.get("file_ending")):
        training, test = read_video_cases(root, content, channels, file)
    else:
        training, test = _nnunet_cases(root, content, len(channels), file)
    if not training and not test:
        raise InputError("no case found", where=root, fix="check imagesTr, imagesTs and the lists in dataset.json")
    return CaseFolder(root, str(content.get("name", root.name)), channels, labels, training, test)


def find_images(path: Path, series: str | None = None) -> tuple[Case, ...]:
    """Find images to predict on.

    ``CASE_0000.nii.gz`` is channel 0 of CASE. Another number is a channel only beside such a file, otherwise part of
    the name: ``amos_0007.nii.gz`` alone is case amos_0007. Without NIfTI files, a folder is searched for DICOM; see
    :func:`masam.io.images.find_dicom`.

    Args:
        path: One image, or a folder of images (not of folders, but for DICOM).
        series: Which DICOM series, where there are several.

    Returns:
        Cases without labels, sorted by id.

    Raises:
        InputError: There is nothing of the kind, ids repeat, or a channel is missing.
        ConfigError: None or several are chosen by ``series``.
        ResourceError: The system did not let us read.
    """
    with gate.system_border(path):
        files = list_nifti(path) if path.is_dir() else [path]
        if not path.exists():
            raise InputError("expected an image or a folder of images, got nothing", where=path)
        if not (files and stem_of(files[0])) and (scans := find_dicom(path, series)):
            _group([(name, 0, image) for name, image, _ in scans], where=path, channels=1)
            return tuple(Case(name, (image,), series=chosen) for name, image, chosen in scans)
        if not files:
            inside = [path / name for name in ("imagesTs", "imagesTr") if (path / name).is_dir()]
            fix = f"did you mean {inside[0]}?" if inside else "check the path"
            raise InputError("no .nii or .nii.gz file in this folder and no DICOM", where=path, fix=fix)
        if not stem_of(files[0]):
            raise InputError(
                "expected a name that ends in .nii or .nii.gz, or DICOM", where=path, fix="convert it to NIfTI"
            )
    stems = {stem_of(file) for file in files}
    found = []
    for file in files:
        match = CHANNEL.fullmatch(stem_of(file))
        if match and f"{match['case']}_0000" in stems:
            found.append((match["case"], int(match["channel"]), file))
        else:
            found.append((stem_of(file), 0, file))
    return _group(found, where=path, channels=None)


def load_case(
    case: Case,
    *,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
    nan_fill: float | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Volume, Volume | None]:
    """Read the image of a case and its label, if it has one, and check that all lies on one grid.

    Args:
        case: The case.
        prefer_sform: See :func:`masam.io.nifti.read_volume`, as for the other arguments.
        assume_orientation: Letters such as ``"RAS"`` for files without any transform.
        nan_fill: Value for image voxels that are not finite.
        say: Told, a line each, what the user should know of the image.

    Returns:
        Image (float32, with a fourth axis if there are several channels) and label (int32) or None.

    Raises:
        InputError: A file is refused, or label or a further channel differ from the image in shape or place.
        ConfigError: An argument is out of its range.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    transform: _Transform = {"prefer_sform": prefer_sform, "assume_orientation": assume_orientation}
    first, *others = case.images
    if is_video(first):
        raise InputError("expected a volume, got a video", where=first, fix="use load_video_case")
    image = read_image(first, series=case.series, say=say, nan_fill=nan_fill, **transform)
    if others:
        with gate.system_border(first):
            # Channel after channel in memory, each as its file has it.
            array = np.empty((*image.shape, len(case.images)), image.array.dtype, order="F")
        array[..., 0] = image.array
        for index, path in enumerate(others, start=1):
            channel = read_image(path, say=say, nan_fill=nan_fill, **transform)
            require_same_grid("channel", channel, path, image, first)
            array[..., index] = channel.array
        image = Volume(array, image.geometry)
    if case.label is None:
        return image, None
    label = read_label_image(case.label, image, first, case.scheme, **transform)
    require_same_grid("label", label, case.label, image, first)
    return image, label


def _key(content: Mapping[str, Any], key: str, file: Path) -> Any:
    if key not in content:
        raise InputError(
            f"the key {key!r} is missing (found {sorted(content)})",
            where=file,
            fix="nnU-Net v2 needs channel_names, labels and file_ending; MSD needs modality, labels and training",
        )
    return content[key]


def channel_names(mapping: Any, file: Path) -> tuple[str, ...]:
    """Read the channels of a ``dataset.json``, in order.

    Raises:
        InputError: They are no mapping of 0, 1, ... to names.
    """
    if not isinstance(mapping, dict) or not mapping or set(mapping) != {str(i) for i in range(len(mapping))}:
        raise InputError(f'expected channel names as {{"0": "CT"}}, got {_brief(mapping)}', where=file)
    return tuple(str(mapping[str(i)]) for i in range(len(mapping)))


def _nnunet_cases(
    root: Path, content: Mapping[str, Any], channels: int, file: Path
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    ending = _key(content, "file_ending", file)
    if ending not in ENDINGS:
        raise InputError(f"expected {' or '.join(ENDINGS)}, got {ending!r}", where=f"{file}: file_ending")
    if "dataset" in content:
        raise InputError(
            "lists of files under 'dataset' are not supported", where=file, fix="use imagesTr and labelsTr"
        )
    images = _nnunet_images(root / "imagesTr", ending, channels)
    labels = _nnunet_labels(root / "labelsTr", ending)
    ids = {case.id for case in images}
    if alone := ids - set(labels):
        raise InputError(f"no label for image {some_of(sorted(alone))}", where=root / "labelsTr")
    if alone := set(labels) - ids:
        raise InputError(f"no image for label {some_of(sorted(alone))}", where=root / "imagesTr")
    expected = content.get("numTraining", len(images))
    if expected != len(images):
        raise InputError(f"dataset.json says {expected!r} training cases, found {len(images)}", where=root / "imagesTr")
    test_labels = _nnunet_labels(root / "labelsTs", ending)
    test = _nnunet_images(root / "imagesTs", ending, channels)
    return (
        tuple(Case(case.id, case.images, labels[case.id]) for case in images),
        tuple(Case(case.id, case.images, test_labels.get(case.id)) for case in test),
    )


def _nnunet_images(folder: Path, ending: str, channels: int) -> tuple[Case, ...]:
    found = []
    for file in list_nifti(folder):
        match = CHANNEL.fullmatch(stem_of(file))
        if not match:
            raise InputError(f"expected a name such as CASE_0000{ending}", where=file, fix="rename the file")
        found.append((match["case"], int(match["channel"]), file))
    cases = _group(found, where=folder, channels=channels)
    _check_endings((file for case in cases for file in case.images), ending)
    return cases


def _nnunet_labels(folder: Path, ending: str) -> dict[str, Path]:
    cases = _group([(stem_of(file), 0, file) for file in list_nifti(folder)], where=folder, channels=1)
    _check_endings((case.images[0] for case in cases), ending)
    return {case.id: case.images[0] for case in cases}


def _check_endings(files: Iterable[Path], ending: str) -> None:
    for file in files:
        if not file.name.endswith(ending) or (ending == ".nii" and file.name.endswith(".nii.gz")):
            raise InputError(f"expected the file_ending {ending} of dataset.json", where=file)


def _msd_cases(
    root: Path, content: Mapping[str, Any], scheme: LabelScheme, file: Path
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    def cases(key: str) -> tuple[Case, ...]:
        entries = content.get(key, [])
        if not isinstance(entries, list):
            raise InputError(f"expected a list, got {_brief(entries)}", where=f"{file}: {key}")
        found, labels = [], {}
        for number, entry in enumerate(entries):
            where = f"{file}: {key}[{number}]"
            if key == "training" and not (isinstance(entry, dict) and {"image", "label"} <= set(entry)):
                raise InputError(f"expected a mapping with image and label, got {_brief(entry)}", where=where)
            image = entry.get("image") if isinstance(entry, dict) else entry
            path = _inside(root, image, where)
            if path.name.startswith("."):
                continue
            found.append((stem_of(path) or path.name, 0, path))
            if isinstance(entry, dict) and "label" in entry:
                labels[path] = _inside(root, entry["label"], where)
        for path in [path for _, _, path in found] + list(labels.values()):
            if not path.exists():
                raise InputError(
                    "dataset.json lists a file that is not there", where=path, fix="copy the data set again"
                )
        grouped = _group(found, where=f"{file}: {key}", channels=1)
        return tuple(_labelled(case, labels.get(case.images[0]), scheme) for case in grouped)

    return cases("training"), cases("test")


def _labelled(case: Case, label: Path | None, scheme: LabelScheme) -> Case:
    is_seg = label is not None and label.name.lower().endswith(SEG_ENDING)
    return Case(case.id, case.images, label, scheme=scheme if is_seg else None)


def _inside(root: Path, name: Any, where: str) -> Path:
    """Return the path of a file that a ``dataset.json`` names, which may lie nowhere but in its folder."""
    if not isinstance(name, str) or not PurePosixPath(name).parts:
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {_brief(name)}", where=where)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise InputError(f"expected a path inside the data set folder, got {name!r}", where=where)
    # A folder is a DICOM series.
    if not name.endswith((*ENDINGS, SEG_ENDING)) and not (root / path).is_dir():
        raise InputError(f"expected the path of a .nii or .nii.gz file, got {_brief(name)}", where=where)
    return root / path


def list_nifti(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder, sorted; none if there is no such folder. Hidden files do not count.

    Raises:
        ResourceError: The system did not let us read.
    """
    if not folder.is_dir():
        return []
    with gate.system_border(folder):
        return sorted(p for p in folder.iterdir() if stem_of(p) and not p.name.startswith(".") and not p.is_dir())


def stem_of(path: Path) -> str:
    """Return the name without its ending, or nothing if the ending is not NIfTI's."""
    # NFC: macOS spells an umlaut as two characters, and a label written elsewhere as one.
    name = unicodedata.normalize("NFC", path.name)
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return ""


def _group(found: Iterable[tuple[str, int, Path]], *, where: object, channels: int | None) -> tuple[Case, ...]:
    """Gather (case id, channel, file) into cases; ``channels`` None accepts any number."""
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


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
