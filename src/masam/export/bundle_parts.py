"""Components of a MONAI bundle, which MONAI instantiates by their dotted names in ``inference.json``.

Preprocessing, windows, aggregation and output files are those of ``masam predict``.
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
    """A model with the axis order of MONAI networks: channels before slices."""

    def __init__(self, masam: Masam) -> None:
        super().__init__()
        self.masam = masam

    def forward(self, image: Float[Tensor, "B C S H W"]) -> Float[Tensor, "B K S H W"]:
        """Return logits, channel 0 being the background, for windows in 0..1 of the model's image size."""
        windows = self.masam.as_input(image.transpose(1, 2))  # B S C H W
        logits: Tensor = self.masam(windows).logits
        return logits.transpose(1, 2)  # B K S H W


def build_network(sam: dict[str, Any], **hyperparameters: Any) -> BundleNetwork:
    """Build the network of a bundle in evaluation mode, without its weights.

    Args:
        sam: Fields of ``SamSize``.
        **hyperparameters: Other fields of ``MasamSpec``.
    """
    return BundleNetwork(Masam(MasamSpec.from_plain({"sam": sam, **hyperparameters}))).eval()


def build_predictor(
    network: BundleNetwork,
    weights: str,
    plan: str,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    stride: int = 1,
) -> Predictor:
    """Load the weights of a bundle and return a predictor.

    Args:
        network: Network from :func:`build_network`.
        weights: Path of ``models/model.pt`` in the bundle.
        plan: Path of ``configs/plan.yaml`` in the bundle.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        stride: Slices between the starts of consecutive windows.
    """
    load_strictly(network, read_tensors(Path(weights))[0], where=weights)
    return Predictor(network.masam, str(device), precision, stride, plan=Plan.from_yaml(Path(plan)))


def find_scans(folder: str) -> tuple[Case, ...]:
    """Return the scans of a folder, or a single scan; raise InputError if there is none."""
    return find_images(Path(folder))


class FolderSegmenter:
    """Segments scans like ``masam predict`` and writes ``CASE.nii.gz`` files to a folder."""

    def __init__(self, predictor: Predictor, scans: Sequence[Case], output_dir: str) -> None:
        self.predictor, self.scans, self.output_dir = predictor, scans, Path(output_dir)

    def run(self) -> Cohort:
        """Segment all scans; a rerun skips scans that are finished and unchanged.

        Raises MasamError if a scan failed; the others are written.
        """
        cohort = predict_cohort(self.predictor, self.scans, self.output_dir, Silent())
        cohort.raise_failures()
        return cohort
