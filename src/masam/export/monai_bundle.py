"""MONAI bundles: folders that ``monai.bundle`` loads and runs with the components of masam."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from masam import atomic
from masam.errors import ModelError
from masam.export.agreement import Exported, Run, require_agreement
from masam.export.bundle_parts import BundleNetwork
from masam.export.bundle_texts import bundle_metadata, inference_config, licence, readme
from masam.io.packages import require_package
from masam.model.masam import Masam, merged
from masam.preprocess.plan import Plan
from masam.weights.pytorch_file import write_archive


def write_bundle(model: Masam, path: Path, *, merge: bool = False) -> Exported:
    """Write a model as a MONAI bundle, load it with MONAI, and compare its outputs with the model.

    The name of the folder is the name of the bundle. With ``merge``, the FacT increments are merged into the encoder.
    Raises ModelError if the model has no plan or is for video.
    """
    plan: Plan | None = model.card.plan if model.card else None
    if plan is None:
        raise ModelError(
            "the model has no plan, which a bundle requires to preprocess volumes",
            fix="add a plan to the model, or export it as onnx or torch",
        )
    if plan.modality == "video":
        raise ModelError(
            f"the model is for video ({plan.name}), but bundles segment volumes", fix="export it as onnx or torch"
        )
    with _quiet():
        monai = require_package("monai")
    written = merged(model) if merge else model
    texts = {
        "configs/metadata.json": _json(bundle_metadata(written.spec, plan, monai.__version__)),
        "configs/inference.json": _json(inference_config(written.spec)),
        "configs/plan.yaml": plan.dump_yaml(),
        "docs/README.md": readme(plan),
        "LICENSE": licence(model.card.licence),
    }

    def write(folder: Path) -> Exported:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode())
        (folder / "models").mkdir()
        state = {name: tensor.detach().cpu() for name, tensor in BundleNetwork(written).state_dict().items()}
        write_archive(folder / "models/model.pt", lambda archive: torch.save(state, archive))
        difference = require_agreement(model, _runner(folder), where=path)
        return Exported(path, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), difference)

    return atomic.write_aside(path, write)


def _runner(folder: Path) -> Run:
    with _quiet():
        network = require_package("monai.bundle").load(
            folder.name, bundle_dir=folder.parent, workflow_type="inference", device="cpu"
        )

    def run(windows: Tensor) -> tuple[Tensor, ...]:
        return (network(windows.transpose(1, 2)).transpose(1, 2),)

    return run


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of MONAI about optional packages and about trusting the bundle."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
