"""Score predictions against references, for every case and class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    pair_cases,
    pair_single_cases,
    require_known_values,
)
from masam.evaluation.overlap import ReferenceEmpty, count_overlap, volume_ml
from masam.evaluation.scores import CaseScore, Evaluation, VideoScore
from masam.evaluation.surface import check_tolerance, surface_scores
from masam.evaluation.video import score_video
from masam.io import gate
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
    """Score predicted labels against references.

    Voxels that the reference marks as ``ignore`` are background in both masks. Both surfaces are cut at the same
    position, so an ignored region affects distances only along its boundary.

    Args:
        predictions: Folder of label files (NIfTI or DICOM SEG), or of one folder of label frames per video; a list of
            such files or folders; or a mapping from case id to a file, folder or volume. A file, or a folder that
            directly contains label frames, is a single case.
        references: The same for the references. They determine the cases, and the frames of a video, to score.
        labels: Label scheme, the ``labels`` of a ``dataset.json``, or the path of that file.
        nsd_tolerance_mm: Distance up to which surfaces are considered equal in ``nsd``.
        reference_empty: Dice and IoU of a class absent from both masks: "nan" excludes it from means and counts it,
            "one" gives 1 (the rule of the paper).
        missing: Treat a case without a prediction as an error, or give it the worst scores: Dice, IoU and ``nsd`` are 0
            for every class in the reference (with ``reference_empty="one"``, Dice and IoU are 0 for all classes), and
            distances are NaN. With "worst", a labelled frame without a prediction is scored as an empty prediction.
        extra: Treat a prediction without a reference as an error, or ignore it.
        workers: Number of threads, each of which scores one case and has its two volumes, or two frames, in memory.
        progress: Called with the numbers of finished and of all cases after every case.

    Returns:
        All scores, sorted by case id.

    Raises:
        InputError: A case or a labelled frame is missing, a prediction has no reference, is unreadable, is on another
            grid than its reference, or has a value outside the label scheme; or volumes and videos are mixed.
        ConfigError: The tolerance or the number of workers is out of range, or a label value of videos is above 255.
        ResourceError: Pillow, which videos require, is not installed, or a file is not readable.
    """
    check_tolerance(nsd_tolerance_mm)
    if workers < 1:
        raise ConfigError(f"expected at least 1 worker, got {workers}", where="workers")
    scheme = read_scheme(labels)
    predictions, references = pair_single_cases(predictions, references)
    predicted = collect_cases(predictions, "predictions")
    expected = collect_cases(references, "references")
    is_video = are_videos(predicted, expected)
    if is_video:
        require_indexable(scheme)
    allow_missing = missing == "worst"
    absent = pair_cases(predicted, expected, allow_missing=allow_missing, allow_extra=extra == "ignore")

    def score(case: str) -> tuple[list[CaseScore], VideoScore | None]:
        prediction, reference = predicted.get(case), expected[case]
        video = None
        if is_video and isinstance(reference, Path) and not isinstance(prediction, Volume):
            scores, video = score_video(case, prediction, reference, scheme, reference_empty, allow_missing)
        else:
            scores = _score_volume(case, prediction, reference, scheme, nsd_tolerance_mm, reference_empty)
        if prediction is None and reference_empty == "one":
            # A class absent from the reference scores 1 only if it was predicted to be absent.
            scores = [replace(score, dice=0.0, iou=0.0) for score in scores]
        return scores, video

    scores: list[CaseScore] = []
    videos: list[VideoScore] = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for done, (case_scores, video) in enumerate(pool.map(score, expected), start=1):
            scores += case_scores
            videos += [] if video is None else [video]
            if progress is not None:
                progress(done, len(expected))
    return Evaluation(tuple(scores), nsd_tolerance_mm, reference_empty, absent, tuple(videos))


def _score_volume(
    case: str,
    predicted: Path | Volume | None,
    expected: Path | Volume,
    scheme: LabelScheme,
    tolerance_mm: float,
    reference_empty: ReferenceEmpty,
) -> list[CaseScore]:
    """Score each foreground class inside the bounding box of both masks; None means that it was not predicted."""
    reference_volume, *rest = load_labels([expected] if predicted is None else [expected, predicted], case, scheme)
    truth = to_channels(reference_volume, scheme, _where(expected, f"reference {case}"), ignore=True)
    answer = np.zeros_like(truth)
    if predicted is not None:
        where = _where(predicted, f"prediction {case}")
        check_same_grid(rest[0], reference_volume, where)
        answer = to_channels(rest[0], scheme, where, ignore=False)
        if scheme.ignore_value is not None:
            answer[reference_volume.array == scheme.ignore_value] = 0
    spacing_mm = reference_volume.geometry.spacing_mm
    boxes = [ndimage.find_objects(channels, max_label=scheme.num_classes) for channels in (truth, answer)]
    scores = []
    for channel, label in enumerate(scheme.foreground, start=1):
        box = _union(boxes[0][channel - 1], boxes[1][channel - 1])
        reference, prediction = truth[box] == channel, answer[box] == channel
        overlap = count_overlap(reference, prediction)
        surface = surface_scores(reference, prediction, spacing_mm, tolerance_mm)
        scores.append(
            CaseScore(
                case=case,
                label=label.name,
                dice=overlap.dice(reference_empty),
                iou=overlap.iou(reference_empty),
                **vars(surface),
                reference_ml=volume_ml(overlap.reference, spacing_mm),
                prediction_ml=volume_ml(overlap.prediction, spacing_mm),
            )
        )
    return scores


def to_channels(volume: Volume, scheme: LabelScheme, where: object, *, ignore: bool) -> NDArray[np.uint16]:
    """Convert label values to channel numbers; ignored voxels, if allowed, become background.

    Values are counted slice by slice. At 512 x 512 x 150 voxels this is faster than ``LabelScheme.to_channels``, which
    sorts the volume. Errors are those of :func:`require_known_values`.
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
    require_known_values(values, scheme, where, ignore=ignore)
    return table[array.astype(np.uint16, copy=False)]


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Return the bounding box of two boxes, or an empty box if both are None."""
    boxes = [box for box in (one, other) if box is not None]
    if not boxes:
        return (slice(0), slice(0), slice(0))
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def read_scheme(labels: LabelScheme | Mapping[str, Any] | str | Path) -> LabelScheme:
    """Return a label scheme, read from the ``labels`` of a ``dataset.json`` or from the path of that file."""
    if isinstance(labels, LabelScheme):
        return labels
    if isinstance(labels, Mapping):
        return LabelScheme.from_mapping(labels)
    path = Path(labels)
    record = gate.read_json(path)
    if not isinstance(record, dict) or "labels" not in record:
        raise InputError("expected the key 'labels'", where=path, fix="give the data set's dataset.json")
    return LabelScheme.from_mapping(record["labels"], where=f"{path}: labels")


def _where(item: Path | Volume, name: str) -> object:
    return item if isinstance(item, Path) else name
