"""The files of a MONAI bundle that are text: metadata, configuration, README, licence.

Source: MONAI's bundle specification, https://docs.monai.io/en/latest/mb_specification.html.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import torch

from masam import __version__
from masam.errors import ConfigError
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"

BUNDLE_VERSION = "0.1.0"

NOT_A_DEVICE = "Research only. This is not a medical device, and not for diagnosis or treatment."

_RUNS = ("$", "@", "%")
"""How a text begins that MONAI evaluates, resolves or loads wherever it stands in a configuration."""

_PARTS = "masam.export.bundle_parts"


def bundle_metadata(spec: MasamSpec, plan: Plan, monai_version: str) -> dict[str, Any]:
    """Return the content of ``configs/metadata.json``.

    Args:
        spec: Numbers of the model.
        plan: How volumes are prepared.
        monai_version: Version of MONAI that the bundle is made with.

    Raises:
        ConfigError: A class has a name that MONAI would run as code.
    """
    classes = [label.name for label in plan.scheme.labels]
    for name in (*classes, *plan.channels):
        if name.startswith(_RUNS):
            raise ConfigError(
                f"expected a name that MONAI takes for text, got {name!r}: it would be run as code",
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
        "Slices are prepared, put into windows and voted on by the masam package.",
        "authors": "those who trained the model",
        "copyright": "of the weights: those who trained the model; see LICENSE",
        "data_source": f"data set {plan.name}",
        "data_type": "nifti",
        "intended_use": NOT_A_DEVICE,
        "references": [
            "Chen et al., MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation, arXiv 2309.08842"
        ],
        "network_data_format": {"inputs": {"image": tensor | image}, "outputs": {"pred": tensor | prediction}},
    }


def inference_config(spec: MasamSpec) -> dict[str, Any]:
    """Return the content of ``configs/inference.json``: names of masam's own parts, and plain numbers.

    The plan is a file of its own, as MONAI would run what its texts may hold.
    """
    numbers = asdict(spec)
    # A name comes out of a model file, so it is a text that somebody else chose.
    if numbers["sam"]["name"] not in SIZES:
        numbers["sam"]["name"] = "custom"
    numbers["sam"]["global_blocks"] = list(spec.sam.global_blocks)
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        "precision": "auto",
        "stride": 1,
        "network_def": {"_target_": f"{_PARTS}.build_network", **numbers},
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
    rows = "\n".join(
        f"| {channel} | {label.value} | {label.name} |" for channel, label in enumerate(plan.scheme.labels)
    )
    grid = f"{plan.window}, {plan.image_size}, {plan.image_size}"
    return f"""# MA-SAM, {plan.name}

{NOT_A_DEVICE}

Segments {plan.modality} volumes. It needs masam beside MONAI, and the command below needs fire:
`pip install masam monai fire`.

```sh
python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
    --dataset_dir scans --output_dir masks
```

`scans` holds `.nii` or `.nii.gz` files. Each result is `masks/CASE.nii.gz` on its scan's own grid, the same file that
`masam predict` writes. `--device`, `--precision` and `--stride` are those of `masam predict`.

| channel | value in the label file | class |
|---|---|---|
{rows}

The network alone, FOLDER being this folder's name:

```python
import monai.bundle

network = monai.bundle.load("FOLDER", bundle_dir="..", workflow_type="inference")
```

It takes windows [B, {len(plan.channels)}, {grid}] in 0..1, prepared as `configs/plan.yaml` says, and returns logits
[B, {plan.scheme.num_classes + 1}, {grid}].
"""


def licence(terms: str | None) -> str:
    """Return the content of ``LICENSE``.

    Args:
        terms: Terms of the weights, as the model's card has them.
    """
    said = f"are under these terms: {terms}." if terms else "belong to those who trained them, who say here the terms."
    return f"""The weights in models/model.pt
    {said}
    The image encoder is derived from Meta's Segment Anything, Apache License 2.0
    (https://github.com/facebookresearch/segment-anything), if the model was trained from it.

The configuration, and the masam package that it names
    SPDX-License-Identifier: Apache-2.0
    https://www.apache.org/licenses/LICENSE-2.0
"""
