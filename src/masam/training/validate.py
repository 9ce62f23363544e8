"""Validation on whole volumes and videos, the way predictions are made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from masam.cases.folder import Case
from masam.device import Precision
from masam.evaluation.overlap import count_overlap
from masam.model.masam import Masam
from masam.predict.predictor import Predictor
from masam.preprocess.plan import Plan
from masam.progress import Progress, Silent
from masam.training.cases import predict_case


def score_cases(
    model: Masam,
    plan: Plan,
    cases: Sequence[Case],
    *,
    device: str,
    precision: Precision,
    stride: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Predict cases and score them by Dice.

    Args:
        model: Model to validate; it is in evaluation mode afterwards.
        plan: Its plan.
        cases: Cases with labels.
        device: Where the model is.
        precision: Number format.
        stride: Slices from one window to the next.
        progress: Told of each case.

    Returns:
        For each case the Dice of each foreground class; NaN where neither mask holds it.
    """
    predictor = Predictor(model, device=device, precision=precision, stride=stride, plan=plan)
    progress = progress or Silent()
    progress.start("validation", len(cases))
    scores = []
    for case in cases:
        prediction, reference, ignored = predict_case(predictor, case, progress)
        scores.append([
            count_overlap(reference == label.value, prediction == label.value, ignored).dice()
            for label in plan.scheme.foreground
        ])  # fmt: skip
        progress.advance(case.id)
    return scores


def mean_scores(plan: Plan, scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean over cases of ``score_cases``, by class name; NaN for a class that is in no case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is in no case: its mean is NaN, as promised
        means = np.nanmean(np.array(scores, dtype=float), axis=0)
    return {label.name: float(mean) for label, mean in zip(plan.scheme.foreground, means, strict=True)}
