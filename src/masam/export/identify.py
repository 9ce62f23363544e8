"""Say what a weights file is, whoever wrote it, without building a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from masam.errors import ConfigError, InputError, ModelError
from masam.export.description import BUNDLE, BUNDLE_INFERENCE, BUNDLE_METADATA, read_description
from masam.export.description import KINDS as EXPORTS
from masam.io import gate
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.weights import tensors
from masam.weights.card import HEADER
from masam.weights.infer_spec import infer_adapter, infer_sam_size
from masam.weights.model_file import MODEL_FILE, read_model_header
from masam.weights.published import published_by_sha256
from masam.weights.sam_names import KINDS, kind_of
from masam.weights.state_dict import require_sam

_STATE_FILE = Path("last") / "state.json"


def identify(path: Path) -> dict[str, Any]:
    """Describe a model of masam's, a run folder, an export, SAM's or MedSAM's weights, or an official MA-SAM adapter.

    Of published files only the table of contents is read, beside the whole file for its hash; what masam has written is
    also compared with the hash inside.

    Args:
        path: The file or folder.

    Returns:
        Plain values, ``kind`` the first of them.

    Raises:
        InputError: It cannot be opened, or its ending is none of these files'.
        ModelError: It is damaged.
    """
    if path.is_dir():
        return _bundle(path) if (path / BUNDLE_METADATA).is_file() else _run_folder(path)
    if path.suffix in EXPORTS:
        return {**_export(path), **_file(path)}
    shapes, notes = tensors.read_header(path)
    kind = kind_of(shapes)
    if HEADER in notes:
        facts = _own_model(path, shapes, notes)
    elif kind == "ma-sam-adapter":
        facts = {"kind": KINDS[kind], **asdict(infer_adapter(shapes, where=path))}
        facts["prompts"] = "automatic or box variant: the tensors of both are alike"
    elif kind is not None:
        facts = {"kind": KINDS[kind], **_sam(require_sam(shapes, path), path)}
    else:
        facts = {"kind": "tensors of no model that masam knows", "first_names": sorted(shapes)[:5]}
    about_file = _file(path)
    published = published_by_sha256(about_file["sha256"])
    return {
        **facts,
        "published_as": published.name if published else None,
        "tensors": len(shapes),
        "values": sum(tensor.numel() for tensor in shapes.values()),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in shapes.values()}),
        **about_file,
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": gate.sha256(path)}


def _export(path: Path) -> dict[str, Any]:
    described = read_description(path)
    if described is None:
        return {"kind": f"{EXPORTS[path.suffix]}, not of masam"}
    return {"kind": EXPORTS[path.suffix], **_numbers(described.pop("spec", None), path), **described}


def _numbers(spec: Any, where: Path) -> dict[str, Any]:
    """Return the numbers of an architecture that people ask for."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("sam"), Mapping):
        raise ModelError("expected the numbers of a model in the description", where=where, fix="export it again")
    keys = ("num_classes", "image_size", "window", "fact_rank", "fact_scale", "adapter_channels")
    try:
        varied = MasamSpec.from_plain(spec).variations()
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(f"the description is of no model ({error})", where=where, fix="export it again") from error
    return {"size": spec["sam"].get("name"), **{key: spec.get(key) for key in keys}, **varied}


def _bundle(folder: Path) -> dict[str, Any]:
    described, inference = gate.read_json(folder / BUNDLE_METADATA), gate.read_json(folder / BUNDLE_INFERENCE)
    if not isinstance(described, Mapping) or not isinstance(inference, Mapping):
        raise ModelError("the bundle's description is damaged", where=folder / BUNDLE_METADATA)
    keys = ("name", "version", "task", "monai_version", "pytorch_version", "required_packages_version", "intended_use")
    facts: dict[str, Any] = {"kind": BUNDLE, **{key: described.get(key) for key in keys}}
    # A bundle of others has another network, whose numbers are not ours to read.
    network = inference.get("network_def")
    if isinstance(network, Mapping) and str(network.get("_target_")).startswith("masam."):
        facts |= _numbers({k: v for k, v in network.items() if k != "_target_"}, folder / BUNDLE_INFERENCE)
    weights = folder / "models" / "model.pt"
    return {**facts, "weights": _file(weights)} if weights.is_file() else facts


def _run_folder(folder: Path) -> dict[str, Any]:
    model, state = folder / MODEL_FILE, folder / _STATE_FILE
    if not model.is_file() and not state.is_file():
        raise InputError(
            f"expected a weights file or a run folder, this folder holds neither {MODEL_FILE} nor {_STATE_FILE}",
            where=folder,
        )
    facts: dict[str, Any] = {"kind": "masam run folder", "steps_done": None, "best_dice": None}
    if state.is_file():
        saved = gate.read_json(state)
        if not isinstance(saved, Mapping):
            raise ModelError("the state file is damaged", where=state)
        facts |= {"steps_done": saved.get("step"), "best_dice": saved.get("best_dice")}
    return {**facts, **identify(model), "kind": facts["kind"]} if model.is_file() else facts


def _own_model(path: Path, shapes: Mapping[str, Tensor], notes: Mapping[str, str]) -> dict[str, Any]:
    _, spec, card = read_model_header(path)
    # Reads and compares the hash of the content.
    tensors.read_tensors(path, ours=True)
    header = json.loads(notes[HEADER])
    return {
        "kind": "masam model",
        "size": spec.sam.name,
        "num_classes": spec.num_classes,
        "classes": None if card.plan is None else dict(card.plan.labels),
        "image_size": spec.image_size,
        "window": spec.window,
        "fact_rank": spec.fact_rank,
        "fact_scale": spec.fact_scale,
        "adapter_channels": spec.adapter_channels,
        "image_channels": spec.image_channels,
        **spec.variations(),
        "depth": spec.sam.depth,
        "decoder_heads": spec.sam.decoder_heads,
        "plan": None if card.plan is None else card.plan.model_dump(mode="json"),
        "encoder": "in the file" if card.base is None else "in the SAM file of base",
        "base": None if card.base is None else asdict(card.base),
        "training": dict(card.training),
        "licence": card.licence,
        "format_version": header["format_version"],
        "versions": header.get("versions", {"masam": header.get("masam_version")}),
        "content_sha256": notes[tensors.CONTENT_HASH],
    }


def _sam(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    size = infer_sam_size(state, where=path)
    known = SIZES.get(size.name)
    return {
        "size": size.name,
        "image_size": size.base_image_size,
        "depth": size.depth,
        "embed_dim": size.embed_dim,
        "num_heads": size.num_heads,
        "global_blocks": list(size.global_blocks),
        "masks": len(state["mask_decoder.mask_tokens.weight"]) if "mask_decoder.mask_tokens.weight" in state else None,
        "note": None if known else "no published size",
    }
