"""Checks that a model fits the plan, the input and the prompts, made before any prediction starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from masam.cases.case import Case
from masam.errors import InputError, ModelError
from masam.io.images import count_channels
from masam.model.masam import Masam
from masam.preprocess.plan import Plan
from masam.prompts import Prompt
from masam.prompts.projection import channels_of
from masam.weights.card import require_matching_plan


def common_plan(models: Sequence[Masam], plan: Plan | None = None) -> Plan:
    """Return the given plan, or the plan stored with all models."""
    plans = [plan] if plan else [model.card.plan if model.card else None for model in models]
    if plans[0] is None:
        raise ModelError(
            "the model carries no plan, so it is unknown how to prepare a volume for it", fix="give one with plan="
        )
    if any(other != plans[0] for other in plans):
        raise ModelError(
            "the models were trained with different plans, so their predictions cannot be averaged",
            fix="use the folds of one data set, trained with one plan",
        )
    for model in models:
        require_matching_plan(plans[0], model.spec)
    return plans[0]


def require_modality(plan: Plan, *, is_video: bool, what: object) -> None:
    """Refuse a video for a model of volumes, and a volume for a model of videos; errors name the input ``what``."""
    if is_video != (plan.modality == "video"):
        kind = "video" if plan.modality == "video" else f"{plan.modality} volumes"
        raise ModelError(
            f"the model is for {kind} ({plan.name}), the input is {'video' if is_video else 'a volume'}",
            where=what,
            fix="use a model that was trained on such data",
        )


def require_channels(plan: Plan, count: int, where: object = None) -> None:
    """Refuse a scan whose number of channels is not the model's; errors name the scan ``where``."""
    channels = plan.channels
    if count != len(channels):
        raise InputError(
            f"expected {len(channels)} channel{'s' * (len(channels) > 1)} ({', '.join(channels)}), got {count}",
            where=where,
            fix="give one file per channel, CASE_0000.nii.gz, CASE_0001.nii.gz and so on, or one 4-D file",
        )


def match_channels(plan: Plan, case: Case, where: object = None) -> Case:
    """Return a case whose single file may hold all channels that the model expects; errors name ``where`` or its id."""
    count = len(case.images)
    if count == 1 < len(plan.channels):
        count = count_channels(case.images[0])
        case = replace(case, file_channels=count)
    require_channels(plan, count, where=where or case.id)
    return case


def require_promptable(models: Sequence[Masam], plan: Plan, prompts: Sequence[Prompt], where: object = None) -> None:
    """Refuse prompts that the models cannot use in any scan; errors name the scan ``where``."""
    channels_of(prompts, plan.scheme, where)
    require_trained_with_prompts(models, where)


def require_trained_with_prompts(models: Sequence[Masam], where: object = None) -> None:
    """Refuse models that were trained without prompts; errors name the scan ``where``."""
    for model in models:
        # Untrained models and models of other projects do not record how they were trained.
        training = model.card.training if model.card else {}
        if "steps" in training and not training.get("prompt_rate"):
            raise ModelError(
                "the model was trained without prompts, so its response to them is meaningless",
                where=where,
                fix="leave the prompts out, or train with prompt_rate above 0",
            )
