"""Scores of a video, whose label frames are read and counted one at a time.

Dice and IoU count the pixels of all frames together, like the voxels of a volume. In addition, ``miou_per_frame`` is
the metric of the EndoVis 2018 challenge: the mean IoU over the foreground classes present in the reference of a frame,
then the mean over frames. Frames whose reference contains no foreground class are excluded.

Source: "mean intersection-over-union [...] for all classes that are present in a given frame. The average over all
frames" (EndoVis 2018, robotic scene segmentation, submission guidelines). Published results interpret "present" as
present in the reference (the challenge IoU of ISINet, González et al. 2020).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError, some_of
from masam.evaluation.cases import require_known_values
from masam.evaluation.overlap import Overlap, ReferenceEmpty
from masam.evaluation.scores import CaseScore, VideoScore
from masam.io.video.label_frames import label_files, read_labels
from masam.labels import LabelScheme

_VALUES = 256


def score_video(
    case: str,
    prediction: Path | None,
    reference: Path,
    scheme: LabelScheme,
    reference_empty: ReferenceEmpty,
    allow_missing: bool,
) -> tuple[list[CaseScore], VideoScore]:
    """Score the label frames of a video, with one frame and its reference in memory at a time.

    Frames are paired by name. Predicted frames without a reference are excluded, and pixels that the reference marks as
    ``ignore`` are background in both.

    Args:
        case: Case id.
        prediction: Folder of label frames, or None.
        reference: Folder of label frames.
        scheme: The classes, with values up to 255.
        reference_empty: Score of a class absent from both videos, see ``overlap.py``.
        allow_missing: Score labelled frames without a prediction as empty predictions.

    Returns:
        One score per class, without distances and volumes, and the score of the video.
    """
    expected = label_files(reference)
    if not expected:
        raise InputError("expected label frames (PNG files), found none", where=reference)
    predicted = {} if prediction is None else label_files(prediction)
    missing = [name for name in expected if name not in predicted]
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(expected)} labelled frames have no prediction: {some_of(missing, 8)}",
            where=prediction,
            fix="predict them, or count each as a total failure with missing=worst",
        )
    counts = np.zeros((3, scheme.num_classes), np.int64)
    sum_of_means, empty = 0.0, 0
    for name, file in expected.items():
        frame_counts = _count(file, predicted.get(name), scheme)
        counts += frame_counts
        mean = _mean_iou_of_present(frame_counts)
        empty += mean is None
        sum_of_means += mean or 0.0
    scored = len(expected) - empty
    overlaps = zip(scheme.foreground, (Overlap(*pixels) for pixels in counts.T.tolist()), strict=True)
    return (
        [
            CaseScore(case, label.name, both.dice(reference_empty), both.iou(reference_empty), *[math.nan] * 6)
            for label, both in overlaps
        ],
        VideoScore(
            case=case,
            miou_per_frame=sum_of_means / scored if scored else math.nan,
            frames=len(expected),
            empty_frames=empty,
            unlabelled_frames=len(predicted.keys() - expected.keys()),
        ),
    )


def _count(reference_file: Path, prediction_file: Path | None, scheme: LabelScheme) -> NDArray[np.int64]:
    """Count the pixels of each class in a frame: [3, foreground classes] in the reference, the prediction, and both."""
    reference = read_labels(reference_file)
    prediction = np.zeros_like(reference) if prediction_file is None else read_labels(prediction_file)
    if prediction.shape != reference.shape:
        raise InputError(
            f"the predicted frame has {prediction.shape[1]} x {prediction.shape[0]} pixels, its reference "
            f"{reference.shape[1]} x {reference.shape[0]}",
            where=prediction_file,
            fix="score predictions at the size of the reference (predict from the same frames, do not resize)",
        )
    # Joint histogram of both label images, in one pass over the pixels.
    pairs = np.bincount((reference.astype(np.uint16) * _VALUES + prediction).ravel(), minlength=_VALUES**2)
    pairs = pairs.reshape(_VALUES, _VALUES)
    require_known_values(np.flatnonzero(pairs.sum(axis=1)).tolist(), scheme, reference_file, ignore=True)
    require_known_values(np.flatnonzero(pairs.sum(axis=0)).tolist(), scheme, prediction_file, ignore=False)
    if scheme.ignore_value is not None and scheme.ignore_value < _VALUES:
        pairs[scheme.ignore_value] = 0
    values = [label.value for label in scheme.foreground]
    return np.stack([pairs.sum(axis=1)[values], pairs.sum(axis=0)[values], pairs[values, values]]).astype(np.int64)


def _mean_iou_of_present(counts: NDArray[np.int64]) -> float | None:
    """Return the mean IoU of the classes in the reference of a frame; None if it contains no class."""
    reference, prediction, both = counts[:, counts[0] > 0]
    return float((both / (reference + prediction - both)).mean()) if len(reference) else None
