"""Text files of a MONAI bundle: metadata, configuration, README and licence.

Source: MONAI's bundle specification, https://docs.monai.io/en/latest/mb_specification.html.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from masam import __version__
from masam.errors import ConfigError
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"

BUNDLE_VERSION = "0.1.0"

NOT_A_DEVICE = "For research use only. Not a medical device; not for diagnosis or treatment."

_RUNS = ("$", "@", "%")
"""Prefixes of strings that MONAI evaluates, resolves or loads anywhere in a configuration."""

_PARTS = "masam.export.bundle_parts"


def bundle_metadata(spec: MasamSpec, plan: Plan, monai_version: str) -> dict[str, Any]:
    """Return the content of ``configs/metadata.json``.

    Raises ConfigError for a name of a class or channel that MONAI would run as code.
    """
    classes = [label.name for label in plan.scheme.labels]
    for name in (*classes, *plan.channels):
        if name.startswith(_RUNS):
            raise ConfigError(
                f"expected a name that MONAI does not run as code, got {name!r}",
                where="labels" if name in classes else "channels",
                fix="rename it in the plan",
            )
    side = spec.image_size
    tensor = {
        "type": "image",
        "modality": plan.modality,
        "spatial_shape": [spec.window, side, side],
        "dtype": "float32",
        "is_patch_data": True,
    }
    image = {"format": "magnitude", "num_channels": spec.image_channels, "value_range": [0, 1]}
    image["channel_def"] = {str(channel): name for channel, name in enumerate(plan.channels)}
    prediction = {
        "format": "labels",
        "num_channels": spec.num_channels,
        "value_range": [],
        "channel_def": {str(channel): name for channel, name in enumerate(classes)},
    }
    return {
        "schema": SCHEMA,
        "version": BUNDLE_VERSION,
        "changelog": {BUNDLE_VERSION: f"exported by masam {__version__}"},
        "monai_version": monai_version,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"masam": __version__, "nibabel": metadata.version("nibabel")},
        "name": f"MA-SAM, {plan.name}",
        "task": f"Segmentation of {plan.modality} volumes: {', '.join(classes[1:])}",
        "description": "MA-SAM: Segment Anything, adapted to volumes by low-rank increments (FacT) and 3D adapters. "
        "The masam package preprocesses slices, groups them into windows and aggregates the predictions.",
        "authors": "the authors of the trained model",
        "copyright": "Weights: the authors of the trained model; see LICENSE",
        "data_source": f"data set {plan.name}",
        "data_type": "nifti",
        "intended_use": NOT_A_DEVICE,
        "references": [
            "Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, arXiv 2309.08842"
        ],
        "network_data_format": {"inputs": {"image": tensor | image}, "outputs": {"pred": tensor | prediction}},
    }


def inference_config(spec: MasamSpec) -> dict[str, Any]:
    """Return the content of ``configs/inference.json``: components of masam with their hyperparameters.

    The plan is in a separate file, because MONAI would evaluate strings that look like expressions.
    """
    hyperparameters = asdict(spec)
    # The name is read from a model file, so it could be an expression too.
    if hyperparameters["sam"]["name"] not in SIZES:
        hyperparameters["sam"]["name"] = "custom"
    hyperparameters["sam"]["global_blocks"] = list(spec.sam.global_blocks)
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        "precision": "auto",
        "stride": 1,
        "network_def": {"_target_": f"{_PARTS}.build_network", **hyperparameters},
        "dataset": {"_target_": f"{_PARTS}.find_scans", "folder": "@dataset_dir"},
        "inferer": {
            "_target_": f"{_PARTS}.build_predictor",
            "network": "@network_def",
            "weights": "$@bundle_root + '/models/model.pt'",
            "plan": "$@bundle_root + '/configs/plan.yaml'",
            "device": "@device",
            "precision": "@precision",
            "stride": "@stride",
        },
        "evaluator": {
            "_target_": f"{_PARTS}.FolderSegmenter",
            "predictor": "@inferer",
            "scans": "@dataset",
            "output_dir": "@output_dir",
        },
        "run": ["$@evaluator.run()"],
    }


def readme(plan: Plan) -> str:
    """Return the content of ``docs/README.md``."""
    window = f"{plan.window}, {plan.image_size}, {plan.image_size}"
    return _template("README.md").render(plan=plan, window=window, disclaimer=NOT_A_DEVICE)


def licence(terms: str | None) -> str:
    """Return the content of ``LICENSE``; ``terms`` is the licence of the weights in the model card."""
    return _template("LICENSE").render(terms=terms)


def _template(name: str) -> Template:
    # Escapes HTML files only; these files are Markdown and plain text.
    environment = Environment(
        loader=PackageLoader("masam.export"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
