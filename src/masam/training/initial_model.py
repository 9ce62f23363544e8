"""The model that a run begins with: a fresh one on SAM's weights, or a trained one, with classes added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from masam.cases.folder import CaseFolder
from masam.device import resolve_precision
from masam.errors import ConfigError, ModelError
from masam.labels import LabelScheme
from masam.model.added_classes import with_classes
from masam.model.masam import Masam, empty_model
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec, ModelOptions
from masam.preprocess.plan import Plan
from masam.training.config import ModelSettings, TrainConfig
from masam.weights.model_file import AUTO_SIZE, build_masam, find_model_file, load, read_model_header
from masam.weights.tensors import CONTENT_HASH, read_header

STARTED_FROM = "started_from"
"""Key of a card's training facts that names the model which a run began with."""

_OPTIONS = tuple(entry.name for entry in fields(ModelOptions))
"""Settings that belong to the model itself; a trained model has its own."""


def build_model(config: TrainConfig, plan: Plan, device: torch.device) -> Masam:
    """Return the model of a run, with what trains and what does not.

    Args:
        config: The run's settings.
        plan: Its plan.
        device: Where it will train; the model is returned on the CPU.

    Raises:
        ConfigError: Settings do not go together, or not with the model to start from.
        InputError: A file cannot be opened.
        ModelError: A file is damaged, or not what it should be.
    """
    settings = config.model
    require_start(config, plan, device)
    torch.manual_seed(config.seed)
    model = _fresh(settings, plan) if settings.init is None else _continued(settings, settings.init, plan)
    _choose_trained(model, settings)
    model.image_encoder.checkpointing = config.checkpointing
    if config.frozen_dtype == "bf16":
        model.halve_frozen()
    return model


def shape_to_continue(settings: ModelSettings, init: str, plan: Plan) -> Masam:
    """Return the model that a run starts from, with its added classes and without its numbers.

    Args:
        settings: The run's settings of the model.
        init: The trained model: a run folder or a model file.
        plan: The run's plan.

    Raises:
        ConfigError: The plan lacks a class of the model.
        InputError: The file cannot be opened.
        ModelError: It is damaged, or carries no plan.
    """
    file = find_model_file(init)
    _, spec, card = read_model_header(file)
    model = with_classes(empty_model(spec), match_classes(_plan_of(file, card.plan).scheme, plan.scheme, file))
    _choose_trained(model, settings)
    return model


def content_of_init(init: str) -> str:
    """Return the hash that a trained model's file has of its content.

    Raises:
        InputError: The file cannot be opened.
        ModelError: It is damaged, or no model of masam's.
    """
    file = find_model_file(init)
    read_model_header(file)
    return read_header(file)[1][CONTENT_HASH]


def require_start(config: TrainConfig, plan: Plan, device: torch.device) -> None:
    """Refuse, before data are prepared, what cannot be trained; of a trained model its table of contents is read.

    Args:
        config: The run's settings.
        plan: Its plan.
        device: Where it will train.

    Raises:
        ConfigError: Settings do not go together, or not with the model to start from.
        InputError: The model to start from cannot be opened.
        ModelError: It is damaged, or carries no plan.
    """
    settings = config.model
    if config.frozen_dtype == "bf16":
        precision = resolve_precision(device, config.precision)
        if precision != "bf16" or settings.trained == "everything":
            what = "trained everything" if precision == "bf16" else f"precision {precision}"
            raise ConfigError(
                f"expected frozen layers and precision bf16, in which they compute, got {what}",
                where="frozen_dtype",
                fix="leave it at float32",
            )
    has_base = settings.sam_checkpoint is not None
    if settings.init is not None:
        has_base = _require_fitting(settings, settings.init, plan)
    else:
        _require_whole(settings, plan)
    if config.frozen_dtype == "bf16" and not has_base:
        raise ConfigError(
            "expected an encoder that a SAM file holds in full, as the run's model would keep the halved one",
            where="frozen_dtype",
            fix="give sam_checkpoint, or leave frozen_dtype at float32",
        )


def plan_to_continue(init: str, dataset: CaseFolder) -> Plan:
    """Return the plan of a trained model for another data set: the same preparation, the data set's name and labels.

    Args:
        init: The trained model: a run folder or a model file.
        dataset: The data set.

    Raises:
        ConfigError: The data set has another number of channels.
        InputError: The file cannot be opened.
        ModelError: It is damaged, or carries no plan.
    """
    file = find_model_file(init)
    plan = _plan_of(file, read_model_header(file)[2].plan)
    if len(dataset.channel_names) != len(plan.channels):
        raise ConfigError(
            f"the model to start from is for {len(plan.channels)} image channels ({', '.join(plan.channels)}), "
            f"the data set has {len(dataset.channel_names)} ({', '.join(dataset.channel_names)})",
            where=file,
        )
    changes = {"name": dataset.name, "labels": dataset.labels.to_mapping(), "suggestion": None}
    return plan.model_copy(update=changes)


