"""Validation on whole volumes and videos, with the same code as prediction."""

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
from masam.progress import Progress
from masam.training.cases import predict_case


def score_cases(
    model: Masam,
    plan: Plan,
    cases: Sequence[Case],
    *,
    device: str,
    precision: Precision,
    stride: int,
    progress: Progress,
) -> list[list[float]]:
    """Predict cases and compute their Dice.

    Returns:
        Dice of each foreground class for each case; NaN for a class that is absent from both masks.
    """
    predictor = Predictor(model, device=device, precision=precision, stride=stride, plan=plan)
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
    """Return the mean over cases of ``score_cases`` by class name; NaN for a class that no case contains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean over no case is NaN, as documented
        means = np.nanmean(np.array(scores, dtype=float), axis=0)
    return {label.name: float(mean) for label, mean in zip(plan.scheme.foreground, means, strict=True)}
