"""What travels with a model's weights, and its form in the file: numbers, plan, base, training, licence.

The form has a version. What an older one lacks is filled in here, so that the rest of masam knows the newest only.
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
"""1: base_sha256 alone names the base. 2: base, classes, licence, versions. 3: the spec has LoRA, places and shapes of
adapters, SAM's own decoder, and classes that were added."""

HEADER = "masam"
"""Key of the metadata that holds the header, as JSON."""


@dataclass(frozen=True)
class Base:
    """The SAM file whose frozen encoder a model stands on.

    Attributes:
        size: vit_b, ... or ``custom``.
        sha256: Hash of the file.
        tensors_sha256: Hash of its tensors under SAM's names, which a copy in another container shares; None in models
            of format version 1.
        file: Its name, without folders; None in models of format version 1.
    """

    size: str
    sha256: str
    tensors_sha256: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """What travels with the weights.

    Attributes:
        plan: How volumes are prepared, and which class is which channel.
        base: SAM file whose encoder the model stands on; None if the encoder is in the model's file itself.
        training: Facts of the training run: steps, validation Dice, and what else it notes.
        licence: Terms of the weights, such as an SPDX name; None where nobody has said.
    """

    plan: Plan | None = None
    base: Base | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None


def write_header(spec: MasamSpec, card: ModelCard) -> dict[str, str]:
    """Return a model file's metadata: plain values, the same for the same model and versions."""
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
    """Return the header of a model file of any version as the newest version has it.

    Args:
        notes: The file's metadata.
        where: File to name in an error.

    Raises:
        ModelError: There is no header, it is incomplete, or of a version that this masam does not know.
    """
    try:
        header = json.loads(notes[HEADER])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            "expected a model that masam has written, its metadata are missing",
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
            f"the metadata lack {', '.join(missing)}", where=where, fix="copy the file again, or export it anew"
        )
    return dict(header)


def read_spec(header: Mapping[str, Any], where: object) -> MasamSpec:
    """Return the architecture that a header describes.

    Raises:
        ModelError: Its numbers are not those of a model.
    """
    try:
        return MasamSpec.from_plain(header["spec"])
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(
            f"expected the numbers of a model in the metadata ({error})", where=where, fix="train or export it again"
        ) from error


def read_card(header: Mapping[str, Any], where: object) -> ModelCard:
    """Return the card that a header describes.

    Raises:
        ModelError: A part of it is not what it should be.
    """
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
            f"expected plan, base and training in the metadata ({error})", where=where, fix="export it anew"
        ) from error


def require_fitting(plan: Plan, spec: MasamSpec) -> None:
    """Refuse a plan that is for another model.

    Raises:
        ModelError: The number of classes, of channels, or the image size differ.
    """
    fix = "give the plan that the model was trained with"
    wanted, found = (plan.scheme.num_classes, plan.image_size), (spec.num_classes, spec.image_size)
    if wanted != found:
        raise ModelError(
            f"the plan has {wanted[0]} classes at {wanted[1]} pixels, the model {found[0]} at {found[1]}", fix=fix
        )
    if len(plan.channels) != spec.image_channels:
        raise ModelError(f"the plan has {len(plan.channels)} image channels, the model {spec.image_channels}", fix=fix)


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    upgraded = {key: header[key] for key in ("spec", "plan", "training") if key in header}
    if "base_sha256" in header:
        sha256 = header["base_sha256"]
        try:
            size = header["spec"]["sam"]["name"]
        except (KeyError, TypeError):
            size = "custom"  # read_spec says what is wrong with it
        upgraded["base"] = None if sha256 is None else {"size": size, "sha256": sha256}
    versions = {"masam": header.get("masam_version")}
    return {**upgraded, "format_version": 1, "versions": versions, "licence": None}
