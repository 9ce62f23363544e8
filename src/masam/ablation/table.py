"""The table of training variants: the statistics of each row, and its forms for people and machines."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masam import atomic
from masam.ablation.cell import CellResult
from masam.ablation.data import ScoredOn
from masam.evaluation.scores import nan_to_null, write_record
from masam.evaluation.statistics import (
    Repeated,
    interval_over_cases,
    mean_over_seeds,
    paired_difference,
    seed_means,
    spread_over_seeds,
)

_FORMAT, _VERSION = "masam-ablation", 1
_FAILED = ("failed", "diverged")
_NOTES = (
    "- Dice: mean over seeds of the mean over classes of the mean over cases.",
    "- SD of seeds: standard deviation (n - 1) of the means of the seeds, which shows the randomness of training.",
    "- 95 % intervals: bootstrap over cases, each with its scores of every seed; for a difference, the same cases are",
    "  drawn for both rows. They describe other cases like these, not other seeds.",
    "- training: mean time of the optimiser steps of a run, without preparation and validation.",
)


@dataclass(frozen=True)
class TableRow:
    """The statistics of one row; NaN where there are too few cells or cases."""

    name: str
    dice: float  # mean over seeds of the mean over classes of the mean over cases
    sd_of_seeds: float  # standard deviation of these means over seeds
    low: float  # lower end of the 95 % interval of ``dice`` over cases
    high: float  # upper end
    difference: float  # ``dice`` minus the baseline's, over the seeds and folds that are done in both rows
    difference_low: float  # lower end of its 95 % interval over cases, paired
    difference_high: float  # upper end
    trained_parameters: int
    training_seconds: float  # mean time of the optimiser steps of a run
    seeds: dict[int, float]  # mean Dice by seed
    classes: dict[str, float]  # mean Dice by class, over cases and seeds
    results: tuple[CellResult, ...]  # the cells of the row

    def count(self, *states: str) -> int:
        """Return the number of cells in one of the states."""
        return sum(result.state in states for result in self.results)

    @property
    def cells(self) -> str:
        """Number of cells that are done or failed."""
        done = f"{self.count('done')} of {len(self.results)}"
        return ", ".join([done, *(f"{self.count(state)} {state}" for state in _FAILED if self.count(state))])

    def figures(self) -> dict[str, Any]:
        """Return the statistics by their names in files."""
        others = ("name", "seeds", "classes", "results")
        return {
            "row": self.name,
            **{key: value for key, value in vars(self).items() if key not in others},
            "cells": len(self.results),
            "cells_done": self.count("done"),
            "cells_failed": self.count(*_FAILED),
        }


@dataclass(frozen=True)
class AblationTable:
    """All rows of a table."""

    title: str  # name of the data set
    scored_on: ScoredOn  # cases on which rows are scored
    baseline: str  # row with which the others are compared
    rows: tuple[TableRow, ...]  # the rows in their order

    @property
    def is_complete(self) -> bool:
        """Whether every cell is done."""
        return all(result.state == "done" for row in self.rows for result in row.results)

    @property
    def caption(self) -> str:
        """Caption with the data set and the number of cases."""
        evaluations = [result.evaluation for row in self.rows for result in row.results]
        cases = {case for evaluation in evaluations if evaluation is not None for case in evaluation.cases}
        kind = "labelled test cases" if self.scored_on == "test" else "validation cases"
        partial = "" if self.is_complete else "; not all cells are done"
        return f"{self.title}: Dice on {len(cases)} {kind}{partial}"

    def cells(self) -> list[tuple[str, ...]]:
        """Return the header and the rows as text."""
        header = (
            "row", "Dice", "SD of seeds", "95 % interval",
            f"minus {self.baseline}", "95 % interval of the difference",
            "trained parameters", "training", "cells done",
        )  # fmt: skip
        return [header, *(self._text(row) for row in self.rows)]

    def _text(self, row: TableRow) -> tuple[str, ...]:
        is_baseline = row.name == self.baseline
        return (
            row.name,
            _number(row.dice),
            _number(row.sd_of_seeds),
            _interval(row.low, row.high),
            "" if is_baseline else _number(row.difference, "+"),
            "" if is_baseline else _interval(row.difference_low, row.difference_high, "+"),
            f"{row.trained_parameters / 1e6:.2f} M",
            _time(row.training_seconds),
            row.cells,
        )

    def markdown(self) -> str:
        """Return the table in Markdown, with its caption, notes and failures."""
        header, *rows = [[cell.replace("|", r"\|") for cell in line] for line in self.cells()]
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines = [f"| {' | '.join(line)} |" for line in (header, rule, *rows)]
        failed = [result for row in self.rows for result in row.results if result.state in _FAILED]
        failures = ["", *(f"- {r.cell.title}: {r.state}: {r.reason}" for r in failed)] if failed else []
        return "\n".join([f"{self.caption}.", "", *lines, "", *_NOTES, *failures]) + "\n"

    def csv(self) -> str:
        """Return one line per row, with all digits; a missing value is an empty cell."""
        text = io.StringIO()
        records = [nan_to_null(row.figures()) for row in self.rows]
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def record(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; None where there is no value."""
        rows = [
            {
                **row.figures(),
                "seeds": {str(seed): dice for seed, dice in row.seeds.items()},
                "classes": row.classes,
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
            "rows": nan_to_null(rows),
        }

    def write(self, out: Path) -> None:
        """Write ``table.md``, ``table.csv`` and ``table.json``."""
        atomic.write_text(out / "table.md", self.markdown())
        atomic.write_text(out / "table.csv", self.csv())
        write_record(out / "table.json", self.record())


def make_row(name: str, parameters: int, results: Sequence[CellResult], baseline: Sequence[CellResult]) -> TableRow:
    """Compute the statistics of a row from its cells and those of the baseline, done or not."""
    done = [result for result in results if result.evaluation is not None]
    seeds, values, labels = _scores(done, done)
    low, high = interval_over_cases(values)
    both = {_key(result) for result in done} & {_key(result) for result in baseline if result.evaluation is not None}
    ours, theirs = ([result for result in row if _key(result) in both] for row in (done, baseline))
    difference = paired_difference(_scores(ours, theirs)[1], _scores(theirs, ours)[1])
    sums, counts = np.nansum(values, axis=(0, 1)), (~np.isnan(values)).sum(axis=(0, 1))
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
        index = [cases.index(case) for case in result.evaluation.cases]
        dice = result.evaluation.values("dice")
        sums[seeds.index(result.cell.seed), index] += np.nan_to_num(dice)
        counts[seeds.index(result.cell.seed), index] += ~np.isnan(dice)
    values = np.divide(sums, counts, out=np.full(sums.shape, math.nan), where=counts > 0)
    return seeds, values, labels


def _key(result: CellResult) -> tuple[int, int | None]:
    return result.cell.seed, result.cell.fold


def _run_record(result: CellResult) -> dict[str, Any]:
    return {
        "folder": result.root.name,
        "seed": result.cell.seed,
        "fold": result.cell.fold,
        "state": result.state,
        "reason": result.reason,
        "dice": result.dice,
        "training_seconds": result.training_seconds if result.state == "done" else None,
    }


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
