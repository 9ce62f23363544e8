"""A cell of the table: one row trained with one seed (and fold), in a run folder that is identified by its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from masam import atomic
from masam.ablation.config import folder_name
from masam.errors import InputError
from masam.evaluation import Evaluation
from masam.io import gate
from masam.preprocess.plan import Plan
from masam.runs.finished import is_finished, values_sha256
from masam.runs.metrics import read_columns
from masam.training.config import TrainConfig, flatten
from masam.training.run_folder import RunFolder

CELL_FILE = "cell.json"
"""Settings and state of a cell, in its run folder."""

SCORES_FILE = "scores.json"
"""The evaluation of a cell, in the format of ``masam evaluate``."""

State = Literal["not begun", "unfinished", "trained", "done", "failed", "diverged"]
"""State of a cell; ``trained`` has no scores yet, or scores of another rule or of other cases."""

_FORMAT, _VERSION = "masam-ablation-cell", 1


@dataclass(frozen=True)
class Cell:
    """One row with one seed and fold."""

    row: str
    seed: int
    fold: int | None  # held-out fold, or None if the table does not vary the fold
    config: TrainConfig
    plan: Plan
    training_sha256: str  # hash of everything that training reads, including the tensors of the SAM file
    scoring: Mapping[str, Any]  # all that decides the scores of a trained model, such as cases and stride

    @property
    def title(self) -> str:
        """Name of the cell in messages."""
        return f"{self.row}, seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")

    @property
    def stem(self) -> str:
        """Part of the folder's name with row, seed and fold."""
        return f"{folder_name(self.row)}.seed{self.seed}" + ("" if self.fold is None else f".fold{self.fold}")

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the trained weights; the number of worker processes does not."""
        config = self.config.model_dump(mode="json", exclude={"workers"})
        return {"config": config, "plan": self.plan.model_dump(mode="json"), "data": self.training_sha256}

    @property
    def folder(self) -> str:
        """Name of the run folder, which differs for other settings."""
        return f"{self.stem}.{values_sha256(self.identity)[:10]}"


@dataclass(frozen=True)
class CellResult:
    """State and scores of a cell."""

    cell: Cell
    root: Path  # its run folder
    state: State
    reason: str = ""  # why it failed, or empty
    evaluation: Evaluation | None = None  # None before it is done
    training_seconds: float = 0.0  # time of all optimiser steps, without validation and preparation

    @property
    def dice(self) -> float:
        """Mean Dice, or NaN if the cell is not done."""
        return float("nan") if self.evaluation is None else self.evaluation.mean_dice


def read_cell(cell: Cell, runs: Path) -> CellResult:
    """Return the result of a cell that earlier runs of the table left."""
    root = runs / cell.folder
    record = _read_record(root / CELL_FILE)
    if record is None:
        return CellResult(cell, root, "not begun")
    if record["identity"] != cell.identity:
        raise InputError("the folder holds a run of other settings", where=root, fix="remove it, or name another --out")
    state: State = record["state"]
    if state not in ("trained", "done"):
        return CellResult(cell, root, state, record["reason"])
    _require_same_settings(cell, root)
    if not is_finished(record, {"state": "done", "scoring": dict(cell.scoring)}, {}):
        return CellResult(cell, root, "trained")
    return CellResult(cell, root, "done", "", Evaluation.from_json(root / SCORES_FILE), training_seconds(root))


def write_cell(cell: Cell, root: Path, state: State, reason: str = "") -> None:
    """Write settings and state of a cell to its run folder."""
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "row": cell.row,
        "seed": cell.seed,
        "fold": cell.fold,
        "state": state,
        "reason": reason,
        "scoring": dict(cell.scoring),
        "identity": cell.identity,
    }
    atomic.write_text(root / CELL_FILE, json.dumps(record, indent=2) + "\n")


def earlier_folder(cell: Cell, runs: Path) -> Path | None:
    """Return the newest run folder of the same row, seed and fold with other settings or data, or None."""
    found = [path.parent for path in runs.glob(f"{cell.stem}.*/{CELL_FILE}") if path.parent.name != cell.folder]
    others = [folder for folder in found if len(folder.name) == len(cell.folder)]
    return max(others, key=lambda folder: (folder / CELL_FILE).stat().st_mtime, default=None)


def differences(cell: Cell, earlier: Path) -> list[str]:
    """Return the keys in which a cell differs from an earlier one of its row, seed and fold, with both values."""
    record = _read_record(earlier / CELL_FILE)
    if record is None:
        return []
    old, new = _flat(record["identity"]), _flat(cell.identity)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ["data" if key == "data" else f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys]


def training_seconds(root: Path) -> float:
    """Return the time of a run's optimiser steps according to its ``metrics.csv``, including interrupted runs."""
    columns = read_columns(RunFolder(root).metrics)
    seconds, before = 0.0, 0.0
    for step, each in zip(columns.get("step", []), columns.get("seconds_per_step", []), strict=True):
        seconds += ((step or 0.0) - before) * (each or 0.0)
        before = step or 0.0
    return seconds


def _require_same_settings(cell: Cell, root: Path) -> None:
    """Refuse a finished run whose settings files were changed afterwards."""
    plan, config = RunFolder(root).read_settings()
    if plan != cell.plan or config.model_copy(update={"workers": cell.config.workers}) != cell.config:
        raise InputError(
            f"config.yaml or plan.yaml were changed after the run and contradict {CELL_FILE}",
            where=root,
            fix="remove the folder to repeat the run",
        )


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record = gate.read_json(path)
    if not isinstance(record, dict) or (record.get("format"), record.get("version")) != (_FORMAT, _VERSION):
        raise InputError(f"expected format {_FORMAT!r}, version {_VERSION}", where=path, fix="remove the folder")
    if missing := {"identity", "state", "reason", "scoring"} - set(record):
        raise InputError(f"the keys {', '.join(sorted(missing))} are missing", where=path, fix="remove the folder")
    return record


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an identity by their keys as a user writes them: without ``config.``, groups with a dot."""
    return {key.removeprefix("config."): value for key, value in flatten(identity).items()}