def match_classes(earlier: LabelScheme, scheme: LabelScheme, where: object = None) -> tuple[int | None, ...]:
    """Find the classes of a trained model in a label scheme, by their names.

    Args:
        earlier: The model's scheme.
        scheme: The new scheme, which has all of its classes and may have more.
        where: The model, to name in an error.

    Returns:
        For each channel of ``scheme`` the channel of ``earlier``, None for a new class; backgrounds are the same.

    Raises:
        ConfigError: A class of the model is missing.
    """
    known = {label.name: channel for channel, label in enumerate(earlier.labels) if channel}
    names = [label.name for label in scheme.foreground]
    if missing := [name for name in known if name not in names]:
        raise ConfigError(
            f"the model to start from has the classes {', '.join(known)}, the data set {', '.join(names)}: "
            f"{', '.join(missing)} cannot be removed or renamed",
            where=where,
            fix="name the classes in dataset.json as the model does",
        )
    return (0, *(known.get(name) for name in names))


def _choose_trained(model: Masam, settings: ModelSettings) -> None:
    if settings.trained == "everything":
        model.train_everything()
    elif settings.trained == "decoder":
        model.train_only_decoder()
    else:
        model.train_only_adaptation()


def _options(settings: ModelSettings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in _OPTIONS}


def _fresh(settings: ModelSettings, plan: Plan) -> Masam:
    model = build_masam(
        settings.size,
        plan.scheme.num_classes,
        plan.image_size,
        plan.window,
        sam_checkpoint=settings.sam_checkpoint,
        image_channels=len(plan.channels),
        **_options(settings),
    )
    if settings.adapter_zero_start:
        model.zero_adapters()
    return model


def _continued(settings: ModelSettings, init: str, plan: Plan) -> Masam:
    file = find_model_file(init)
    model = load(file, settings.sam_checkpoint)
    earlier = _plan_of(file, model.card.plan)
    facts: Mapping[str, Any] = {
        "content_sha256": content_of_init(init),
        "dataset": earlier.name,
        "classes": [label.name for label in earlier.scheme.foreground],
    }
    model = with_classes(model, match_classes(earlier.scheme, plan.scheme, file))
    model.spec = replace(model.spec, window=plan.window)
    model.card = replace(model.card, training={STARTED_FROM: facts})
    return model


def _require_whole(settings: ModelSettings, plan: Plan) -> None:
    """Judge the numbers of a fresh model, and that no part of it stays at random numbers by oversight."""
    if settings.size != AUTO_SIZE:
        # Made to be judged. Where the SAM file tells the size, building the model does it.
        MasamSpec(find_size(settings.size), plan.scheme.num_classes, plan.image_size, plan.window, **_options(settings))
    if settings.trained == "decoder" and (settings.fact_rank or settings.adapter_places != "none"):
        raise ConfigError(
            f"'decoder' trains no increments and no adapters, which would stay at random numbers; expected fact_rank 0 "
            f"and adapter_places none, got {settings.fact_rank} and {settings.adapter_places}",
            where="model.trained",
            fix="set both, or start from a trained model (init)",
        )


def _require_fitting(settings: ModelSettings, init: str, plan: Plan) -> bool:
    """Compare settings and plan with the model to start from; say whether a SAM file holds its encoder."""
    file = find_model_file(init)
    _, spec, card = read_model_header(file)
    match_classes(_plan_of(file, card.plan).scheme, plan.scheme, file)
    for key, ours, theirs in (
        ("image_size", plan.image_size, spec.image_size),
        ("channels", len(plan.channels), spec.image_channels),
    ):
        if ours != theirs:
            raise ConfigError(
                f"the plan has {ours}, the model to start from {theirs}",
                where=key,
                fix="give no --plan, so that data are prepared as the model's were, or correct it",
            )
    asked = _options(settings) | {"size": settings.size, "adapter_zero_start": settings.adapter_zero_start}
    has = {**{key: getattr(spec, key) for key in _OPTIONS}, "size": spec.sam.name, "adapter_zero_start": False}
    for key, value in asked.items():
        if value not in (ModelSettings.model_fields[key].default, has[key]):
            raise ConfigError(
                f"expected {has[key]}, that of the model to start from, got {value}",
                where=f"model.{key}",
                fix="leave it out",
            )
    if settings.sam_checkpoint is not None and card.base is None:
        raise ConfigError(
            "the model to start from holds its encoder itself", where="model.sam_checkpoint", fix="leave it out"
        )
    return card.base is not None


def _plan_of(file: Path, plan: Plan | None) -> Plan:
    if plan is None:
        raise ModelError(
            "the model carries no plan, so its classes have no names",
            where=file,
            fix="import it with a plan (masam weights import), or start from another",
        )
    return plan
