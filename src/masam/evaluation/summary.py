"""Score predictions against references: every case, every class, nothing dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.errors import ConfigError, InputError
from masam.evaluation.cases import (
    Cases,
    are_videos,
    check_same_grid,
    collect_cases,
    load_labels,
    name_alike,
    pair_cases,
    require_known,
)
from masam.evaluation.overlap import ReferenceEmpty, count_overlap, volume_ml
from masam.evaluation.scores import CaseScore, Evaluation, VideoScore
from masam.evaluation.surface import Spacing, check_tolerance, surface_scores
from masam.evaluation.video import score_video
from masam.io.video.label_frames import require_indexable
from masam.labels import LabelScheme
from masam.volume import Volume


def evaluate(
    predictions: Cases,
    references: Cases,
    labels: LabelScheme | Mapping[str, Any] | str | Path,
    *,
    nsd_tolerance_mm: float = 1.0,
    reference_empty: ReferenceEmpty = "nan",
    missing: Literal["error", "worst"] = "error",
    extra: Literal["error", "ignore"] = "error",
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Score labels against references: volumes in the references' own geometry, videos frame by frame.

    Voxels that the reference marks as ``ignore`` are background in both masks. That cuts both surfaces at the same
    place, so an ignored region neither adds nor hides a distance except along its own rim.

    Args:
        predictions: Folder of label files (NIfTI or DICOM SEG), or of a folder of label frames a video; a list of such
            files or folders; or case id to one of them or to a volume. A file, or a folder that holds label frames
            itself, is one case.
        references: The same for the references; they say which cases, and which frames of a video, there are.
        labels: The label scheme, the ``labels`` of a ``dataset.json``, or the path of that file.
        nsd_tolerance_mm: Distance up to which surfaces count as the same in ``nsd``.
        reference_empty: Dice and IoU of a class that neither mask holds: "nan" leaves it out of means and counts it,
            "one" gives 1 (the paper's rule).
        missing: What a case without a prediction is: an error, or the worst score there is. "worst" gives Dice, IoU and
            ``nsd`` 0 to every class that the reference holds (and, with ``reference_empty="one"``, to the others too);
            distances are NaN. With it, a labelled frame without a prediction counts as one that holds nothing.
        extra: What a prediction without a reference is: an error, or nothing.
        workers: Cases scored at the same time, in threads; each holds its two volumes, or two frames, in memory.
        progress: Called with (cases done, cases in all) after every case.

    Returns:
        All scores, sorted by case id; ``Evaluation.summary`` and ``mean_dice`` sum them up.

    Raises:
        InputError: A case or a labelled frame is missing, a case is left over, cannot be read, lies on another grid
            than its reference, or holds a value that is not in the label scheme; or volumes and videos are mixed.
        ConfigError: The tolerance or the number of workers makes no sense, or a label value of videos is above 255.
        ResourceError: Pillow is missing, which videos need, or the system did not let us read.
    """
    check_tolerance(nsd_tolerance_mm)
    if workers < 1:
        raise ConfigError(f"expected at least 1 worker, got {workers}", where="workers")
    scheme = read_scheme(labels)
    predictions, references = name_alike(predictions, references)
    found = collect_cases(predictions, "predictions")
    wanted = collect_cases(references, "references")
    are_frames = are_videos(found, wanted)
    if are_frames:
        require_indexable(scheme)
    absent = pair_cases(found, wanted, allow_missing=missing == "worst", allow_extra=extra == "ignore")

    def score(case: str) -> tuple[list[CaseScore], VideoScore | None]:
        guess, truth = found.get(case), wanted[case]
        if are_frames and isinstance(truth, Path) and not isinstance(guess, Volume):
            allow_missing = missing == "worst"
            return score_video(case, guess, truth, scheme, reference_empty=reference_empty, allow_missing=allow_missing)
        return _score_volume(case, guess, truth, scheme, nsd_tolerance_mm, reference_empty), None

    scores: list[CaseScore] = []
    videos: list[VideoScore] = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for done, (of_case, video) in enumerate(pool.map(score, wanted), start=1):
            scores += of_case
            videos += [] if video is None else [video]
            if progress is not None:
                progress(done, len(wanted))
    return Evaluation(tuple(scores), nsd_tolerance_mm, reference_empty, absent, tuple(videos))


def _score_volume(
    case: str,
    found: Path | Volume | None,
    wanted: Path | Volume,
    scheme: LabelScheme,
    tolerance_mm: float,
    reference_empty: ReferenceEmpty,
) -> list[CaseScore]:
    """Score a volume; None is one that was not predicted."""
    reference, *predicted = load_labels([wanted] if found is None else [wanted, found], case, scheme)
    truth = to_channels(reference, scheme, _where(wanted, f"reference {case}"), ignore=True)
    spacing_mm = reference.geometry.spacing_mm
    if found is None:
        return _worst(case, truth, spacing_mm, scheme, reference_empty)
    (prediction,) = predicted
    where = _where(found, f"prediction {case}")
    check_same_grid(prediction, reference, where)
    guess = to_channels(prediction, scheme, where, ignore=False)
    if scheme.ignore_value is not None:
        guess[reference.array == scheme.ignore_value] = 0
    return _score_classes(case, truth, guess, spacing_mm, scheme, tolerance_mm, reference_empty)


