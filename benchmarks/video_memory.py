"""Measure the peak memory of the prediction of a video for several numbers of frames, each in a separate process.

Frames are generated on demand, and labels and overlay are discarded after writing, so only the prediction is measured.
The last column is the size of the video with its class probabilities. The peak is VmHWM of /proc/self/status, because
the value of getrusage is inherited from the parent process.

    python benchmarks/video_memory.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from masam import Predictor
from masam.io.video.frames import Frame, FrameSource
from masam.io.video.overlay import overlay_video
from masam.model.masam import Masam
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec
from masam.predict.video import predict_video
from masam.preprocess.intensity import Rgb
from masam.preprocess.plan import Plan

ROWS, COLUMNS, SIDE, CLASSES, LENGTHS = 512, 640, 128, 11, (50, 200, 800)
MIB = 2**20


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def synthetic_video(count: int) -> FrameSource:
    scene = np.random.default_rng(0).integers(0, 256, (ROWS // 16, COLUMNS // 16, 3), dtype=np.uint8)
    scene = scene.repeat(16, 0).repeat(16, 1)

    def read() -> Iterator[Frame]:
        for index in range(count):
            yield Frame(index, f"frame{index:06d}", np.roll(scene, index, axis=1))

    return FrameSource(Path("synthetic.mp4"), (ROWS, COLUMNS), count, Fraction(25), True, (), read)


def predict(count: int) -> None:
    """Predict a synthetic video; print the peak memory, its increase by the prediction (both in MiB), and seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    labels = {"background": 0, **{f"class {n}": n for n in range(1, CLASSES + 1)}}
    plan = Plan(
        name="synthetic",
        modality="video",
        channels=("R", "G", "B"),
        slice_axis="stored",
        intensity=Rgb(),
        window_minmax=True,
        image_size=SIDE,
        labels=labels,
    )
    model = Masam(MasamSpec(find_size("vit_t"), CLASSES, SIDE, adapter_channels=64, image_channels=3))
    predictor = Predictor(model, device="cpu", stride=5, plan=plan)
    source, before, begun = synthetic_video(count), peak_mib(), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        overlay_video(Path(folder) / "overlay.mp4", source, plan.scheme) as write,
    ):
        predict_video(predictor, source, write)
    print(peak_mib(), peak_mib() - before, time.monotonic() - begun)


def main() -> None:
    """Print one row per length."""
    print(f"{COLUMNS} x {ROWS} pixels, {CLASSES} classes, windows of 5 at {SIDE} pixels, stride 5; MiB")
    print("frames  peak  above model  frame/s  all frames and probabilities")
    for count in LENGTHS:
        done = subprocess.run([sys.executable, __file__, str(count)], capture_output=True, text=True, check=True)
        peak, above, seconds = map(float, done.stdout.split())
        everything = ROWS * COLUMNS * count * (3 + 4 * (CLASSES + 1)) / MIB
        print(f"{count:6d}  {peak:4.0f}  {above:11.0f}  {count / seconds:7.1f}  {everything:28.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        predict(int(sys.argv[1]))
    else:
        main()
