"""Result of an evaluation: scores per case and class, their summary, and the files that hold them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.atomic import write_text
from masam.errors import InputError
from masam.evaluation.overlap import ReferenceEmpty
from masam.evaluation.statistics import Statistic, bootstrap_interval, mean_of_means, summarise
from masam.io import gate

METRICS = ("dice", "iou", "hd95_mm", "hd95_pooled_mm", "assd_mm", "nsd")
"""Metrics of ``CaseScore``, defined in ``overlap.py`` and ``surface.py``."""

VIDEO_METRICS = ("dice", "iou")
"""Metrics of videos, which have no physical size."""

_FORMAT, _VERSION = "masam-evaluation", 2
# Version 1 has no videos.
_READABLE = (1, 2)

# Heading and digits of each metric in the table.
_COLUMNS = {"iou": ("IoU", 3), "hd95_mm": ("HD95 mm", 2), "assd_mm": ("ASSD mm", 2), "nsd": ("NSD {:g} mm", 3)}


@dataclass(frozen=True)
class CaseScore:
    """Scores of one class in one case; undefined metrics are NaN, such as distances and volumes in a video.

    Attributes:
        case: Case id.
        label: Class name.
        dice: Dice, 0 to 1.
        iou: Intersection over union, 0 to 1.
        hd95_mm: Larger directed 95th percentile of the surface distances.
        hd95_pooled_mm: 95th percentile of the surface distances of both directions pooled.
        assd_mm: Average symmetric surface distance.
        nsd: Surface Dice at the tolerance of the evaluation, 0 to 1.
        reference_ml: Volume of the class in the reference.
        prediction_ml: Volume of the class in the prediction.
    """

    case: str
    label: str
    dice: float
    iou: float
    hd95_mm: float
    hd95_pooled_mm: float
    assd_mm: float
    nsd: float
    reference_ml: float
    prediction_ml: float


@dataclass(frozen=True)
class VideoScore:
    """Scores of a video over all classes, defined in ``video.py``.

    Attributes:
        case: Case id.
        miou_per_frame: Mean over frames of the mean IoU of the classes present, 0 to 1; NaN if all frames are empty.
        frames: Number of labelled frames.
        empty_frames: Labelled frames without any class; they are excluded from ``miou_per_frame``.
        unlabelled_frames: Predicted frames without a reference; they are excluded from all scores.
    """

    case: str
    miou_per_frame: float
    frames: int
    empty_frames: int
    unlabelled_frames: int


@dataclass(frozen=True)
class ClassSummary:
    """Statistics of each metric of one class over all cases."""

    label: str
    dice: Statistic
    iou: Statistic
    hd95_mm: Statistic
    hd95_pooled_mm: Statistic
    assd_mm: Statistic
    nsd: Statistic


@dataclass(frozen=True)
class Evaluation:
    """Scores of all cases and classes.

    Attributes:
        scores: Scores sorted by case, then by class in the order of the label scheme.
        nsd_tolerance_mm: Tolerance of the surface Dice.
        reference_empty: Score of a class absent from both masks.
        missing: Cases without a prediction, which received the worst scores.
        videos: One score per video; empty for volumes.
    """

    scores: tuple[CaseScore, ...]
    nsd_tolerance_mm: float = 1.0
    reference_empty: ReferenceEmpty = "nan"
    missing: tuple[str, ...] = ()
    videos: tuple[VideoScore, ...] = ()

    @property
    def cases(self) -> tuple[str, ...]:
        """Case ids in the order of the scores."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the scores."""
        return tuple(dict.fromkeys(score.label for score in self.scores))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that are defined for these cases."""
        return VIDEO_METRICS if self.videos else METRICS

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return [cases, classes] scores of one metric of ``METRICS``."""
        numbers = [getattr(score, metric) for score in self.scores]
        return np.array(numbers, dtype=np.float64).reshape(len(self.cases), len(self.labels))

    @cached_property
    def summary(self) -> tuple[ClassSummary, ...]:
        """One summary per class, in the order of ``labels``."""
        columns = {metric: self.values(metric) for metric in METRICS}
        return tuple(
            ClassSummary(label, **{metric: summarise(values[:, k]) for metric, values in columns.items()})
            for k, label in enumerate(self.labels)
        )

    @property
    def mean_dice(self) -> float:
        """Mean over classes of the mean over cases, as in the paper."""
        return mean_of_means(self.values("dice"), axis=0)

    @property
    def mean_dice_by_case(self) -> float:
        """Mean over cases of the mean over classes; differs from ``mean_dice`` only if scores are NaN."""
        return mean_of_means(self.values("dice"), axis=1)

    @property
    def mean_dice_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of ``mean_dice`` over cases."""
        return bootstrap_interval(self.values("dice"))

    @property
    def case_dice(self) -> dict[str, float]:
        """Mean Dice over classes by case id."""
        return {
            case: mean_of_means(row[:, None], axis=0) for case, row in zip(self.cases, self.values("dice"), strict=True)
        }

    @property
    def miou_per_frame(self) -> float:
        """Mean over videos of their ``miou_per_frame``; NaN for volumes."""
        return mean_of_means(self._miou_by_video, axis=0)

    @property
    def miou_per_frame_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of ``miou_per_frame`` over videos."""
        return bootstrap_interval(self._miou_by_video)

    @property
    def _miou_by_video(self) -> NDArray[np.float64]:
        return np.array([[video.miou_per_frame] for video in self.videos], dtype=np.float64).reshape(-1, 1)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table of the summary: a header, one row per class, and the mean over classes."""
        shown = [metric for metric in self.metrics if metric in _COLUMNS]
        heads = [_COLUMNS[metric][0].format(self.nsd_tolerance_mm) for metric in shown]
        rows: list[tuple[str, ...]] = [("class", "Dice", "95 % interval", *heads, "n", "NaN")]
        for item in self.summary:
            interval = interval_text(item.dice.low, item.dice.high)
            numbers = [score_text(getattr(item, metric).mean, _COLUMNS[metric][1]) for metric in shown]
            counts = (str(item.dice.counted), str(item.dice.nan))
            rows.append((item.label, score_text(item.dice.mean, 3), interval, *numbers, *counts))
        means = [score_text(mean_of_means(self.values(metric), axis=0), _COLUMNS[metric][1]) for metric in shown]
        interval = interval_text(*self.mean_dice_interval)
        rows.append(("mean", score_text(self.mean_dice, 3), interval, *means, str(len(self.cases)), ""))
        return rows

    def video_rows(self) -> list[tuple[str, ...]]:
        """Return the table of the videos: a header, one row per video, and the mean; empty for volumes."""
        if not self.videos:
            return []
        rows: list[tuple[str, ...]] = [
            ("video", "Dice", "mIoU per frame", "95 % interval", "frames", "empty", "unlabelled")
        ]
        counts = np.array([(video.frames, video.empty_frames, video.unlabelled_frames) for video in self.videos])
        for video, numbers in zip(self.videos, counts.tolist(), strict=True):
            scores = (score_text(self.case_dice[video.case], 3), score_text(video.miou_per_frame, 3))
            rows.append((video.case, *scores, "", *map(str, numbers)))
        scores = (score_text(self.mean_dice_by_case, 3), score_text(self.miou_per_frame, 3))
        interval = interval_text(*self.miou_per_frame_interval)
        rows.append(("all", *scores, interval, *map(str, counts.sum(axis=0).tolist())))
        return rows

    def table(self) -> str:
        """Return ``rows`` and ``video_rows`` as aligned text."""
        return "\n\n".join(_aligned(rows) for rows in (self.rows(), self.video_rows()) if rows)

    def to_csv(self, path: Path | str) -> None:
        """Write one row per case and class; undefined scores are empty cells."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(CaseScore)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(nan_to_null(asdict(score)) for score in self.scores)
        write_text(Path(path), text.getvalue())

    def record(self) -> dict[str, Any]:
        """Return scores and summary as JSON values; undefined scores are None."""
        record: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "nsd_tolerance_mm": self.nsd_tolerance_mm,
            "reference_empty": self.reference_empty,
            "missing": list(self.missing),
            "mean_dice": self.mean_dice,
            "mean_dice_by_case": self.mean_dice_by_case,
            "mean_dice_interval": list(self.mean_dice_interval),
            "miou_per_frame": self.miou_per_frame,
            "miou_per_frame_interval": list(self.miou_per_frame_interval),
            "summary": [asdict(item) for item in self.summary],
            "scores": [asdict(score) for score in self.scores],
            "videos": [asdict(video) for video in self.videos],
        }
        return dict(nan_to_null(record))

    def to_json(self, path: Path | str) -> None:
        """Write ``record()`` as JSON."""
        write_record(path, self.record())

    @classmethod
    def from_json(cls, path: Path | str) -> Evaluation:
        """Read a file that ``to_json`` wrote, in this format version or an earlier one.

        The summary is computed from the scores. Raises InputError if the file is not readable or has another format.
        """
        fix = "give a file that `masam evaluate --out` wrote"
        record = gate.read_json(Path(path))
        if not isinstance(record, dict) or record.get("format") != _FORMAT or record.get("version") not in _READABLE:
            raise InputError(f"expected format {_FORMAT!r}, version {_VERSION} or earlier", where=path, fix=fix)
        try:
            evaluation = cls(
                tuple(_score(item) for item in record["scores"]),
                float(record["nsd_tolerance_mm"]),
                "one" if record["reference_empty"] == "one" else "nan",
                tuple(str(case) for case in record["missing"]),
                () if record["version"] == 1 else tuple(_video(item) for item in record["videos"]),
            )
            evaluation.values("dice")  # raises if a case lacks a class
            if evaluation.videos and tuple(video.case for video in evaluation.videos) != evaluation.cases:
                raise ValueError("videos and scores have different cases")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a field is missing or has the wrong type ({error!r})", where=path, fix=fix) from error
        return evaluation


def _score(item: dict[str, Any]) -> CaseScore:
    numbers = {field.name: _number(item[field.name]) for field in fields(CaseScore)[2:]}
    return CaseScore(str(item["case"]), str(item["label"]), **numbers)


def _video(item: dict[str, Any]) -> VideoScore:
    counts = {name: int(item[name]) for name in ("frames", "empty_frames", "unlabelled_frames")}
    return VideoScore(str(item["case"]), _number(item["miou_per_frame"]), **counts)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def nan_to_null(value: Any) -> Any:
    """Replace NaN by None in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def score_text(value: float, digits: int) -> str:
    """Format a score for a table; NaN is a dash."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def interval_text(low: float, high: float) -> str:
    """Format an interval for a table; NaN is a dash."""
    return "-" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def write_record(path: Path | str, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    write_text(Path(path), json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
