"""Evaluation of segmentations: overlap, surface distances, and their summary over cases. Does not import torch."""

from masam.evaluation.overlap import Overlap, ReferenceEmpty, count_overlap
from masam.evaluation.scores import METRICS, CaseScore, ClassSummary, Evaluation, VideoScore
from masam.evaluation.statistics import Statistic
from masam.evaluation.summary import evaluate
from masam.evaluation.surface import SurfaceScores, surface_scores

__all__ = [
    "METRICS",
    "CaseScore",
    "ClassSummary",
    "Evaluation",
    "Overlap",
    "ReferenceEmpty",
    "Statistic",
    "SurfaceScores",
    "VideoScore",
    "count_overlap",
    "evaluate",
    "surface_scores",
]
