"""The table itself: what the cells of each row sum up to, and its forms for people and machines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masam import atomic
from masam.ablation.cell import CellResult
from masam.ablation.data import ScoredOn
from masam.evaluation.repetitions import (
    Repeated,
    interval_over_cases,
    mean_over_seeds,
    paired_difference,
    seed_means,
    spread_over_seeds,
)

_FORMAT, _VERSION = "masam-ablation", 1


@dataclass(frozen=True)
class TableRow:
    """One row in figures; NaN where there are too few cells or cases for one.

    Attributes:
        name: Its name.
        dice: Mean over seeds of the mean over classes of the mean over cases.
        spread: Standard deviation over seeds of those means.
        low: Lower end of the 95 % interval of ``dice`` over cases.
        high: Upper end.
        difference: ``dice`` less the baseline's, over the seeds and folds that both have done.
        difference_low: Lower end of its 95 % interval over cases, paired.
        difference_high: Upper end.
        parameters: Numbers that training changes.
        seconds: Mean time of a run's optimiser steps.
        seeds: Mean Dice by seed.
        classes: Mean Dice by class, over cases and seeds.
        results: Its cells.
    """

    name: str
    dice: float
    spread: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    parameters: int
    seconds: float
    seeds: dict[int, float]
    classes: dict[str, float]
    results: tuple[CellResult, ...]

    @property
    def cells(self) -> str:
        """How many cells are done, and what became of the others."""
        states = [result.state for result in self.results]
        done = f"{states.count('done')} of {len(states)}"
        return ", ".join([done, *(f"{states.count(s)} {s}" for s in ("failed", "diverged") if s in states)])


@dataclass(frozen=True)
class AblationTable:
    """All rows.

    Attributes:
        title: The data set's name.
        scored_on: Which cases the scores are of.
        baseline: Row that the others are compared with.
        rows: The rows in their order.
    """

    title: str
    scored_on: ScoredOn
    baseline: str
    rows: tuple[TableRow, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every cell is done."""
        return all(result.state == "done" for row in self.rows for result in row.results)

    @property
    def caption(self) -> str:
        """What the figures are of."""
        cases = {
            case for row in self.rows for r in row.results if r.evaluation is not None for case in r.evaluation.cases
        }
        kind = "labelled test cases" if self.scored_on == "test" else "validation cases"
        partial = "" if self.is_complete else "; not all cells are done"
        return f"{self.title}: Dice on {len(cases)} {kind}{partial}"

    def cells(self) -> list[tuple[str, ...]]:
        """Return the head and the rows as text."""
        head = (
            "row", "Dice", "SD of seeds", "95 % interval", f"less {self.baseline}", "95 % interval of it",
            "trained parameters", "training", "cells done",
        )  # fmt: skip
        return [head, *(self._text(row) for row in self.rows)]

    def _text(self, row: TableRow) -> tuple[str, ...]:
        is_baseline = row.name == self.baseline
        return (
            row.name,
            _number(row.dice),
            _number(row.spread),
            _interval(row.low, row.high),
            "" if is_baseline else _number(row.difference, "+"),
            "" if is_baseline else _interval(row.difference_low, row.difference_high, "+"),
            f"{row.parameters / 1e6:.2f} M",
            _time(row.seconds),
            row.cells,
        )

    def markdown(self) -> str:
        """Return the table with its caption and what its columns mean, in Markdown."""
        head, *rows = [[cell.replace("|", r"\|") for cell in line] for line in self.cells()]
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
        return "\n".join([f"{self.caption}.", "", *lines, "", *_NOTES, *self._failures()]) + "\n"

    def _failures(self) -> list[str]:
        failed = [r for row in self.rows for r in row.results if r.state in ("failed", "diverged")]
        return ["", *(f"- {r.cell.title}: {r.state}: {r.reason}" for r in failed)] if failed else []

    def csv(self) -> str:
        """Return one line a row, figures at full length; what is not known is an empty cell."""
        text = io.StringIO()
        records = [self._figures(row) for row in self.rows]
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in record.items()} for record in records)
        return text.getvalue()

    def _figures(self, row: TableRow) -> dict[str, Any]:
        states = [result.state for result in row.results]
        return {
            "row": row.name,
            "dice": _known(row.dice),
            "sd_of_seeds": _known(row.spread),
            "low": _known(row.low),
            "high": _known(row.high),
            "difference": _known(row.difference),
            "difference_low": _known(row.difference_low),
            "difference_high": _known(row.difference_high),
            "trained_parameters": row.parameters,
            "training_seconds": _known(row.seconds),
            "cells": len(states),
            "cells_done": states.count("done"),
            "cells_failed": states.count("failed") + states.count("diverged"),
        }

    def record(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; what is not known is None."""
        rows = [
            {
                **self._figures(row),
                "seeds": {str(seed): _known(dice) for seed, dice in row.seeds.items()},
                "classes": {name: _known(dice) for name, dice in row.classes.items()},
                "runs": [_run_record(result) for result in row.results],
            }
            for row in self.rows
        ]
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "dataset": self.title,
            "scored_on": self.scored_on,
            "baseline": self.baseline,
            "complete": self.is_complete,
            "rows": rows,
        }

    def write(self, out: Path) -> None:
        """Write ``table.md``, ``table.csv`` and ``table.json``.

        Raises:
            ResourceError: A file cannot be written.
        """
        atomic.write_text(out / "table.md", self.markdown())
        atomic.write_text(out / "table.csv", self.csv())
        text = json.dumps(self.record(), indent=1, allow_nan=False, ensure_ascii=False)
        atomic.write_text(out / "table.json", text + "\n")


def make_row(name: str, parameters: int, results: Sequence[CellResult], baseline: Sequence[CellResult]) -> TableRow:
    """Sum up the cells of a row.

    Args:
        name: The row's name.
        parameters: Numbers that training changes.
        results: Its cells, done or not.
        baseline: The cells of the row that it is compared with.
    """
    done = [result for result in results if result.evaluation is not None]
    seeds, values, labels = _scores(done, done)
    low, high = interval_over_cases(values)
    both = {_key(result) for result in done} & {_key(result) for result in baseline if result.evaluation is not None}
    own, others = ([r for r in some if _key(r) in both] for some in (done, baseline))
    difference = paired_difference(_scores(own, others)[1], _scores(others, own)[1])
    with_score = ~np.isnan(values)
    sums, counts = np.where(with_score, values, 0.0).sum(axis=(0, 1)), with_score.sum(axis=(0, 1))
    return TableRow(
        name,
        mean_over_seeds(values),
        spread_over_seeds(values),
        low,
        high,
        *difference,
        parameters,
        sum(result.training_seconds for result in done) / len(done) if done else math.nan,
        dict(zip(seeds, seed_means(values).tolist(), strict=True)),
        {label: float(s / n) if n else math.nan for label, s, n in zip(labels, sums, counts, strict=True)},
        tuple(results),
    )


def _scores(results: Sequence[CellResult], others: Sequence[CellResult]) -> tuple[list[int], Repeated, list[str]]:
    """Return seeds, Dice [seeds, cases, classes] and class names; a case of several folds counts by its mean.

    The cases are those of both groups, so that two rows have the same axes.
    """
    evaluations = [r.evaluation for r in (*results, *others) if r.evaluation is not None]
    cases = sorted({case for evaluation in evaluations for case in evaluation.cases})
    labels = list(evaluations[0].labels) if evaluations else []
    seeds = list(dict.fromkeys(result.cell.seed for result in results))
    sums = np.zeros((len(seeds), len(cases), len(labels)))
    counts = np.zeros(sums.shape)
    for result in results:
        if result.evaluation is None:
            continue
        place = [cases.index(case) for case in result.evaluation.cases]
        dice = result.evaluation.values("dice")
        sums[seeds.index(result.cell.seed), place] += np.nan_to_num(dice)
        counts[seeds.index(result.cell.seed), place] += ~np.isnan(dice)
    values = np.divide(sums, counts, out=np.full(sums.shape, math.nan), where=counts > 0)
    return seeds, values, labels


def _key(result: CellResult) -> tuple[int, int | None]:
    return result.cell.seed, result.cell.fold


_NOTES = (
    "- Dice: mean over seeds of the mean over classes of the mean over cases.",
    "- SD of seeds: standard deviation (n - 1) of the seeds' means, which is chance in training.",
    "- 95 % intervals: cases are drawn with replacement, each with its scores of every seed; of a difference, the same",
    "  cases are drawn for both rows. They tell what other cases like these would do, not what other seeds would.",
    "- training: mean time of a run's optimiser steps, without preparation and validation.",
)


def _run_record(result: CellResult) -> dict[str, Any]:
    dice = math.nan if result.evaluation is None else result.evaluation.mean_dice
    return {
        "folder": result.root.name,
        "seed": result.cell.seed,
        "fold": result.cell.fold,
        "state": result.state,
        "reason": result.reason,
        "dice": _known(dice),
        "training_seconds": result.training_seconds if result.state == "done" else None,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.3f}"


def _interval(low: float, high: float, sign: str = "") -> str:
    return "-" if math.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
