"""The model that a run starts from: a new one with SAM's weights, or a trained one, to which classes are added.

The argument ``init`` names a trained model: a run folder or a model file.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

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
from masam.weights.card import ModelCard
from masam.weights.model_file import AUTO_SIZE, build_masam, find_model_file, load, read_model_header
from masam.weights.tensors import CONTENT_HASH, read_header

STARTED_FROM = "started_from"
"""Key of the training facts of a model card: the trained model that the run started from."""


def build_model(config: TrainConfig, plan: Plan, device: torch.device) -> Masam:
    """Return the initial model of a run, on the CPU; ``device`` is the one that it will be trained on."""
    settings = config.model
    require_start(config, plan, device)
    torch.manual_seed(config.seed)
    model = _new_model(settings, plan) if settings.init is None else _trained_model(settings, settings.init, plan)
    set_trainable(model, settings.trained)
    model.image_encoder.checkpointing = config.checkpointing
    if config.frozen_dtype == "bf16":
        model.halve_frozen()
    return model


def shape_to_continue(settings: ModelSettings, init: str, plan: Plan) -> Masam:
    """Return the model that a run starts from, with added classes and without weights."""
    file, spec, _, trained_plan = _read_trained(init)
    model = with_classes(empty_model(spec), match_classes(trained_plan.scheme, plan.scheme, file))
    set_trainable(model, settings.trained)
    return model


def content_of_init(init: str) -> str:
    """Return the content hash in the file of a trained model."""
    file = find_model_file(init)
    read_model_header(file)
    return read_header(file)[1][CONTENT_HASH]


def require_start(config: TrainConfig, plan: Plan, device: torch.device) -> None:
    """Refuse, before the data are prepared, what cannot be trained; only the header of a trained model is read.

    Raises:
        ConfigError: Settings contradict each other or the model to start from.
        InputError: The model to start from cannot be opened.
        ModelError: The model to start from is damaged or contains no plan.
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
    if settings.init is None:
        has_base = settings.sam_checkpoint is not None
        _check_new_model(settings, plan)
    else:
        has_base = _check_trained_model(settings, settings.init, plan)
    if config.frozen_dtype == "bf16" and not has_base:
        raise ConfigError(
            "expected an encoder in full precision in a SAM file, as the model file would contain only its bf16 copy",
            where="frozen_dtype",
            fix="give sam_checkpoint, or leave frozen_dtype at float32",
        )


def plan_to_continue(init: str, dataset: CaseFolder) -> Plan:
    """Return the plan of a trained model for another data set: same preprocessing, name and labels of the data set.

    Raises:
        ConfigError: The data set has another number of channels.
        InputError: The file cannot be opened.
        ModelError: The file is damaged or contains no plan.
    """
    file, _, _, plan = _read_trained(init)
    if len(dataset.channel_names) != len(plan.channels):
        raise ConfigError(
            f"the model to start from is for {len(plan.channels)} image channels ({', '.join(plan.channels)}), "
            f"the data set has {len(dataset.channel_names)} ({', '.join(dataset.channel_names)})",
            where=file,
        )
    changes = {"name": dataset.name, "labels": dataset.labels.to_mapping(), "suggestion": None}
    return plan.model_copy(update=changes)


def match_classes(earlier: LabelScheme, scheme: LabelScheme, where: object = None) -> tuple[int | None, ...]:
    """Match the classes of a trained model to those of a label scheme by name.

    Args:
        earlier: Scheme of the model.
        scheme: New scheme, with all of its classes and possibly more.
        where: Name of the model for the error message.

    Returns:
        For each channel of ``scheme`` the channel of ``earlier``, or None for a new class; background matches
        background.

    Raises:
        ConfigError: A class of the model is missing.
    """
    channels = {label.name: channel for channel, label in enumerate(earlier.labels) if channel}
    names = [label.name for label in scheme.foreground]
    if missing := [name for name in channels if name not in names]:
        raise ConfigError(
            f"the model to start from has the classes {', '.join(channels)}, the data set {', '.join(names)}: "
            f"{', '.join(missing)} cannot be removed or renamed",
            where=where,
            fix="name the classes in dataset.json as the model does",
        )
    return (0, *(channels.get(name) for name in names))


