"""Result of an evaluation with prompts: Dice without prompts, with boxes and after clicks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.evaluation.scores import interval_text, nan_to_null, score_text, write_record
from masam.evaluation.statistics import bootstrap_interval, mean_of_means, summarise

_FORMAT, _VERSION = "masam-prompt-evaluation", 1


@dataclass(frozen=True)
class PromptScore:
    """Dice of one class that is present in the reference of one case, from 0 to 1.

    Attributes:
        case: Case id.
        label: Class name.
        automatic: Dice without prompts.
        boxes: Dice with each box, by the name of the box.
        clicks: Dice after the first click, after the second, and so on.
    """

    case: str
    label: str
    automatic: float
    boxes: Mapping[str, float]
    clicks: tuple[float, ...]


@dataclass(frozen=True)
class PromptSummary:
    """One kind of prompt over all cases.

    Attributes:
        prompt: Name of the prompt, as in the table.
        mean_dice: Mean over classes of the mean over cases, NaN without any score.
        low: Lower end of the 95 % bootstrap interval of ``mean_dice`` over cases, NaN with fewer than two cases.
        high: Upper end of the interval.
        classes: Mean Dice over cases of each class, NaN for a class without scores.
    """

    prompt: str
    mean_dice: float
    low: float
    high: float
    classes: Mapping[str, float]


@dataclass(frozen=True)
class PromptEvaluation:
    """Scores of a model without and with prompts.

    Attributes:
        scores: Scores sorted by case, then by class; classes absent from a reference have none.
        cases: All case ids.
        labels: All class names.
        boxes: Names of the boxes.
        clicks: Number of clicks.
        seed: Seed of the jittered boxes.
    """

    scores: tuple[PromptScore, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    boxes: tuple[str, ...]
    clicks: int
    seed: int

    @property
    def automatic(self) -> PromptSummary:
        """Summary without prompts."""
        return self._summary("automatic", [score.automatic for score in self.scores])

    @property
    def by_box(self) -> tuple[PromptSummary, ...]:
        """Summary of each box, in the order of ``boxes``."""
        return tuple(self._summary(name, [score.boxes[name] for score in self.scores]) for name in self.boxes)

    @property
    def by_clicks(self) -> tuple[PromptSummary, ...]:
        """Summary after 1, 2, ... clicks."""
        return tuple(
            self._summary(f"{count + 1} click{'s' * (count > 0)}", [score.clicks[count] for score in self.scores])
            for count in range(self.clicks)
        )

    @property
    def summary(self) -> tuple[PromptSummary, ...]:
        """Summaries of all prompts, in the order of the table."""
        return (self.automatic, *self.by_box, *self.by_clicks)

    def _summary(self, prompt: str, dice: list[float]) -> PromptSummary:
        values = self._table(dice)
        means = {label: summarise(values[:, column]).mean for column, label in enumerate(self.labels)}
        return PromptSummary(prompt, mean_of_means(values, axis=0), *bootstrap_interval(values), means)

    def _table(self, dice: list[float]) -> NDArray[np.float64]:
        """Return [cases, classes] scores, NaN for classes absent from the reference."""
        values = np.full((len(self.cases), len(self.labels)), math.nan)
        for score, value in zip(self.scores, dice, strict=True):
            values[self.cases.index(score.case), self.labels.index(score.label)] = value
        return values

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table of the summary: a header and one row per prompt."""
        labels = self.labels if len(self.labels) > 1 else ()
        return [("prompt", "Dice", "95 % interval", *labels)] + [
            (
                item.prompt,
                score_text(item.mean_dice, 3),
                interval_text(item.low, item.high),
                *(score_text(item.classes[label], 3) for label in labels),
            )
            for item in self.summary
        ]

    def record(self) -> dict[str, Any]:
        """Return scores and summary as JSON values; undefined scores are None."""
        record: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "seed": self.seed,
            "cases": list(self.cases),
            "summary": [asdict(item) for item in self.summary],
            "scores": [asdict(score) for score in self.scores],
        }
        return dict(nan_to_null(record))

    def to_json(self, path: Path | str) -> None:
        """Write ``record()`` as JSON."""
        write_record(path, self.record())
