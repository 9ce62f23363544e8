"""Predicted against measured peak memory of training steps on the CPU, each in a fresh process.

python benchmarks/training_memory.py [--large]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from masam.model.sizes import SIZES, MasamSpec
from masam.train.memory import predict_memory

SETTINGS = [
    ("vit_t", 128, 1),
    ("vit_t", 256, 1),
    ("vit_t", 256, 4),
    ("vit_t", 256, 8),
    ("vit_b", 256, 1),
    ("vit_b", 256, 2),
]
LARGE = [("vit_b", 512, 1), ("vit_l", 256, 1)]
CHILD = """
import re, sys, torch
from pathlib import Path
from masam.model.masam import Masam
from masam.model.sizes import SIZES, MasamSpec
from masam.train.loss import segmentation_loss
name, side, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Masam(MasamSpec(SIZES[name], 12, side)).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
for _ in range(2):
    logits = model(torch.rand(batch, 5, 3, side, side)).logits
    labels = torch.randint(0, 13, (batch * 5, side, side))
    segmentation_loss(logits.flatten(0, 1), labels).total.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also settings of up to 9 GB")
    settings = SETTINGS + (LARGE if parser.parse_args().large else [])
    for name, side, batch in settings:
        predicted = predict_memory(MasamSpec(SIZES[name], 12, side), batch).peak_bytes / 2**20
        command = [sys.executable, "-c", CHILD, name, str(side), str(batch)]
        measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        error = 100 * (predicted / measured - 1)
        print(f"{name} {side} px x {batch}: measured {measured:6.0f} MiB, predicted {predicted:6.0f} ({error:+.0f} %)")


main()
