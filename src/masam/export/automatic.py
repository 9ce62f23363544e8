"""What is exported: the model without prompts, as a network of tensors alone, and what a reader must know of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from masam import __version__
from masam.axes import WindowLogits, Windows
from masam.model.masam import Masam
from masam.model.merge import merged
from masam.model.spec import MasamSpec

FORMAT_VERSION = 1
"""Version of the description; it goes up when the meaning of input, outputs or a key changes."""

DESCRIPTION_KEY = "masam"
"""Name of the description in an ONNX file's metadata."""

DESCRIPTION_FILE = "masam.json"
"""Name of the description inside a ``.pt2``."""

INPUT, OUTPUTS = "windows", ("logits", "iou")


class Automatic(nn.Module):
    """A model that takes windows and nothing else, and returns a plain pair.

    Args:
        model: The model.
    """

    def __init__(self, model: Masam) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Windows) -> tuple[WindowLogits, Float[Tensor, "B S K"]]:
        """Segment windows [B, S, 3, H, W]; returns logits [B, S, K, H, W] and predicted IoU [B, S, K]."""
        logits, iou = self.model(windows)
        return logits, iou


def automatic(model: Masam) -> Automatic:
    """Return what is exported of a model: a copy on the CPU, in float32, with the increments merged."""
    return Automatic(merged(model).cpu().float()).eval()


def describe(model: Masam) -> str:
    """Return the JSON that goes into an export.

    It holds the version of its own form, input and outputs with their axes, every number of the architecture, the
    classes by channel, and the plan, without which no volume can be prepared; plan and classes are null if the model
    carries no plan.
    """
    plan = model.card.plan if model.card else None
    side, channels, inputs = model.spec.image_size, model.spec.num_channels, model.spec.input_channels
    seen = ""
    if model.spec.image_channels == 1:
        is_video = plan is not None and plan.modality == "video"
        seen = ", red, green and blue" if is_video else ", grey in three equal channels"
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "masam_version": __version__,
        "input": {INPUT: f"float32 [B, S, {inputs}, {side}, {side}]{seen}, prepared as the plan says"},
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
    """Return the fewest slices for which an export takes any number S.

    With fewer slices than the 3D adapters' convolution spans some of its taps see none, and the program is another.
    """
    return max(3, 2 * spec.depth_reach + 1)


def slices(model: Masam) -> str:
    """Say which numbers of slices S an export takes."""
    window, least = model.spec.window, least_slices(model.spec)
    return f"{window}" if window < least else f"{least} or more; trained with {window}"
