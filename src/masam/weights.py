"""From files to models and back: build, load, save."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masam import __version__
from masam.errors import ModelError
from masam.io import gate
from masam.io.tensors import read_tensors, write_tensors
from masam.model.checkpoint import (
    infer_masam_spec,
    load_official_state,
    load_sam_state,
    load_strictly,
)
from masam.model.masam import Masam
from masam.model.sizes import MasamSpec, SamSize, find_size
from masam.plan import Plan

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
"""Name of the model in a run folder."""


@dataclass(frozen=True)
class ModelCard:
    """What travels with the weights.

    Attributes:
        plan: How volumes are prepared, and which class is which channel.
        base_sha256: Hash of the SAM file whose encoder the model stands on; None if the encoder is in the file itself.
        training: Facts of the training run: steps, validation Dice, and what else it notes.
    """

    plan: Plan | None = None
    base_sha256: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def build_masam(
    size: str = "vit_b",
    num_classes: int = 13,
    image_size: int = 512,
    window: int = 5,
    fact_rank: int = 32,
    fact_scale: float = 1.0,
    adapter_channels: int = 384,
    sam_checkpoint: str | Path | None = None,
    *,
    fact_dropout: float = 0.1,
) -> Masam:
    """Build a model to train.

    Args:
        size: vit_h, vit_l, vit_b, or vit_t.
        num_classes: Foreground classes; the logits have one channel more.
        image_size: Side of the square input in pixels, a multiple of 16.
        window: Slices of a window.
        fact_rank: Rank of the FacT increments; 0 for none.
        fact_scale: Their factor.
        adapter_channels: Width of the 3D adapters.
        sam_checkpoint: File of SAM's weights for this size; None leaves the encoder at random numbers.
        fact_dropout: Dropout inside FacT while training.

    Raises:
        ConfigError: A number is out of its range.
        InputError: The file cannot be opened.
        ModelError: The file does not hold a SAM of this size.
    """
    spec = MasamSpec(
        find_size(size), num_classes, image_size, window, fact_rank, fact_scale, fact_dropout, adapter_channels
    )
    model = Masam(spec)
    model.card = ModelCard()
    if sam_checkpoint is not None:
        path = Path(sam_checkpoint)
        load_sam_state(model, read_tensors(path)[0], spec.sam, where=path)
        model.card = ModelCard(base_sha256=gate.sha256(path))
    return model


def load_reference(
    sam_checkpoint: str | Path,
    adapter_checkpoint: str | Path,
    image_size: int = 512,
    fact_scale: float = 1.0,
    decoder_heads: int = 8,
) -> Masam:
    """Load the official MA-SAM: a SAM file and an ``epoch_N.pth``; all other numbers are read off the tensors.

    Args:
        sam_checkpoint: SAM's weights, of the backbone that the adapter was trained on.
        adapter_checkpoint: The official adapter file, automatic or box variant.
        image_size: Side of the input in pixels that the adapter was trained with.
        fact_scale: Factor of the FacT increments that it was trained with.
        decoder_heads: Attention heads of the mask decoder.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: A file cannot be opened.
        ModelError: A file is not what it should be, or the two do not belong together.
    """
    sam_path, adapter_path = Path(sam_checkpoint), Path(adapter_checkpoint)
    sam_state, adapter = read_tensors(sam_path)[0], read_tensors(adapter_path)[0]
    spec = infer_masam_spec(sam_state, adapter, image_size, fact_scale, decoder_heads, (sam_path, adapter_path))
    model = Masam(spec)
    load_sam_state(model, sam_state, spec.sam, where=sam_path)
    load_official_state(model, adapter, where=adapter_path)
    model.card = ModelCard(base_sha256=gate.sha256(sam_path))
    return model.eval()


def save(path: Path, model: Masam, *, embed_base: bool = False) -> None:
    """Write a model with its card as one safetensors file.

    The frozen encoder of a known SAM file is not repeated: the card names the file's hash, and ``load`` asks for it. An
    encoder that is not frozen, or that stands on no file, is in the file itself.

    Args:
        path: File to write.
        model: The model, with its card.
        embed_base: Put the encoder into the file in any case, so that the file stands alone.

    Raises:
        ResourceError: The file cannot be written.
    """
    card = model.card or ModelCard()
    state = model.state_dict()
    trained = model.trained_names()
    is_frozen = not any(p.requires_grad for name, p in model.named_parameters() if name not in trained)
    base_sha256 = card.base_sha256 if is_frozen and not embed_base else None
    if base_sha256 is not None:
        state = {name: tensor for name, tensor in state.items() if name in trained}
    header = {
        "format_version": FORMAT_VERSION,
        "masam_version": __version__,
        "spec": asdict(model.spec),
        "plan": None if card.plan is None else card.plan.model_dump(mode="json"),
        "base_sha256": base_sha256,
        "training": dict(card.training),
    }
    write_tensors(path, state, {"masam": json.dumps(header)})


def load(path: str | Path, sam_checkpoint: str | Path | None = None) -> Masam:
    """Load a model that was trained here.

    Args:
        path: A run folder or its ``model.safetensors``.
        sam_checkpoint: The SAM file the model stands on, where the encoder is not in the file itself.

    Returns:
        The model in evaluation mode, its plan in ``model.card.plan``.

    Raises:
        InputError: A file cannot be opened.
        ModelError: The file is damaged, of a newer format, or needs another SAM file.
    """
    file = model_file(path)
    tensors, metadata = read_tensors(file, ours=True)
    header = _read_header(metadata, file)
    base_sha256: str | None = header["base_sha256"]
    spec = _read_spec(header["spec"], file)
    plan = None if header["plan"] is None else Plan.from_mapping(header["plan"], where=file)
    model = Masam(spec)
    if base_sha256 is None:
        load_strictly(model, tensors, where=file)
    else:
        base = _find_base(sam_checkpoint, base_sha256, spec, file)
        load_sam_state(model, read_tensors(base)[0], spec.sam, where=base)
        load_strictly(model, tensors, kept=set(model.state_dict()) - model.trained_names(), where=file)
    model.card = ModelCard(plan, base_sha256, header["training"])
    return model.eval()


def _read_header(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    try:
        header = json.loads(metadata["masam"])
        version = header["format_version"]
        complete = {"spec", "plan", "base_sha256", "training"} <= set(header)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "expected a model that masam has written, its metadata are missing",
            where=file,
            fix="give a run folder or its model.safetensors",
        ) from error
    if version != FORMAT_VERSION or not complete:
        raise ModelError(
            f"the file has format version {version}, this masam reads version {FORMAT_VERSION}",
            where=file,
            fix="update masam",
        )
    return dict(header)


def _read_spec(values: Mapping[str, Any], file: Path) -> MasamSpec:
    try:
        sam = SamSize(**{**values["sam"], "global_blocks": tuple(values["sam"]["global_blocks"])})
        return MasamSpec(**{**values, "sam": sam})
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"expected the numbers of a model in the metadata ({error})", where=file, fix="train or export it again"
        ) from error


def _find_base(given: str | Path | None, base_sha256: str, spec: MasamSpec, file: Path) -> Path:
    wanted = f"the SAM file of {spec.sam.name} with SHA-256 {base_sha256}"
    if given is None:
        raise ModelError(f"the model stands on {wanted}", where=file, fix="give that file with --sam-checkpoint")
    base = Path(given)
    found = gate.sha256(base)
    if found != base_sha256:
        raise ModelError(f"expected {wanted}, got a file with SHA-256 {found}", where=base, fix="give the right file")
    return base


def describe(path: str | Path) -> dict[str, Any]:
    """Say what a model file is, without building the model.

    Returns:
        Plain values: size, classes, image size, window, rank, adapters, base, training facts, number of values.

    Raises:
        InputError: The file cannot be opened.
        ModelError: It is damaged or not a model of masam's.
    """
    file = model_file(path)
    tensors, metadata = read_tensors(file, ours=True)
    header = _read_header(metadata, file)
    spec, plan = header["spec"], header["plan"]
    return {
        "file": file.name,
        "size": spec["sam"]["name"],
        "classes": None if plan is None else plan["labels"],
        "num_classes": spec["num_classes"],
        "image_size": spec["image_size"],
        "window": spec["window"],
        "fact_rank": spec["fact_rank"],
        "fact_scale": spec["fact_scale"],
        "adapter_channels": spec["adapter_channels"],
        "encoder": "in the file" if header["base_sha256"] is None else f"SAM file {header['base_sha256']}",
        "values_in_file": sum(tensor.numel() for tensor in tensors.values()),
        "training": header["training"],
        "masam_version": header["masam_version"],
    }


def model_file(path: str | Path) -> Path:
    """Return the model's file, given that file or a run folder."""
    file = Path(path)
    return file / MODEL_FILE if file.is_dir() else file
