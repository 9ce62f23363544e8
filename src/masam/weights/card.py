"""The card of a model, and its form in the metadata of the model file: specification, plan, base, training, licence.

The form has a version. :func:`read_header` migrates older versions, so that all other code handles the newest only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from masam import __version__
from masam.errors import ConfigError, ModelError
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan

FORMAT_VERSION = 3
"""1: only base_sha256 names the base. 2: adds base, classes, licence, versions. 3: the specification has all options of
the architecture; models of earlier versions have their defaults, those of the paper."""

HEADER = "masam"
"""Key of the metadata that holds the header, as JSON."""


@dataclass(frozen=True)
class Base:
    """The SAM file from which the frozen encoder of a model was loaded.

    Attributes:
        size: vit_b, ... or ``custom``.
        sha256: SHA-256 of the file.
        tensors_sha256: SHA-256 of its tensors under SAM's names, which is independent of the container; None in models
            of format version 1.
        file: Name of the file, without folders; None in models of format version 1.
    """

    size: str
    sha256: str
    tensors_sha256: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """Information that is stored with the weights.

    Attributes:
        plan: Preparation of volumes, and the classes of the channels.
        base: SAM file that the model requires; None if the model file contains the encoder.
        training: Facts about the training run, such as steps and validation Dice.
        licence: Terms of the weights, such as an SPDX name; None if unknown.
    """

    plan: Plan | None = None
    base: Base | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None


def write_header(spec: MasamSpec, card: ModelCard) -> dict[str, str]:
    """Return the metadata of a model file; equal for equal models and versions."""
    header = {
        "format_version": FORMAT_VERSION,
        "versions": {"masam": __version__, "torch": metadata.version("torch")},
        "spec": asdict(spec),
        "base": None if card.base is None else asdict(card.base),
        "classes": None if card.plan is None else [asdict(label) for label in card.plan.scheme.labels],
        "plan": None if card.plan is None else card.plan.model_dump(mode="json"),
        "training": dict(card.training),
        "licence": card.licence,
    }
    return {HEADER: json.dumps(header)}


def read_header(notes: Mapping[str, str], where: object) -> dict[str, Any]:
    """Return the header in the metadata of a model file of any version, migrated to the newest."""
    try:
        header = json.loads(notes[HEADER])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            "expected a model written by masam, its metadata are missing",
            where=where,
            fix="give a run folder or its model.safetensors",
        ) from error
    if version == 1:
        header = _from_version_1(header)
    elif version not in (2, FORMAT_VERSION):
        raise ModelError(
            f"the file has format version {version}, this masam reads versions 1 to {FORMAT_VERSION}",
            where=where,
            fix="update masam",
        )
    missing = [key for key in ("spec", "plan", "base", "training", "licence", "versions") if key not in header]
    if missing:
        raise ModelError(
            f"the metadata lack {', '.join(missing)}", where=where, fix="copy the file again, or export it again"
        )
    return dict(header)


def read_spec(values: Any, where: object) -> MasamSpec:
    """Return the specification with these values in the metadata of a file; raise ModelError if it is invalid."""
    try:
        return MasamSpec.from_plain(values)
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(
            f"expected a valid specification in the metadata ({error})", where=where, fix="train or export it again"
        ) from error


def read_card(header: Mapping[str, Any], where: object) -> ModelCard:
    """Return the card in a header; raise ModelError if a part of it is invalid."""
    base, plan, training = header["base"], header["plan"], header["training"]
    try:
        texts = [*(base or {}).values(), header["licence"]]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise TypeError(f"expected texts, got {texts}")
        return ModelCard(
            plan=None if plan is None else Plan.from_mapping(plan, where=where),
            base=None if base is None else Base(**base),
            training=dict(training),
            licence=header["licence"],
        )
    except (AttributeError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"expected plan, base and training in the metadata ({error})", where=where, fix="export it again"
        ) from error


def require_matching_plan(plan: Plan, spec: MasamSpec) -> None:
    """Raise ModelError if the classes, channels or image size of a plan are not those of a model."""
    fix = "give the plan that the model was trained with"
    expected, actual = (plan.scheme.num_classes, plan.image_size), (spec.num_classes, spec.image_size)
    if expected != actual:
        raise ModelError(
            f"the plan has {expected[0]} classes at {expected[1]} pixels, the model {actual[0]} at {actual[1]}", fix=fix
        )
    if len(plan.channels) != spec.image_channels:
        raise ModelError(f"the plan has {len(plan.channels)} image channels, the model {spec.image_channels}", fix=fix)


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    migrated = {key: header[key] for key in ("spec", "plan", "training") if key in header}
    if "base_sha256" in header:
        sha256 = header["base_sha256"]
        try:
            size = header["spec"]["sam"]["name"]
        except (KeyError, TypeError):
            size = "custom"  # read_spec reports the error
        migrated["base"] = None if sha256 is None else {"size": size, "sha256": sha256}
    return {**migrated, "versions": {"masam": header.get("masam_version")}, "format_version": 1, "licence": None}
