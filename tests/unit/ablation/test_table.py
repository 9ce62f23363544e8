"""Figures and texts of a table, from scores that are written by hand."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from masam.ablation.cell import Cell, CellResult
from masam.ablation.table import AblationTable, make_row
from masam.evaluation import CaseScore, Evaluation
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.training.config import TrainConfig

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=0, high=1), image_size=32,
    labels={"background": 0, "ball": 1, "box": 2},
)  # fmt: skip
NAN = math.nan


def evaluation(dice):
    """Scores of two classes by case."""
    return Evaluation(
        tuple(
            CaseScore(case, label, value, value, NAN, NAN, NAN, NAN, 1.0, 1.0)
            for case, values in dice.items()
            for label, value in zip(("ball", "box"), values, strict=True)
        )
    )


def result(row, seed, dice=None, state="done", fold=None, reason="", seconds=10.0):
    cell = Cell(row, seed, fold, TrainConfig(), PLAN, "data", {})
    scores = None if dice is None else evaluation(dice)
    return CellResult(cell, Path(row), state, reason, scores, seconds if dice else 0.0)


FULL = [
    result("full", 1, {"a": (0.9, 0.5), "b": (0.7, 0.3)}),
    result("full", 2, {"a": (0.8, 0.6), "b": (0.8, 0.6)}, seconds=20.0),
]
LESS = [
    result("less", 1, {"a": (0.8, 0.4), "b": (0.6, 0.2)}),
    result("less", 2, state="diverged", reason="the loss is not finite"),
]


def table(*rows):
    return AblationTable("Tiny", "test", "full", rows)


def make(name, results, baseline=FULL):
    return make_row(name, 1_230_000, results, baseline)


def test_a_row_by_hand():
    row = make("full", FULL)
    assert row.seeds == pytest.approx({1: 0.6, 2: 0.7})
    assert row.dice == pytest.approx(0.65)
    assert row.sd_of_seeds == pytest.approx(0.1 / math.sqrt(2))
    # Case a alone has 0.7 in both seeds, b alone 0.6; each is drawn twice in a quarter of the draws.
    assert (row.low, row.high) == pytest.approx((0.6, 0.7))
    assert row.classes == pytest.approx({"ball": 0.8, "box": 0.5})
    assert (row.difference, row.difference_low, row.difference_high) == (0, 0, 0)
    assert (row.training_seconds, row.cells) == (15, "2 of 2")


def test_a_difference_is_over_the_cells_that_both_have():
    row = make("less", LESS)
    # Seed 2 diverged: only seed 1 is compared, in which every score is 0.1 lower.
    assert (row.difference, row.difference_low, row.difference_high) == pytest.approx((-0.1, -0.1, -0.1))
    assert (row.dice, row.cells) == (pytest.approx(0.5), "1 of 2, 1 diverged")
    assert math.isnan(row.sd_of_seeds)


def test_a_row_without_a_finished_cell_has_no_statistics():
    row = make("less", [result("less", 1, state="not begun")])
    missing = (row.dice, row.sd_of_seeds, row.low, row.high, row.difference, row.training_seconds)
    assert all(math.isnan(n) for n in missing)
    assert (row.seeds, row.classes, row.cells) == ({}, {}, "0 of 1")


def test_folds_of_a_seed_are_one_set_of_cases():
    """Each fold has its own cases; a seed's mean is over all of them."""
    folds = [result("full", 1, {"a": (0.9, 0.5)}, fold=0), result("full", 1, {"b": (0.5, 0.3)}, fold=1)]
    row = make("full", folds, folds)
    assert row.seeds == pytest.approx({1: 0.55})
    half = make(
        "less", [result("less", 1, {"b": (0.6, 0.4)}, fold=1), result("less", 1, state="failed", fold=0)], folds
    )
    assert half.difference == pytest.approx(0.1)


def test_a_case_that_several_folds_scored_counts_once():
    folds = [result("full", 1, {"a": (0.9, 0.5)}, fold=0), result("full", 1, {"a": (0.7, NAN)}, fold=1)]
    assert make("full", folds, folds).dice == pytest.approx((0.8 + 0.5) / 2)


def test_text_of_a_table():
    full, less = make("full", FULL), make("a|b", [replace(r, cell=replace(r.cell, row="a|b")) for r in LESS])
    found = table(full, less)
    assert not found.is_complete
    assert found.caption == "Tiny: Dice on 2 labelled test cases; not all cells are done"
    assert table(full).caption == "Tiny: Dice on 2 labelled test cases"
    assert replace(table(full), scored_on="validation").caption == "Tiny: Dice on 2 validation cases"
    lines = found.markdown().splitlines()
    assert lines[2:6] == [
        "| row | Dice | SD of seeds | 95 % interval | minus full | 95 % interval of the difference "
        "| trained parameters | training | cells done |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full | 0.650 | 0.071 | 0.600 to 0.700 |  |  | 1.23 M | 15 s | 2 of 2 |",
        r"| a\|b | 0.500 | - | 0.400 to 0.600 | -0.100 | -0.100 to -0.100 | 1.23 M | 10 s | 1 of 2, 1 diverged |",
    ]
    assert lines[-1] == "- a|b, seed 2: diverged: the loss is not finite"


def test_files(tmp_path):
    found = table(make("full", FULL), make("less", LESS))
    found.write(tmp_path)
    assert (tmp_path / "table.md").read_text() == found.markdown()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row["row"] for row in rows] == ["full", "less"]
    assert float(rows[0]["dice"]) == pytest.approx(0.65)
    assert (rows[1]["sd_of_seeds"], rows[1]["cells_done"], rows[1]["cells_failed"]) == ("", "1", "1")
    record = json.loads((tmp_path / "table.json").read_text())
    assert (record["format"], record["version"], record["complete"]) == ("masam-ablation", 1, False)
    assert record["rows"][1]["sd_of_seeds"] is None
    assert record["rows"][1]["seeds"] == pytest.approx({"1": 0.5})
    assert [run["state"] for run in record["rows"][1]["runs"]] == ["done", "diverged"]
    assert record["rows"][1]["runs"][1]["dice"] is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.0, "59 s"), (61.0, "1 min 1 s"), (7325.0, "2 h 2 min")]
)
def test_training_time(seconds, text):
    row = make("full", [result("full", 1, {"a": (0.9, 0.5)}, seconds=seconds)])
    assert table(row).cells()[1][7] == text
