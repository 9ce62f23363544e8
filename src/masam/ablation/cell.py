"""A cell of the table: one row trained with one seed (and fold), in a run folder that is known by what made it."""

from __future__ import annotations

import hashlib
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
from masam.runs.metrics import read_columns
from masam.training.config import TrainConfig
from masam.training.run_folder import RunFolder

CELL_FILE = "cell.json"
"""What a cell's run folder is of, and what came of it."""

SCORES_FILE = "scores.json"
"""The cell's evaluation, as ``masam evaluate`` writes one."""

State = Literal["not begun", "unfinished", "trained", "done", "failed", "diverged"]
"""``trained``: to be scored, for the first time or by another rule or other cases."""

_FORMAT, _VERSION = "masam-ablation-cell", 1
_IDENTITY_DIGITS = 10


@dataclass(frozen=True)
class Cell:
    """One row with one seed and fold.

    Attributes:
        row: The row's name.
        seed: Seed of the run.
        fold: Fold that is held out, where the table names folds.
        config: Settings of the run.
        plan: Its plan.
        training_sha256: Hash of all that training reads, the SAM file's tensors included.
        scoring: What decides the scores of a trained model: cases, labels, stride, rule for empty classes.
    """

    row: str
    seed: int
    fold: int | None
    config: TrainConfig
    plan: Plan
    training_sha256: str
    scoring: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Words that name the cell."""
        return f"{self.row}, seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")

    @property
    def stem(self) -> str:
        """The part of the folder's name that says row, seed and fold."""
        return f"{folder_name(self.row)}.seed{self.seed}" + ("" if self.fold is None else f".fold{self.fold}")

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the trained weights."""
        # Processes that read samples change nothing.
        config = self.config.model_dump(mode="json", exclude={"workers"})
        return {"config": config, "plan": self.plan.model_dump(mode="json"), "data": self.training_sha256}

    @property
    def folder(self) -> str:
        """Name of the run folder: other settings have another one, so that no two are ever mixed."""
        digits = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:_IDENTITY_DIGITS]
        return f"{self.stem}.{digits}"


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell.

    Attributes:
        cell: The cell.
        root: Its run folder.
        state: How far it is.
        reason: Why it failed; else empty.
        evaluation: Its scores, if it is done.
        training_seconds: Time of all optimiser steps; validation and preparation do not count.
    """

    cell: Cell
    root: Path
    state: State
    reason: str = ""
    evaluation: Evaluation | None = None
    training_seconds: float = 0.0


def read_cell(cell: Cell, runs: Path) -> CellResult:
    """Return what an earlier run of the table left of a cell.

    Raises:
        InputError: The folder of this name holds the run of another cell, or a file in it is damaged.
    """
    root = runs / cell.folder
    record = _read_record(root / CELL_FILE)
    if record is None:
        return CellResult(cell, root, "not begun")
    if record["identity"] != cell.identity:
        raise InputError("the folder holds a run of other settings", where=root, fix="remove it, or name another --out")
    state: State = record["state"]
    if state in ("failed", "diverged"):
        return CellResult(cell, root, state, record["reason"])
    if state == "unfinished":
        return CellResult(cell, root, state)
    _require_same_settings(cell, root)
    if state == "trained" or record["scoring"] != dict(cell.scoring):
        return CellResult(cell, root, "trained")
    return CellResult(cell, root, "done", "", Evaluation.from_json(root / SCORES_FILE), training_seconds(root))


def write_cell(cell: Cell, root: Path, state: State, reason: str = "") -> None:
    """Note in a run folder what it is of and how far it is.

    Raises:
        ResourceError: The file cannot be written.
    """
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
    """Return the newest folder of the same row, seed and fold with other settings or data, if there is one."""
    length = len(cell.folder)
    found = [path for path in runs.glob(f"{cell.stem}.*/{CELL_FILE}") if len(path.parent.name) == length]
    others = [path for path in found if path.parent.name != cell.folder]
    return max(others, key=lambda path: path.stat().st_mtime).parent if others else None


def differences(cell: Cell, earlier: Path) -> list[str]:
    """Name the keys in which a cell differs from an earlier one of its row, seed and fold."""
    record = _read_record(earlier / CELL_FILE)
    if record is None:
        return []
    old, new = _flat(record["identity"]), _flat(cell.identity)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ["data" if key == "data" else f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys]


def training_seconds(root: Path) -> float:
    """Add up the time of a run's optimiser steps from its ``metrics.csv``, however often it was interrupted."""
    columns = read_columns(RunFolder(root).metrics)
    seconds, before = 0.0, 0.0
    for step, each in zip(columns.get("step", []), columns.get("seconds_per_step", []), strict=True):
        seconds += ((step or 0.0) - before) * (each or 0.0)
        before = step or 0.0
    return seconds


def _require_same_settings(cell: Cell, root: Path) -> None:
    """Refuse a finished run whose own files tell of other settings than its cell."""
    plan, config = RunFolder(root).read_settings()
    same_config = config.model_copy(update={"workers": cell.config.workers}) == cell.config
    if not (same_config and plan == cell.plan):
        raise InputError(
            f"config.yaml or plan.yaml were changed after the run, {CELL_FILE} says otherwise",
            where=root,
            fix="remove the folder to make the cell anew",
        )


def _read_record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    record = gate.read_json(path)
    keys = {"identity", "state", "reason", "scoring"}
    if not isinstance(record, dict) or (record.get("format"), record.get("version")) != (_FORMAT, _VERSION):
        raise InputError(f"expected format {_FORMAT!r}, version {_VERSION}", where=path, fix="remove the folder")
    if missing := keys - set(record):
        raise InputError(f"the keys {', '.join(sorted(missing))} are missing", where=path, fix="remove the folder")
    return record


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        # Groups of the identity itself are no part of a key as a user writes it; those of a plan are.
        name = "" if not prefix and key == "config" else f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}." if name else "")
        else:
            flat[name] = value
    return flat