def _score_classes(
    case: str,
    truth: NDArray[np.uint16],
    guess: NDArray[np.uint16],
    spacing_mm: Spacing,
    scheme: LabelScheme,
    tolerance_mm: float,
    reference_empty: ReferenceEmpty,
) -> list[CaseScore]:
    """Score each foreground class inside the box that holds it in either volume."""
    boxes = [ndimage.find_objects(channels, max_label=scheme.num_classes) for channels in (truth, guess)]
    scores = []
    for channel, label in enumerate(scheme.foreground, start=1):
        box = _union(boxes[0][channel - 1], boxes[1][channel - 1])
        reference, prediction = truth[box] == channel, guess[box] == channel
        overlap = count_overlap(reference, prediction)
        surface = surface_scores(reference, prediction, spacing_mm, tolerance_mm)
        scores.append(
            CaseScore(
                case=case,
                label=label.name,
                dice=overlap.dice(reference_empty),
                iou=overlap.iou(reference_empty),
                hd95_mm=surface.hd95_mm,
                hd95_pooled_mm=surface.hd95_pooled_mm,
                assd_mm=surface.assd_mm,
                nsd=surface.nsd,
                reference_ml=volume_ml(overlap.reference, spacing_mm),
                prediction_ml=volume_ml(overlap.prediction, spacing_mm),
            )
        )
    return scores


def _worst(
    case: str, truth: NDArray[np.uint16], spacing_mm: Spacing, scheme: LabelScheme, reference_empty: ReferenceEmpty
) -> list[CaseScore]:
    """Score a case that was not predicted: 0 wherever there was something to find, and never the 1 of an empty pair."""
    scores = []
    for channel, label in enumerate(scheme.foreground, start=1):
        voxels = int(np.count_nonzero(truth == channel))
        overlap = 0.0 if voxels or reference_empty == "one" else math.nan
        nan, surface = math.nan, 0.0 if voxels else math.nan
        scores.append(
            CaseScore(case, label.name, overlap, overlap, nan, nan, nan, surface, volume_ml(voxels, spacing_mm), 0.0)
        )
    return scores


def to_channels(volume: Volume, scheme: LabelScheme, where: object, *, ignore: bool) -> NDArray[np.uint16]:
    """Turn label values into channel numbers; ignored voxels become background.

    The values found are counted slice by slice, which a sort of the whole volume (``LabelScheme.to_channels``) cannot
    match at 512 x 512 x 150 voxels.

    Args:
        volume: Whole numbers.
        scheme: The classes.
        where: File or case to name.
        ignore: Whether the value of voxels without a label may occur.

    Raises:
        InputError: A value is not in the scheme.
    """
    array = volume.array
    low, high = int(array.min()), int(array.max())
    table = np.zeros(65536, dtype=np.uint16)
    for channel, label in enumerate(scheme.labels):
        table[label.value] = channel
    if low < 0 or high > 65535:
        values = [low if low < 0 else high]
    else:
        counts = np.zeros(high + 1, dtype=np.int64)
        for plane in array:
            counts += np.bincount(plane.ravel().astype(np.int64), minlength=high + 1)
        values = [int(value) for value in np.flatnonzero(counts)]
    require_known(values, scheme, where, ignore=ignore)
    return table[array.astype(np.uint16, copy=False)]


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Return the box around two boxes; without any, a box of no voxels."""
    boxes = [box for box in (one, other) if box is not None]
    if not boxes:
        return (slice(0), slice(0), slice(0))
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def read_scheme(labels: LabelScheme | Mapping[str, Any] | str | Path) -> LabelScheme:
    """Return a label scheme as it is, or read from the ``labels`` of a ``dataset.json`` or from that file's path.

    Raises:
        InputError: The file or the mapping is refused.
    """
    if isinstance(labels, LabelScheme):
        return labels
    if isinstance(labels, Mapping):
        return LabelScheme.from_mapping(labels)
    path = Path(labels)
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot be read as JSON ({error})", where=path, fix="give the data set's dataset.json"
        ) from error
    if not isinstance(record, dict) or "labels" not in record:
        raise InputError("expected the key 'labels'", where=path, fix="give the data set's dataset.json")
    return LabelScheme.from_mapping(record["labels"], where=f"{path}: labels")


def _where(item: Path | Volume, name: str) -> object:
    return item if isinstance(item, Path) else name
