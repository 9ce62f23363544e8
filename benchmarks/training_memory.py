"""Compare predicted and measured peak memory of training steps on the CPU, each in a separate process.

python benchmarks/training_memory.py [--large]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.training.memory import predict_memory

# Size, pixels, windows per micro-batch, checkpointing.
SETTINGS = [
    ("vit_t", 128, 1, False),
    ("vit_t", 256, 1, False),
    ("vit_t", 256, 4, False),
    ("vit_t", 256, 4, True),
    ("vit_t", 256, 8, False),
    ("vit_b", 256, 1, False),
    ("vit_b", 256, 2, False),
]
LARGE = [("vit_b", 256, 2, True), ("vit_b", 512, 1, False), ("vit_b", 512, 1, True), ("vit_l", 256, 1, False)]
CHILD = """
import re, sys, time, torch
from pathlib import Path
from masam.model.masam import Masam
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.training.loss import segmentation_loss
name, side, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Masam(MasamSpec(SIZES[name], 12, side)).train()
model.image_encoder.checkpointing = sys.argv[4] == "True"
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
for _ in range(2):
    started = time.monotonic()
    logits = model(torch.rand(batch, 5, 3, side, side)).logits
    labels = torch.randint(0, 13, (batch * 5, side, side))
    segmentation_loss(logits.flatten(0, 1), labels).total.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
seconds = time.monotonic() - started
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024, seconds)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also run settings that need up to 9 GB")
    settings = SETTINGS + (LARGE if parser.parse_args().large else [])
    measured: dict[tuple[str, int, int, bool], tuple[float, float]] = {}
    for setting in settings:
        name, side, batch, checkpointing = setting
        spec = MasamSpec(SIZES[name], 12, side)
        predicted = predict_memory(spec, batch, checkpointing=checkpointing).peak_bytes / 2**20
        command = [sys.executable, "-c", CHILD, *map(str, setting)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        memory, seconds = measured[setting] = float(printed[0]), float(printed[1])
        how = " checkpointing" if checkpointing else ""
        error = 100 * (predicted / memory - 1)
        line = (
            f"{name} {side} px x {batch}{how}: measured {memory:6.0f} MiB, predicted {predicted:6.0f} ({error:+.0f} %)"
        )
        if without := measured.get((name, side, batch, False)) if checkpointing else None:
            memory_ratio, time_ratio = memory / without[0], seconds / without[1]
            line += f"; relative to no checkpointing: memory {memory_ratio:.2f}, time {time_ratio:.2f}"
        print(line, flush=True)


main()
