"""Measure the peak memory of a prediction for several numbers of slices, each in a separate process.

Apart from the scan (float32) and its labels, memory must not grow with the depth. The last column is the size of the
class probabilities of all slices in float32, which the reference keeps in memory.

    python benchmarks/prediction_memory.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import torch

from masam import Geometry, Predictor, Volume
from masam.model.masam import Masam
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan

SIDE, CLASSES, DEPTHS = 256, 12, (20, 80, 320)
MIB = 2**20


def predict(depth: int) -> None:
    """Predict a synthetic scan and print the peak memory above that before the prediction, in MiB."""
    torch.manual_seed(0)
    labels = {"background": 0, **{f"organ {n}": n for n in range(1, CLASSES + 1)}}
    plan = Plan(
        name="synthetic",
        modality="CT",
        slice_axis="axial",
        intensity=Window(low=0, high=1),
        window=5,
        image_size=SIDE,
        labels=labels,
    )
    model = Masam(MasamSpec(find_size("vit_t"), CLASSES, SIDE, adapter_channels=64))
    predictor = Predictor(model, device="cpu", stride=5, plan=plan)
    scan = Volume(np.random.default_rng(0).random((SIDE, SIDE, depth), dtype=np.float32), Geometry(np.eye(4)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    predictor.predict(scan)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)


def main() -> None:
    """Print one row per depth."""
    print(f"{SIDE} x {SIDE} pixels, {CLASSES} classes; MiB excluding model, libraries and scan")
    print("slices  peak        labels  all probabilities")
    for depth in DEPTHS:
        done = subprocess.run([sys.executable, __file__, str(depth)], capture_output=True, text=True, check=True)
        voxels = SIDE * SIDE * depth
        # Channel indices in 16 bits, label values in 8 bits.
        print(
            f"{depth:6d}  {float(done.stdout):4.0f}  {3 * voxels / MIB:12.0f}  {4 * (CLASSES + 1) * voxels / MIB:17.0f}"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        predict(int(sys.argv[1]))
    else:
        main()
