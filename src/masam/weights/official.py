"""Import and export of official MA-SAM models: the adapter file, and the settings that its programs fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from masam.errors import ConfigError, ModelError
from masam.model.masam import Masam, empty_model
from masam.preprocess.plan import PRESETS, Plan
from masam.weights.card import ModelCard, require_matching_plan
from masam.weights.infer_spec import USUAL_DECODER_HEADS, infer_masam_spec
from masam.weights.model_file import is_based_on_file, read_base
from masam.weights.pytorch_file import write_pytorch
from masam.weights.sam_names import to_official
from masam.weights.state_dict import load_official_state, load_sam_state, require_adapter
from masam.weights.tensors import read_tensors

LABELS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "btcv": (
            "paper-ct",
            (
                "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
                "inferior_vena_cava", "veins", "pancreas", "adrenal_glands",
            ),
        ),
        "prostate": ("paper-mr", ("prostate",)),
        "pancreas": ("paper-tumor", ("tumour",)),
    }
)  # fmt: skip
"""Data sets of the official models: preset of the plan, and classes in the order of the channels (paper.md 5)."""


def load_reference(
    sam_checkpoint: str | Path,
    adapter_checkpoint: str | Path,
    image_size: int = 512,
    fact_scale: float = 1.0,
    decoder_heads: int = USUAL_DECODER_HEADS,
) -> Masam:
    """Load an official MA-SAM model from a SAM file and an ``epoch_N.pth``, in evaluation mode.

    All other hyperparameters are inferred from the tensors.

    Args:
        sam_checkpoint: Weights of the SAM that the adapter was trained on: a file or a published name.
        adapter_checkpoint: The official adapter file, automatic or box variant.
        image_size: Side of the input in pixels during training.
        fact_scale: Factor of the FacT increments during training.
        decoder_heads: Attention heads of the mask decoder.

    Raises:
        InputError: A file cannot be opened.
        ConfigError: The image size is invalid.
        ModelError: A file has the wrong content, or the two files do not match.
    """
    adapter_path = Path(adapter_checkpoint)
    sam, base = read_base(sam_checkpoint)
    adapter = require_adapter(read_tensors(adapter_path)[0], adapter_path)
    spec = infer_masam_spec(sam, adapter, image_size, fact_scale, decoder_heads, (sam_checkpoint, adapter_path))
    model = empty_model(spec)
    load_sam_state(model, sam, spec.sam, where=sam_checkpoint)
    load_official_state(model, adapter, where=adapter_path)
    model.card = ModelCard(base=base)
    return model.eval()


def import_reference(
    sam_checkpoint: str | Path,
    adapter_checkpoint: str | Path,
    *,
    image_size: int = 512,
    fact_scale: float = 1.0,
    trained_on: str | None = None,
    plan: Plan | None = None,
    licence: str | None = None,
) -> Masam:
    """Load an official MA-SAM model together with the plan that predictions require.

    The plan is that of the official programs for the data set ``trained_on`` (btcv, prostate or pancreas), or ``plan``;
    without either the model has none. ``licence`` states the terms of the adapter's weights, such as an SPDX name. The
    other arguments are those of :func:`load_reference`.

    Raises:
        InputError: A file cannot be opened.
        ConfigError: The image size is invalid, the data set is unknown, or both it and a plan are given.
        ModelError: A file has the wrong content, or the parts do not match.
    """
    if trained_on is not None and plan is not None:
        raise ConfigError("plan and trained_on exclude each other; give one of them", where="plan")
    model = load_reference(sam_checkpoint, adapter_checkpoint, image_size, fact_scale)
    if trained_on is not None:
        plan = reference_plan(trained_on, image_size)
    if plan is not None:
        require_matching_plan(plan, model.spec)
    model.card = replace(model.card, plan=plan, licence=licence)
    return model


def save_reference(path: Path, model: Masam) -> None:
    """Write the trained tensors as an ``epoch_N.pth`` for ``--adapt_ckpt`` of the official code.

    The official code takes the other hyperparameters from its options (:func:`official_options`).

    Args:
        path: File to write, ``.pth``.
        model: A model that is based on a SAM file.

    Raises:
        ModelError: The model differs from the paper's, or its encoder was trained: the official format stores neither.
        ResourceError: The file cannot be written.
    """
    if variations := model.spec.variations():
        listed = ", ".join(f"{key} {value}" for key, value in variations.items())
        raise ModelError(
            f"expected the paper's model, got one with {listed}, which the official adapter format cannot store",
            fix="export it as safetensors",
        )
    if not is_based_on_file(model) or model.image_encoder.fact is None or model.input_projection is not None:
        raise ModelError(
            "expected a model with FacT, without a projection of channels, and with the frozen encoder of a SAM file; "
            "the official adapter format cannot store any other",
            fix="export it as safetensors",
        )
    trained = model.trained_names()
    state = {name: tensor for name, tensor in model.state_dict().items() if name in trained}
    write_pytorch(path, to_official(state, model.spec.sam.depth))


def official_options(model: Masam) -> str:
    """Return the options of the official programs for a model written by :func:`save_reference`."""
    spec = model.spec
    base = model.card.base.file if model.card and model.card.base else None
    return (
        f"--ckpt {base or 'SAM_FILE'} --vit_name {spec.sam.name} --num_classes {spec.num_classes} "
        f"--img_size {spec.image_size} --rank {spec.fact_rank} --scale {spec.fact_scale:g}"
    )


def reference_plan(trained_on: str, image_size: int = 512) -> Plan:
    """Return the plan with which the official programs prepare volumes of btcv, prostate or pancreas.

    Slices are used as stored, regardless of the orientation, and each window is rescaled to 0..1 (paper.md 1.5).
    """
    if trained_on not in LABELS:
        raise ConfigError(f"expected one of {', '.join(LABELS)}, got {trained_on!r}", where="trained_on")
    preset_name, classes = LABELS[trained_on]
    preset = PRESETS[preset_name]
    return Plan(
        name=trained_on,
        modality=preset.modality,
        slice_axis="stored",
        intensity=preset.intensity,
        window_minmax=preset.window_minmax,
        window=preset.window,
        image_size=image_size,
        labels={"background": 0} | {name: value for value, name in enumerate(classes, start=1)},
    )
