"""Labelled cases for training and validation: volumes or videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.cases.folder import Case, load_case
from masam.cases.video import UNLABELLED, is_video_case, load_video_case
from masam.errors import InputError
from masam.io.video.frames import Frame, FrameSource
from masam.predict.predictor import Predictor
from masam.predict.video import predict_video
from masam.preprocess.cache import Preparation
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent, warn_with


def are_videos(cases: Sequence[Case]) -> bool:
    """Return whether the cases of a data set are videos; all are of the same kind."""
    return len(cases) > 0 and is_video_case(cases[0])


def preparation_of(plan: Plan) -> Preparation:
    """Return the preprocessing that a plan specifies for its kind of cases."""
    return plan.frame_preparation if plan.modality == "video" else plan.preprocessing


def labelled_loader(plan: Plan, progress: Progress) -> Callable[[Case], tuple[Any, Any]]:
    """Return a function that reads image and labels of a case for ``preparation_of(plan)``.

    Video frames without a label are marked as unlabelled. The progress listener gets their number, and notes on what
    is unusual.
    """

    def load(case: Case) -> tuple[Any, Any]:
        if case.label is None:
            raise InputError("expected a labelled case, found no label file", where=case.id)
        if plan.modality == "video":
            return load_video_case(case, unlabelled="ignore", progress=progress)
        return load_case(case, on_note=warn_with(progress))

    return load


def predict_case(
    predictor: Predictor, case: Case, progress: Progress
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.bool_] | None]:
    """Predict a labelled case.

    Returns:
        Predicted label values, reference label values of the same shape, and where the reference is unknown.
    """
    # Preparing the data has reported what is unusual; this would repeat it at each validation.
    listener = progress if predictor.plan.modality == "video" else Silent()
    image, reference = labelled_loader(predictor.plan, listener)(case)
    ignored_value = predictor.plan.scheme.ignore_value
    if predictor.plan.modality != "video":
        predicted, values = (np.asarray(volume.array, np.int32) for volume in (predictor.predict(image), reference))
        return predicted, values, None if ignored_value is None else values == ignored_value

    def read() -> Iterator[Frame]:
        return (Frame(index, f"frame{index:06d}", pixels) for index, pixels in enumerate(image))

    count, rows, columns, _ = image.shape
    # The frames are in memory; decoding them again would take as long as the first time.
    source = FrameSource(case.images[0], (rows, columns), count, None, True, (), read)
    frames: list[NDArray[np.uint8]] = []
    predict_video(predictor, source, lambda _, labels: frames.append(labels))
    ignored = reference == UNLABELLED
    return np.stack(frames), reference, ignored if ignored_value is None else ignored | (reference == ignored_value)
