"""The result of an evaluation of prompts: Dice without any, with boxes and after clicks, side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.atomic import write_text
from masam.evaluation.scores import interval_text, nan_to_null, score_text
from masam.evaluation.statistics import bootstrap_interval, mean_of_means, summarise

_FORMAT, _VERSION = "masam-prompt-evaluation", 1


@dataclass(frozen=True)
class PromptScore:
    """One class in one case whose reference holds it; Dice of the whole case, 0 to 1.

    Attributes:
        case: Case id.
        label: Class name.
        automatic: Without prompts.
        boxes: With each box, by its name.
        clicks: After the first click, after the second, and so on.
    """

    case: str
    label: str
    automatic: float
    boxes: Mapping[str, float]
    clicks: tuple[float, ...]


@dataclass(frozen=True)
class PromptSummary:
    """One way of prompting over all cases.

    Attributes:
        prompt: Its name, as a row of the table.
        mean_dice: Mean over classes of the mean over cases, NaN without any.
        low: Lower end of the 95 % bootstrap interval of ``mean_dice`` over cases, NaN with fewer than two cases.
        high: Upper end.
        classes: Mean Dice over cases of each class, NaN where no case holds it.
    """

    prompt: str
    mean_dice: float
    low: float
    high: float
    classes: Mapping[str, float]


@dataclass(frozen=True)
class PromptEvaluation:
    """What prompts do for a model.

    Attributes:
        scores: Case by case, the classes of each in the label scheme's order; a class that a reference lacks has none.
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
        """Without prompts."""
        return self._summary("automatic", [score.automatic for score in self.scores])

    @property
    def by_box(self) -> tuple[PromptSummary, ...]:
        """With each box, in the order of ``boxes``."""
        return tuple(self._summary(name, [score.boxes[name] for score in self.scores]) for name in self.boxes)

    @property
    def by_clicks(self) -> tuple[PromptSummary, ...]:
        """After 1, 2, ... clicks."""
        return tuple(
            self._summary(f"{count + 1} click{'s' * (count > 0)}", [score.clicks[count] for score in self.scores])
            for count in range(self.clicks)
        )

    @property
    def summary(self) -> tuple[PromptSummary, ...]:
        """All ways of prompting, as the table has them."""
        return (self.automatic, *self.by_box, *self.by_clicks)

    def _summary(self, prompt: str, dice: list[float]) -> PromptSummary:
        values = self._table(dice)
        means = {label: summarise(values[:, column]).mean for column, label in enumerate(self.labels)}
        return PromptSummary(prompt, mean_of_means(values, axis=0), *bootstrap_interval(values), means)

    def _table(self, dice: list[float]) -> NDArray[np.float64]:
        """Return [cases, classes], NaN where the reference lacks the class."""
        values = np.full((len(self.cases), len(self.labels)), math.nan)
        for score, value in zip(self.scores, dice, strict=True):
            values[self.cases.index(score.case), self.labels.index(score.label)] = value
        return values

    def rows(self) -> list[tuple[str, ...]]:
        """Return the summary as cells for a terminal: a head, and a row a way of prompting."""
        rows = [("prompt", "Dice", "95 % interval", *(self.labels if len(self.labels) > 1 else ()))]
        for item in self.summary:
            classes = [score_text(value, 3) for value in item.classes.values()] if len(self.labels) > 1 else []
            rows.append((item.prompt, score_text(item.mean_dice, 3), interval_text(item.low, item.high), *classes))
        return rows

    def record(self) -> dict[str, Any]:
        """Return scores and summary as JSON can hold them; a score that is not defined is None."""
        record = {
            "format": _FORMAT,
            "version": _VERSION,
            "seed": self.seed,
            "cases": list(self.cases),
            "summary": [asdict(item) for item in self.summary],
            "scores": [asdict(score) for score in self.scores],
        }
        plain: dict[str, Any] = nan_to_null(record)
        return plain

    def to_json(self, path: Path | str) -> None:
        """Write ``record()``."""
        write_text(Path(path), json.dumps(self.record(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
