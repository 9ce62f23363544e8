"""What a bundle's ``inference.json`` names: MONAI builds these by their dotted names, from plain values.

Preparation, windows, votes and files are those of ``masam predict``; a bundle has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masam.cases.folder import Case, find_images
from masam.device import Precision
from masam.model.masam import Masam
from masam.model.spec import MasamSpec
from masam.predict.batch import Cohort
from masam.predict.cohort import predict_cohort
from masam.predict.predictor import Predictor
from masam.preprocess.plan import Plan
from masam.progress import Silent
from masam.weights.state_dict import load_strictly
from masam.weights.tensors import read_tensors


class BundleNetwork(nn.Module):
    """A model with the axes that MONAI's networks have: channels before slices.

    Args:
        masam: The model.
    """

    def __init__(self, masam: Masam) -> None:
        super().__init__()
        self.masam = masam

    def forward(self, image: Float[Tensor, "B C S H W"]) -> Float[Tensor, "B K S H W"]:
        """Segment windows of slices.

        Args:
            image: [B, C, S, H, W] in 0..1, with the spec's image size and C image channels.

        Returns:
            Logits [B, K, S, H, W], channel 0 is the background.
        """
        windows = self.masam.as_input(image.transpose(1, 2))  # B S C H W
        logits: Tensor = self.masam(windows).logits
        return logits.transpose(1, 2)  # B K S H W


def build_network(sam: dict[str, Any], **numbers: Any) -> BundleNetwork:
    """Build the network of a bundle, its weights still to be loaded, in evaluation mode.

    Args:
        sam: The numbers of ``SamSize``.
        **numbers: The other numbers of ``MasamSpec``.

    Raises:
        ConfigError: A number is out of its range.
    """
    return BundleNetwork(Masam(MasamSpec.from_plain({"sam": sam, **numbers}))).eval()


def build_predictor(
    network: BundleNetwork,
    weights: str,
    plan: str,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    stride: int = 1,
) -> Predictor:
    """Put a bundle's weights into its network and make a predictor of it.

    Args:
        network: The network of ``build_network``.
        weights: The bundle's ``models/model.pt``.
        plan: The bundle's ``configs/plan.yaml``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        stride: Slices from one window to the next.

    Raises:
        InputError: A file cannot be opened.
        ModelError: The weights do not fit the network.
    """
    load_strictly(network, read_tensors(Path(weights))[0], where=weights)
    return Predictor(network.masam, str(device), precision, stride, plan=Plan.from_yaml(Path(plan)))


def find_scans(folder: str) -> tuple[Case, ...]:
    """Return the NIfTI files of a folder, or one file.

    Raises:
        InputError: There is none.
    """
    return find_images(Path(folder))


class FolderSegmenter:
    """Segments all scans, as ``masam predict`` does.

    Args:
        predictor: Model and settings.
        scans: What to segment.
        output_dir: Folder for the label files, CASE.nii.gz each.
    """

    def __init__(self, predictor: Predictor, scans: Sequence[Case], output_dir: str) -> None:
        self.predictor = predictor
        self.scans = scans
        self.output_dir = Path(output_dir)

    def run(self) -> Cohort:
        """Segment them; a rerun keeps what is finished and unchanged.

        Raises:
            MasamError: A scan failed; the others are written.
        """
        cohort = predict_cohort(self.predictor, self.scans, self.output_dir, Silent())
        cohort.raise_failures()
        return cohort
