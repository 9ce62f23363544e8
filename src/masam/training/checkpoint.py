"""The saved state of a run in ``last/``: weights, optimiser moments and counters from which training resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from masam import atomic
from masam.errors import InputError, ModelError, ResourceError
from masam.io import gate
from masam.model.masam import Masam
from masam.training.sharding import gather_full_tensor, match_sharding
from masam.weights.state_dict import require_matching_state
from masam.weights.tensors import read_tensors, write_tensors

STATE_VERSION = 1

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"

State = TypeVar("State")


def find_checkpoint(root: Path) -> Path | None:
    """Return the folder of the complete state of a run, or None."""
    # After a crash between two renames the complete state has one of the other names; the newer one comes first.
    candidates = (root / name for name in ("last", "last.new", "last.old"))
    return next((folder for folder in candidates if (folder / _STATE).is_file()), None)


def save_checkpoint(
    root: Path, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Replace ``last/`` in a run folder with a new state; the old one is deleted after the new one is complete."""
    last, new, old = root / "last", root / "last.new", root / "last.old"
    shutil.rmtree(new, ignore_errors=True)
    write_tensors(new / _WEIGHTS, weights, {})
    write_tensors(new / _OPTIMIZER, moments, {})
    atomic.write_text(new / _STATE, json.dumps({"version": STATE_VERSION, **state}, indent=2) + "\n")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if last.exists():
            last.replace(old)
        new.replace(last)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ResourceError(f"the state cannot be moved into place ({error})", where=last) from error


def load_checkpoint(
    root: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state_type: Callable[..., State],
    report_type: Callable[..., Any],
    unchanged: Iterable[str] = (),
) -> State:
    """Restore a model and its optimiser from a saved state.

    Args:
        root: The run folder.
        model: The model.
        optimizer: The optimiser of its parameters.
        state_type: Data class of the saved values; its field ``pending`` is a list of reports. Values that older files
            lack have defaults.
        report_type: Named tuple of a report.
        unchanged: Names of weights that training does not change and the state may lack.

    Raises:
        InputError: The folder contains no saved state.
        ModelError: The state is damaged, of another version or of another model.
    """
    folder = find_checkpoint(root)
    if folder is None:
        raise InputError("found no saved state to resume from", where=root / "last", fix="start a new run")
    try:
        record = dict(json.loads(gate.read_bytes(folder / _STATE)))
        version = record.pop("version")
        if version != STATE_VERSION:
            raise ModelError(f"expected state version {STATE_VERSION}, got {version}", where=folder)
        record["pending"] = [report_type(*report) for report in record["pending"]]
        state = state_type(**record)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("the state file is damaged", where=folder / _STATE) from error
    weights, current = read_tensors(folder / _WEIGHTS, ours=True)[0], model.state_dict()
    require_matching_state(current, weights, kept=unchanged, where=folder)
    model.load_state_dict({name: match_sharding(value, current[name]) for name, value in weights.items()}, strict=False)
    _load_moments(model, optimizer, read_tensors(folder / _OPTIMIZER, ours=True)[0], folder)
    return state


def changed_names(model: Masam) -> frozenset[str]:
    """Return the names of all tensors that training changes, buffers of the decoder included."""
    return model.trained_names() | {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_weights(model: Masam) -> dict[str, Tensor]:
    """Return the full tensors that training changes; all processes of a run must call this."""
    changed = changed_names(model)
    return {name: gather_full_tensor(tensor) for name, tensor in model.state_dict().items() if name in changed}


def optimizer_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the full state tensors of the optimiser by parameter name; all processes of a run must call this."""
    return {
        f"{key}.{name}": gather_full_tensor(torch.as_tensor(value))
        for name, parameter in model.named_parameters()
        # A parameter without gradients (the IoU head) has no moments.
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], where: Path
) -> None:
    parameters = dict(model.named_parameters())
    for key, value in moments.items():
        moment, name = key.split(".", 1)
        parameter = parameters.get(name)
        # The step count is a tensor too: a fused optimiser keeps it on the device of the parameter.
        is_sharded = moment in ("exp_avg", "exp_avg_sq")
        if parameter is None or (is_sharded and parameter.shape != value.shape):
            raise ModelError(f"the optimizer's {key} does not belong to this model", where=where)
        optimizer.state[parameter][moment] = (
            match_sharding(value, parameter) if is_sharded else value.to(parameter.device)
        )
