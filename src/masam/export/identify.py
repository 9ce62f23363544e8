"""Describe a weights file of any origin, without building a model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from masam.errors import InputError, ModelError
from masam.export.program import DESCRIPTION_FILE, DESCRIPTION_KEY
from masam.io import gate
from masam.io.packages import require_package
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.weights import tensors
from masam.weights.card import HEADER, read_spec
from masam.weights.infer_spec import infer_adapter, infer_sam_size
from masam.weights.model_file import MODEL_FILE, read_model_header
from masam.weights.published import published_by_sha256
from masam.weights.sam_names import KINDS, kind_of
from masam.weights.state_dict import require_sam

EXPORTS = {".pt2": "torch.export program", ".onnx": "ONNX model"}
BUNDLE = "MONAI bundle"
BUNDLE_METADATA, BUNDLE_INFERENCE = (Path("configs") / f"{name}.json" for name in ("metadata", "inference"))

# Location of the program in a .pt2 file, from PyTorch 2.8 and before.
_PROGRAM = ("/models/model.json", "serialized_exported_program.json")
_MAX_BYTES = 2**20

_STATE_FILE = Path("last") / "state.json"


def identify(path: Path) -> dict[str, Any]:
    """Describe a model of masam, a run folder, an export, weights of SAM or MedSAM, or an official MA-SAM adapter.

    The values of published files are read only for the hash of the file. For files of masam, the hash of the content is
    verified as well.

    Returns:
        Plain values, starting with ``kind``.

    Raises:
        InputError: The path cannot be opened, or has an unsupported extension.
        ModelError: The file is damaged.
    """
    if path.is_dir():
        return _bundle(path) if (path / BUNDLE_METADATA).is_file() else _run_folder(path)
    if path.suffix in EXPORTS:
        return {**_export(path), **_file(path)}
    shapes, metadata = tensors.read_header(path)
    kind = kind_of(shapes)
    if HEADER in metadata:
        facts = _model(path, metadata)
    elif kind == "ma-sam-adapter":
        facts = {"kind": KINDS[kind], **asdict(infer_adapter(shapes, where=path))}
        facts["prompts"] = "automatic or box variant, which have the same tensors"
    elif kind is not None:
        facts = {"kind": KINDS[kind], **_sam(require_sam(shapes, path), path)}
    else:
        facts = {"kind": "tensors of an unknown model", "first_names": sorted(shapes)[:5]}
    file = _file(path)
    published = published_by_sha256(file["sha256"])
    return {
        **facts,
        "published_as": published.name if published else None,
        "tensors": len(shapes),
        "values": sum(tensor.numel() for tensor in shapes.values()),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in shapes.values()}),
        **file,
    }


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": gate.sha256(path)}


def _export(path: Path) -> dict[str, Any]:
    description = _read_description(path)
    if description is None:
        return {"kind": f"{EXPORTS[path.suffix]}, not from masam"}
    spec = read_spec(description.pop("spec", None), path)
    return {"kind": EXPORTS[path.suffix], **_main_options(spec), **description}


def _read_description(path: Path) -> dict[str, Any] | None:
    """Return the description in a ``.pt2`` or ``.onnx`` file, None if the file was not exported by masam."""
    with gate.open_regular(path):
        pass
    onnx = require_package("onnx") if path.suffix == ".onnx" else None
    try:
        with gate.library_errors(path):
            text = _read_program(path) if onnx is None else _read_onnx(onnx, path)
            description = None if text is None else json.loads(text)
    except InputError as error:
        raise ModelError(
            f"expected a {EXPORTS[path.suffix]}, cannot read it ({error.__cause__})", where=path, fix="copy it again"
        ) from error
    if description is not None and not isinstance(description, Mapping):
        raise ModelError("the description in the file is damaged", where=path, fix="export it again")
    return None if description is None else dict(description)


def _read_program(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(_PROGRAM) for name in archive.namelist()):
            raise ValueError("the zip archive contains no program")
        records = [record for record in archive.infolist() if record.filename.endswith(f"/extra/{DESCRIPTION_FILE}")]
        if len(records) != 1 or records[0].file_size > _MAX_BYTES:
            return None
        return archive.read(records[0]).decode()


def _read_onnx(onnx: Any, path: Path) -> str | None:
    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == DESCRIPTION_KEY), None)


def _main_options(spec: MasamSpec) -> dict[str, Any]:
    keys = ("num_classes", "image_size", "window", "fact_rank", "fact_scale", "adapter_channels", "image_channels")
    return {"size": spec.sam.name, **{key: getattr(spec, key) for key in keys}, **spec.variations()}


def _bundle(folder: Path) -> dict[str, Any]:
    description, inference = gate.read_json(folder / BUNDLE_METADATA), gate.read_json(folder / BUNDLE_INFERENCE)
    if not isinstance(description, Mapping) or not isinstance(inference, Mapping):
        raise ModelError("the bundle's description is damaged", where=folder / BUNDLE_METADATA)
    keys = ("name", "version", "task", "monai_version", "pytorch_version", "required_packages_version", "intended_use")
    facts: dict[str, Any] = {"kind": BUNDLE, **{key: description.get(key) for key in keys}}
    # Bundles of other origin have another network.
    network = inference.get("network_def")
    if isinstance(network, Mapping) and str(network.get("_target_")).startswith("masam."):
        options = {key: value for key, value in network.items() if key != "_target_"}
        facts |= _main_options(read_spec(options, folder / BUNDLE_INFERENCE))
    weights = folder / "models" / "model.pt"
    return {**facts, "weights": _file(weights)} if weights.is_file() else facts


def _run_folder(folder: Path) -> dict[str, Any]:
    model, state = folder / MODEL_FILE, folder / _STATE_FILE
    if not model.is_file() and not state.is_file():
        raise InputError(
            f"expected a weights file or a run folder, this folder contains neither {MODEL_FILE} nor {_STATE_FILE}",
            where=folder,
        )
    facts: dict[str, Any] = {"kind": "masam run folder", "steps_done": None, "best_dice": None}
    if state.is_file():
        saved = gate.read_json(state)
        if not isinstance(saved, Mapping):
            raise ModelError("the state file is damaged", where=state)
        facts |= {"steps_done": saved.get("step"), "best_dice": saved.get("best_dice")}
    return {**facts, **identify(model), "kind": facts["kind"]} if model.is_file() else facts


def _model(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    _, spec, card = read_model_header(path)
    tensors.read_tensors(path, ours=True)  # verifies the hash of the content
    header = json.loads(metadata[HEADER])
    return {
        "kind": "masam model",
        **_main_options(spec),
        "classes": None if card.plan is None else dict(card.plan.labels),
        "depth": spec.sam.depth,
        "decoder_heads": spec.sam.decoder_heads,
        "plan": None if card.plan is None else card.plan.model_dump(mode="json"),
        "encoder": "in the file" if card.base is None else "in the SAM file of base",
        "base": None if card.base is None else asdict(card.base),
        "training": dict(card.training),
        "licence": card.licence,
        "format_version": header["format_version"],
        "versions": header.get("versions", {"masam": header.get("masam_version")}),
        "content_sha256": metadata[tensors.CONTENT_HASH],
    }


def _sam(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    size = infer_sam_size(state, where=path)
    return {
        "size": size.name,
        "image_size": size.base_image_size,
        "depth": size.depth,
        "embed_dim": size.embed_dim,
        "num_heads": size.num_heads,
        "global_blocks": list(size.global_blocks),
        "masks": len(state["mask_decoder.mask_tokens.weight"]) if "mask_decoder.mask_tokens.weight" in state else None,
        "note": None if size.name in SIZES else "not a published size",
    }
