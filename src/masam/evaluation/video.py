"""Scores of a video: label frames are read and counted one after the other, whatever the length.

Overlap is that of the whole video: pixels of all frames are counted together, as the voxels of a volume are. Beside it
stands ``miou_per_frame``, the measure of the EndoVis 2018 challenge: the IoU of each class that is present in a frame,
the mean over these classes, then the mean over the frames. *Present* is what the reference of the frame holds; the
background is no class, and a frame whose reference holds none has no score.

Source: "mean intersection-over-union [...] for all classes that are present in a given frame. The average over all
frames" (EndoVis 2018, robotic scene segmentation, submission guidelines). That present means the reference is how
published figures of it are computed (the challenge IoU of ISINet, González et al. 2020).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError, some_of
from masam.evaluation.cases import require_known
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
    *,
    reference_empty: ReferenceEmpty = "nan",
    allow_missing: bool = False,
) -> tuple[list[CaseScore], VideoScore]:
    """Score the label frames of a video; a frame and its reference are in memory, no more.

    Frames pair by name. A frame that the reference does not label does not count; pixels that it marks as ``ignore``
    are background in both.

    Args:
        case: Case id.
        prediction: Folder of label frames; None for a video that was not predicted.
        reference: Folder of label frames.
        scheme: The classes, of values up to 255.
        reference_empty: Score of a class that neither holds in any frame, see ``overlap.py``.
        allow_missing: Whether a labelled frame may be without prediction, which then holds nothing.

    Returns:
        A score a class, without distances and volumes, as a video has no millimetres; and the video's own.

    Raises:
        InputError: The reference has no label frame, a labelled frame has no prediction, sizes differ, a file is
            refused, or a value is not in the scheme.
        ResourceError: Pillow is missing, or the system did not let us read.
    """
    truths = label_files(reference)
    if not truths:
        raise InputError("expected label frames (PNG files), found none", where=reference)
    guesses = {} if prediction is None else label_files(prediction)
    without = [name for name in truths if name not in guesses]
    if without and not allow_missing:
        raise InputError(
            f"{len(without)} of {len(truths)} labelled frames have no prediction of their name: {some_of(without, 8)}",
            where=prediction,
            fix="predict them, or count each as a total failure with missing=worst",
        )
    counts = np.zeros((3, scheme.num_classes), np.int64)
    sum_of_means, empty = 0.0, 0
    for name, file in truths.items():
        in_frame = _count(file, guesses.get(name), scheme)
        counts += in_frame
        mean = _mean_iou_of_present(in_frame)
        empty += mean is None
        sum_of_means += mean or 0.0
    filled = len(truths) - empty
    return (
        _class_scores(case, counts, scheme, reference_empty, is_predicted=prediction is not None),
        VideoScore(
            case=case,
            miou_per_frame=sum_of_means / filled if filled else math.nan,
            frames=len(truths),
            empty_frames=empty,
            unlabelled_frames=len(guesses.keys() - truths.keys()),
        ),
    )


def _count(truth_file: Path, guess_file: Path | None, scheme: LabelScheme) -> NDArray[np.int64]:
    """Count the pixels of a frame: [3, foreground classes] in the reference, in the prediction, in both."""
    truth = read_labels(truth_file)
    guess = np.zeros_like(truth) if guess_file is None else read_labels(guess_file)
    if guess.shape != truth.shape:
        raise InputError(
            f"the predicted frame has {guess.shape[1]} x {guess.shape[0]} pixels, its reference "
            f"{truth.shape[1]} x {truth.shape[0]}",
            where=guess_file,
            fix="score predictions at the size of the reference (predict from the same frames, do not scale)",
        )
    # One pass over the pixels: how often each pair of values occurs.
    pairs = np.bincount((truth.astype(np.uint16) * _VALUES + guess).ravel(), minlength=_VALUES**2)
    pairs = pairs.reshape(_VALUES, _VALUES)
    require_known(_occurring(pairs.sum(axis=1)), scheme, truth_file, ignore=True)
    require_known(_occurring(pairs.sum(axis=0)), scheme, guess_file, ignore=False)
    if scheme.ignore_value is not None and scheme.ignore_value < _VALUES:
        pairs[scheme.ignore_value] = 0
    values = [label.value for label in scheme.foreground]
    return np.stack([pairs.sum(axis=1)[values], pairs.sum(axis=0)[values], pairs[values, values]]).astype(np.int64)


def _occurring(counts: NDArray[np.integer]) -> list[int]:
    return [int(value) for value in np.flatnonzero(counts)]


def _mean_iou_of_present(counts: NDArray[np.int64]) -> float | None:
    """Return the mean IoU of the classes that a frame's reference holds; None if there is none."""
    reference, prediction, both = counts[:, counts[0] > 0]
    return float((both / (reference + prediction - both)).mean()) if len(reference) else None


def _class_scores(
    case: str,
    counts: NDArray[np.int64],
    scheme: LabelScheme,
    reference_empty: ReferenceEmpty,
    *,
    is_predicted: bool,
) -> list[CaseScore]:
    nan, scores = math.nan, []
    for label, (reference, prediction, both) in zip(scheme.foreground, counts.T.tolist(), strict=True):
        overlap = Overlap(reference, prediction, both)
        dice, iou = overlap.dice(reference_empty), overlap.iou(reference_empty)
        if not is_predicted and reference_empty == "one":
            dice = iou = 0.0  # a video that was not predicted never gets the 1 of an empty pair
        scores.append(CaseScore(case, label.name, dice, iou, nan, nan, nan, nan, nan, nan))
    return scores
