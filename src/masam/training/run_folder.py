"""The run folder: what a training run writes, and from what it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masam import atomic
from masam.errors import InputError, ModelError, ResourceError
from masam.io import gate
from masam.model.masam import Masam
from masam.preprocess.plan import Plan
from masam.runs.metrics import read_rows, write_rows
from masam.training.config import TrainConfig
from masam.training.loop import StepReport
from masam.training.parallel import like, whole
from masam.weights.model_file import MODEL_FILE
from masam.weights.state_dict import require_fit
from masam.weights.tensors import read_tensors, write_tensors

STATE_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WEIGHTS, _MOMENTS_FILE = "weights.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        best_dice: Best validation Dice so far, or None.
        scaler: State of the fp16 loss scaler; empty for other precisions.
        dataset: Fingerprint of the training windows, which a resume must find again.
        pending: Steps that no row of ``metrics.csv`` holds yet.
        base: Hash of the tensors of the SAM file that the model stands on, which a resume must find again, or None.
        total_steps: Steps of the run, if that is fewer than its epochs have.
        seconds: Time that the run has taken so far.
        worse: Validations since the best one.
        init: Hash of the trained model that the run started from, which a resume must find again, or None.
    """

    step: int
    best_dice: float | None
    scaler: Mapping[str, Any]
    dataset: str
    pending: Sequence[StepReport] = ()
    base: str | None = None
    total_steps: int | None = None
    seconds: float = 0.0
    worse: int = 0
    init: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    ::

        plan.yaml  config.yaml        what was asked for
        metrics.csv  tensorboard/     what happened
        diverged/                     windows of steps whose numbers were not finite
        last/                         full state, to go on from
        model.safetensors             best model so far
        manifest.json                 versions, hardware, result

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def model(self) -> Path:
        """The best model's file."""
        return self.root / MODEL_FILE

    @property
    def metrics(self) -> Path:
        """The CSV of all figures."""
        return self.root / "metrics.csv"

    @property
    def last(self) -> Path:
        """Folder of the full state."""
        return self.root / "last"

    @property
    def has_state(self) -> bool:
        """Whether there is a complete state to go on from."""
        return self._saved_state() is not None

    def require_free(self) -> None:
        """Refuse a folder that is taken; a run that ended before its first saved state takes none.

        Raises:
            InputError: The folder holds a run already.
        """
        if self.model.exists() or self.has_state:
            raise InputError("the folder holds a run already", where=self.root, fix="use --resume, or another --out")

    def create(self, plan: Plan, config: TrainConfig) -> None:
        """Start a new run.

        Raises:
            InputError: The folder holds a run already.
            ResourceError: The folder cannot be written.
        """
        self.require_free()
        # Rows of a run that left nothing else would be taken for this one's.
        self.metrics.unlink(missing_ok=True)
        plan.to_yaml(self.root / "plan.yaml")
        config.to_yaml(self.root / "config.yaml")

    def read_settings(self) -> tuple[Plan, TrainConfig]:
        """Return the plan and the configuration of the run.

        Raises:
            ConfigError: The folder is not a run, or a file is not what it should be.
        """
        return Plan.from_yaml(self.root / "plan.yaml"), TrainConfig.from_yaml(self.root / "config.yaml")

    def append_metrics(self, row: Mapping[str, float | int | str]) -> None:
        """Add a row to ``metrics.csv``, which is rewritten whole.

        Raises:
            ResourceError: The file cannot be written.
        """
        rows = [*read_rows(self.metrics), {key: str(value) for key, value in row.items()}]
        write_rows(self.metrics, rows)

    def drop_metrics_after(self, step: int) -> None:
        """Remove rows later than ``step``: a run that goes on from there writes them again."""
        rows = read_rows(self.metrics)
        if rows:
            write_rows(self.metrics, [row for row in rows if int(row["step"]) <= step])

    def _saved_state(self) -> Path | None:
        """Return the folder of a complete state, if there is one."""
        # Killed between two renames, the complete state has one of the other names; the newer one wins.
        candidates = (self.last, self.root / "last.new", self.root / "last.old")
        return next((folder for folder in candidates if _is_complete(folder)), None)

    def save_state(self, tensors: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: RunState) -> None:
        """Replace ``last/`` by a new one, which is complete before the old one goes.

        Args:
            tensors: Of ``trained_weights``.
            moments: Of ``optimizer_moments``.
            state: How far the run is.

        Raises:
            ResourceError: The disk does not take it; the old one is untouched.
        """
        facts = {
            "step": state.step,
            "best_dice": state.best_dice,
            "scaler": dict(state.scaler),
            "dataset": state.dataset,
            "pending": state.pending,
            "base": state.base,
            "total_steps": state.total_steps,
            "seconds": state.seconds,
            "worse": state.worse,
            "init": state.init,
        }
        self.put_state(tensors, moments, facts)

    def put_state(self, tensors: Mapping[str, Tensor], moments: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace ``last/`` by a new one, which is complete before the old one goes; of any kind of training.

        Args:
            tensors: Weights by name.
            moments: Of ``optimizer_moments``.
            facts: How far the run is, as plain values.

        Raises:
            ResourceError: The disk does not take it; the old one is untouched.
        """
        new, old = self.root / "last.new", self.root / "last.old"
        shutil.rmtree(new, ignore_errors=True)
        write_tensors(new / _WEIGHTS, tensors, {})
        write_tensors(new / _MOMENTS_FILE, moments, {})
        atomic.write_text(new / "state.json", json.dumps({"version": STATE_VERSION, **facts}, indent=2) + "\n")
        try:
            shutil.rmtree(old, ignore_errors=True)
            if self.last.exists():
                self.last.replace(old)
            new.replace(self.last)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise ResourceError(f"the state cannot be put in place ({error})", where=self.last) from error

    def load_state(self, model: Masam, optimizer: torch.optim.Optimizer) -> RunState:
        """Bring model and optimizer to where the run stopped.

        Raises:
            InputError: There is nothing to go on from.
            ModelError: The state is damaged or belongs to another model.
        """
        facts, folder = self.read_facts()
        try:
            pending = [StepReport(*report) for report in facts["pending"]]
            state = RunState(
                facts["step"],
                facts["best_dice"],
                facts["scaler"],
                facts["dataset"],
                pending,
                facts.get("base"),
                facts.get("total_steps"),
                facts.get("seconds", 0.0),
                facts.get("worse", 0),
                facts.get("init"),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise damaged_state(folder) from error
        kept = set(model.state_dict()) - _changed_names(model)
        load_tensors(model, optimizer, folder, kept)
        return state

    def read_facts(self) -> tuple[dict[str, Any], Path]:
        """Return what ``put_state`` noted of how far the run is, and the folder of that state.

        Raises:
            InputError: There is nothing to go on from.
            ModelError: The state is damaged, or of another version.
        """
        folder = self._saved_state()
        if folder is None:
            raise InputError("there is no state to go on from", where=self.last, fix="start the run anew")
        try:
            facts = dict(json.loads(gate.read_bytes(folder / "state.json")))
            version = facts["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged_state(folder) from error
        if version != STATE_VERSION:
            raise ModelError(f"expected state version {STATE_VERSION}, got {version}", where=folder)
        return facts, folder


def damaged_state(folder: Path) -> ModelError:
    """Return the error of a state whose facts are not what they should be."""
    return ModelError("the state file is damaged", where=folder / "state.json")


def trained_weights(model: Masam) -> dict[str, Tensor]:
    """Return what training changes, put together where it is sharded; all processes of a run must call this."""
    changed = _changed_names(model)
    return {name: whole(tensor) for name, tensor in model.state_dict().items() if name in changed}


def optimizer_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter, put together where it is sharded; all processes must call this."""
    tensors = {}
    for name, parameter in model.named_parameters():
        # A parameter that never got a gradient (the IoU head) has no moments.
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = whole(torch.as_tensor(value))
    return tensors


def _changed_names(model: Masam) -> frozenset[str]:
    """Return the names of what training changes, and of the decoder's buffers that belong to it."""
    return model.trained_names() | {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, kept: Iterable[str] = ()) -> None:
    """Bring a model and its optimizer to a saved state.

    Args:
        model: The model.
        optimizer: Of its parameters.
        folder: Of ``RunFolder.read_facts``.
        kept: Names that the state need not have, as training does not change them.

    Raises:
        ModelError: The state is damaged or belongs to another model.
    """
    tensors, own = read_tensors(folder / _WEIGHTS, ours=True)[0], model.state_dict()
    require_fit(own, tensors, kept=kept, where=folder)
    model.load_state_dict({name: like(own[name], value) for name, value in tensors.items()}, strict=False)
    _load_moments(model, optimizer, read_tensors(folder / _MOMENTS_FILE, ours=True)[0], folder)


def _load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], where: Path
) -> None:
    parameters = dict(model.named_parameters())
    for key, value in moments.items():
        moment, name = key.split(".", 1)
        parameter = parameters.get(name)
        if parameter is None or (moment in _MOMENTS and parameter.shape != value.shape):
            raise ModelError(f"the optimizer's {key} does not belong to this model", where=where)
        # The step count too: a fused optimiser keeps it beside the parameter.
        is_sharded = moment in _MOMENTS
        optimizer.state[parameter][moment] = like(parameter, value) if is_sharded else value.to(parameter.device)


def _is_complete(folder: Path) -> bool:
    return (folder / "state.json").is_file()
