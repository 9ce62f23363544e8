"""Compare the validated loading of full-size weight files with ``torch.load``, each in a separate process.

Writes a SAM file with random weights and an adapted model based on it, then prints the time and the peak memory
excluding the libraries (median over the rounds). The files are in the page cache.

    python benchmarks/weights.py [--size vit_b] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import masam
from masam.model.sam import Sam
from masam.model.sizes import SIZES

TASKS = {
    "torch.load of the SAM file": "torch.load('sam.pth', weights_only=True)",
    "the same with the checks of masam": "read_tensors(Path('sam.pth'))",
    "masam info of the SAM file": "identify(Path('sam.pth'))",
    "masam.build_masam on it": "masam.build_masam('auto', num_classes=12, sam_checkpoint='sam.pth')",
    "masam.load of a model on it": "masam.load('model.safetensors', 'sam.pth')",
    "masam.load_reference": "masam.load_reference('sam.pth', 'epoch_1.pth')",
}
CHILD = """
import re, time
from pathlib import Path
import torch, masam
from masam.export.identify import identify
from masam.weights.tensors import read_tensors
masam.build_masam, masam.load_reference
# The peak of getrusage is inherited from the parent process.
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, started = peak(), time.perf_counter()
kept = {task}
print(time.perf_counter() - started, peak() - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="vit_b")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(Sam(SIZES[arguments.size], 1024).state_dict(), folder / "sam.pth")
        model = masam.build_masam("auto", num_classes=12, sam_checkpoint=folder / "sam.pth")
        masam.save(folder / "model.safetensors", model)
        masam.save_reference(folder / "epoch_1.pth", model)
        sizes = {file.name: f"{file.stat().st_size / 2**20:.0f} MiB" for file in sorted(folder.iterdir())}
        print(f"{arguments.size}, {torch.get_num_threads()} threads: {sizes}")
        for label, task in TASKS.items():
            rounds = [run(task, folder) for _ in range(arguments.rounds)]
            seconds, mib = (statistics.median(values) for values in zip(*rounds, strict=True))
            print(f"{label:32} {seconds:6.2f} s {mib:7.0f} MiB")


def run(task: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", CHILD.replace("{task}", task)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


main()