def _read_trained(init: str) -> tuple[Path, MasamSpec, ModelCard, Plan]:
    """Return file, specification, card and plan of a trained model without reading its tensors."""
    file = find_model_file(init)
    _, spec, card = read_model_header(file)
    if card.plan is None:
        raise ModelError(
            "the model carries no plan, so its classes have no names",
            where=file,
            fix="import it with a plan (masam weights import), or start from another",
        )
    return file, spec, card, card.plan


def set_trainable(model: Masam, trained: Literal["adaptation", "everything", "decoder"]) -> None:
    """Freeze the parameters of a model that the setting ``trained`` excludes."""
    if trained == "everything":
        model.train_everything()
    elif trained == "decoder":
        model.train_only_decoder()
    else:
        model.train_only_adaptation()


def _options(settings: ModelSettings | MasamSpec) -> dict[str, Any]:
    """Return the settings that a trained model brings with it."""
    return {entry.name: getattr(settings, entry.name) for entry in fields(ModelOptions)}


def _new_model(settings: ModelSettings, plan: Plan) -> Masam:
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


def _trained_model(settings: ModelSettings, init: str, plan: Plan) -> Masam:
    file, _, _, earlier = _read_trained(init)
    model = load(file, settings.sam_checkpoint)
    facts = {
        "content_sha256": content_of_init(init),
        "dataset": earlier.name,
        "classes": [label.name for label in earlier.scheme.foreground],
    }
    model = with_classes(model, match_classes(earlier.scheme, plan.scheme, file))
    model.spec = replace(model.spec, window=plan.window)
    model.card = replace(model.card, training={STARTED_FROM: facts})
    return model


def _check_new_model(settings: ModelSettings, plan: Plan) -> None:
    """Check the options of a new model, and that none of its parts keeps random weights untrained."""
    if settings.size != AUTO_SIZE:
        # The specification checks its values. If the SAM file determines the size, building the model does it.
        MasamSpec(find_size(settings.size), plan.scheme.num_classes, plan.image_size, plan.window, **_options(settings))
    if settings.trained == "decoder" and (settings.fact_rank or settings.adapter_places != "none"):
        raise ConfigError(
            "'decoder' trains no increments and no adapters, which would keep random weights; expected fact_rank 0 "
            f"and adapter_places none, got {settings.fact_rank} and {settings.adapter_places}",
            where="model.trained",
            fix="set both, or start from a trained model (init)",
        )


def _check_trained_model(settings: ModelSettings, init: str, plan: Plan) -> bool:
    """Compare settings and plan with the model to start from; return whether its encoder is in a SAM file."""
    file, spec, card, trained_plan = _read_trained(init)
    match_classes(trained_plan.scheme, plan.scheme, file)
    for key, ours, theirs in (
        ("image_size", plan.image_size, spec.image_size),
        ("channels", len(plan.channels), spec.image_channels),
    ):
        if ours != theirs:
            raise ConfigError(
                f"the plan has {ours}, the model to start from {theirs}",
                where=key,
                fix="give no --plan, so that the model's own preprocessing is used, or correct it",
            )
    given = _options(settings) | {"size": settings.size, "adapter_zero_start": settings.adapter_zero_start}
    trained = _options(spec) | {"size": spec.sam.name, "adapter_zero_start": False}
    for key, value in given.items():
        if value not in (ModelSettings.model_fields[key].default, trained[key]):
            raise ConfigError(
                f"expected {trained[key]}, that of the model to start from, got {value}",
                where=f"model.{key}",
                fix="leave it out",
            )
    if settings.sam_checkpoint is not None and card.base is None:
        raise ConfigError(
            "the file of the model to start from contains the encoder", where="model.sam_checkpoint", fix="leave it out"
        )
    return card.base is not None
