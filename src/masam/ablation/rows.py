"""The rows of a table: settings and plan of each, all checked before the first training step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from masam.ablation.cell import Cell
from masam.ablation.config import AblationConfig, split_changes
from masam.ablation.data import AblationData, count_windows
from masam.device import choose_device
from masam.errors import ConfigError, InputError, ModelError, ResourceError
from masam.model.masam import Masam
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan
from masam.training.config import TrainConfig
from masam.training.initial_model import build_model, content_of_init, require_start, shape_to_continue
from masam.training.loop import require_divisible
from masam.training.memory import predict_memory
from masam.training.setup import require_plan
from masam.weights.card import Base
from masam.weights.model_file import AUTO_SIZE, read_base
from masam.windows import plan_windows


@dataclass(frozen=True)
class Row:
    """One variant."""

    name: str
    cells: tuple[Cell, ...]  # the row with every seed and fold
    parameters: int  # number of trainable parameters
    spec: MasamSpec

    def steps(self, data: AblationData) -> int | None:
        """Return the optimiser steps of one run, see :func:`masam.ablation.data.count_windows`."""
        config = self.cells[0].config
        windows = count_windows(data, config, self.cells[0].plan)
        return None if windows is None else math.ceil(config.epochs * windows / config.batch_windows)

    def peak_bytes(self) -> int:
        """Predict the peak memory of one run on a CPU in float32, or in bf16 if frozen layers are stored in it."""
        config = self.cells[0].config
        deepest = self.spec if config.window_depths is None else replace(self.spec, window=config.window_depths[1])
        return predict_memory(
            deepest,
            config.micro_batch_windows,
            trained=config.model.trained,
            checkpointing=config.checkpointing,
            frozen_dtype=config.frozen_dtype,
        ).peak_bytes


def make_rows(table: AblationConfig, plan: Plan, data: AblationData, where: object) -> list[Row]:
    """Build every row of a table and check that it can be trained and scored; errors name the file ``where``."""
    base = TrainConfig() if table.config is None else TrainConfig.from_yaml(Path(table.config))
    bases: dict[str, Base] = {}
    rows = []
    for name, changes in table.rows.items():
        with _naming_row(f"{where}, row {name}"):
            config, row_plan = apply_changes(*apply_changes(base, plan, table.settings), changes)
            _check(config, row_plan, table, data)
            sam_base = _read_base(config, bases)
            model = model_shape(config, row_plan, sam_base)
            cells = tuple(_cells(name, table, config, row_plan, data, sam_base))
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(Row(name, cells, parameters, model.spec))
    return rows


def apply_changes(config: TrainConfig, plan: Plan, changes: Mapping[str, object]) -> tuple[TrainConfig, Plan]:
    """Return configuration and plan with the changes of one row or of all rows."""
    config_changes, plan_changes = split_changes(changes)
    return config.changed(config_changes, "settings"), plan.changed(plan_changes, "plan")


def _check(config: TrainConfig, plan: Plan, table: AblationConfig, data: AblationData) -> None:
    """Refuse settings that training or prediction would refuse later."""
    require_plan(plan, data.dataset, where="plan")
    if len(plan.channels) != len(data.dataset.channel_names):
        raise ConfigError(
            f"expected {len(data.dataset.channel_names)} channels, as in dataset.json, got {len(plan.channels)}",
            where="plan.channels",
        )
    require_divisible(config, processes=1)
    require_start(config, plan, choose_device(config.device))
    plan_windows(1, plan.window, table.stride)
    for fold in table.folds or (config.fold,):
        data.scored_cases(config.model_copy(update={"fold": fold}))


def _read_base(config: TrainConfig, read: dict[str, Base]) -> Base | None:
    """Return size and hash of a row's SAM file; each file is read once."""
    name = config.model.sam_checkpoint
    if name is None:
        return None
    if name not in read:
        read[name] = read_base(name)[1]
    base = read[name]
    if config.model.size not in (AUTO_SIZE, base.size):
        raise ModelError(f"expected a SAM file of size {config.model.size}, got {base.size}", where=name)
    return base


def model_shape(config: TrainConfig, plan: Plan, base: Base | None) -> Masam:
    """Build a row's model without weights, to check its settings and count its parameters."""
    device = choose_device(config.device)
    if config.model.init is not None:
        return shape_to_continue(config.model, config.model.init, plan)
    if base is not None and base.size not in SIZES:
        return build_model(config, plan, device)  # only its file has its shapes
    size = config.model.size if base is None else base.size
    alone = config.model.model_copy(update={"sam_checkpoint": None, "size": size})
    with torch.device("meta"):
        changes = {"model": alone, "frozen_dtype": "float32"}  # other types require a SAM file
        return build_model(config.model_copy(update=changes), plan, device)


def _cells(
    name: str, table: AblationConfig, config: TrainConfig, plan: Plan, data: AblationData, base: Base | None
) -> Iterator[Cell]:
    init = config.model.init
    hashes = [base and base.tensors_sha256, init and content_of_init(init)]
    training = ", ".join([data.training_sha256, *(one for one in hashes if one)])
    for seed in table.seeds:
        for fold in table.folds or (None,):
            held_out = config.fold if fold is None else fold
            settings = config.model_copy(update={"seed": seed, "fold": held_out})
            scoring = {
                "scored_on": data.scored_on,
                "cases": data.scored_sha256(data.scored_cases(settings)),
                "stride": table.stride,
                "reference_empty": table.reference_empty,
            }
            yield Cell(name, seed, fold, settings, plan, training, scoring)


@contextmanager
def _naming_row(where: str) -> Iterator[None]:
    """Prefix errors with the row that they are about."""
    try:
        yield
    except (ConfigError, InputError, ModelError, ResourceError) as error:
        location = where if error.where is None else f"{where}: {error.where}"
        raise type(error)(error.what, where=location, fix=error.fix) from error
