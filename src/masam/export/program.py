"""The exported network, which has no prompts, its description, and ``.pt2`` files, which PyTorch runs without masam."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from masam import __version__, atomic
from masam.axes import WindowLogits, Windows
from masam.export.agreement import Exported, random_windows, require_agreement
from masam.model.masam import Masam, merged
from masam.model.spec import MasamSpec
from masam.weights.pytorch_file import write_archive

FORMAT_VERSION = 1
"""Version of the description, incremented when the meaning of the input, an output or a key changes."""

DESCRIPTION_KEY = "masam"
"""Name of the description in the metadata of an ONNX file."""

DESCRIPTION_FILE = "masam.json"
"""Name of the description in a ``.pt2`` file."""

INPUT, OUTPUTS = "windows", ("logits", "iou")


class Automatic(nn.Module):
    """A model without prompts that maps windows to a plain tuple."""

    def __init__(self, model: Masam) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Windows) -> tuple[WindowLogits, Float[Tensor, "B S K"]]:
        """Return logits [B, S, K, H, W] and predicted IoU [B, S, K] for windows [B, S, 3, H, W]."""
        logits, iou = self.model(windows)
        return logits, iou


def automatic(model: Masam) -> Automatic:
    """Return the network to export: a copy on the CPU in float32, with the increments merged."""
    return Automatic(merged(model).cpu().float()).eval()


def describe(model: Masam) -> str:
    """Return the JSON description that is stored in an export.

    It contains its format version, the axes of input and outputs, all hyperparameters of the architecture, the classes
    by channel, and the plan, which is required to preprocess a volume. Plan and classes are null if the model has no
    plan.
    """
    plan = model.card.plan if model.card else None
    side, channels, inputs = model.spec.image_size, model.spec.num_channels, model.spec.input_channels
    content = ""
    if model.spec.image_channels == 1:
        is_video = plan is not None and plan.modality == "video"
        content = ", red, green and blue" if is_video else ", grey in three equal channels"
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "masam_version": __version__,
        "input": {INPUT: f"float32 [B, S, {inputs}, {side}, {side}]{content}, preprocessed according to the plan"},
        "outputs": {
            OUTPUTS[0]: f"float32 [B, S, {channels}, {side}, {side}], softmax over the third axis",
            OUTPUTS[1]: f"float32 [B, S, {channels}], not trained by MA-SAM",
        },
        "slices": slices(model),
        "spec": asdict(model.spec),
        "classes": None if plan is None else [label.name for label in plan.scheme.labels],
        "plan": None if plan is None else plan.model_dump(mode="json"),
    }
    return json.dumps(description)


def least_slices(spec: MasamSpec) -> int:
    """Return the smallest window for which an export accepts different numbers of slices.

    In a smaller window, the depth convolution of the 3D adapters is partly out of range, which changes the program.
    """
    return max(3, 2 * spec.depth_reach + 1)


def slices(model: Masam) -> str:
    """Describe the numbers of slices S that an export accepts."""
    window, least = model.spec.window, least_slices(model.spec)
    return f"{window}" if window < least else f"{least} or more; trained with {window}"


@torch.no_grad()
def trace(model: Masam) -> ExportedProgram:
    """Trace the model without prompts.

    The program accepts any number of windows B, and any number of slices S from ``least_slices``. If the window of the
    model is smaller, it accepts only that number of slices.
    """
    dynamic: dict[int, Dim] = {0: Dim("B")}
    if model.spec.window >= (least := least_slices(model.spec)):
        dynamic[1] = Dim("S", min=least)
    # A batch of one would be traced as a constant.
    return torch.export.export(
        automatic(model), (random_windows(model, 2),), dynamic_shapes={INPUT: dynamic}, strict=False
    )


def write_program(model: Masam, path: Path) -> Exported:
    """Write a model as a ``.pt2`` file and compare its outputs with the model."""
    program = trace(model)

    def write(file: Path) -> Exported:
        description = {DESCRIPTION_FILE: describe(model)}
        write_archive(file, lambda archive: torch.export.save(program, archive, extra_files=description))
        loaded = torch.export.load(file).module()
        difference = require_agreement(model, loaded, where=path)
        return Exported(path, file.stat().st_size, difference)

    return atomic.write_aside(path, write)
