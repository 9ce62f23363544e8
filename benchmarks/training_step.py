"""A training step on the CPU with memory that the process keeps, against one with memory that it hands back each time.

Both run in processes of their own, in turn, so that neither finds the other's memory. The first is what ``masam train``
does; the second is the C library's default, which ``keep_freed_memory`` leaves alone where the environment holds
settings of malloc. It prints the median milliseconds of a step, its page faults, the peak of memory, and the ratio.

    python benchmarks/training_step.py [--size vit_t] [--image-size 128] [--windows 1] [--steps 30] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch

from masam.device import keep_freed_memory
from masam.model.masam import Masam
from masam.model.sizes import MasamSpec, find_size
from masam.train.loss import segmentation_loss

SLICES, CLASSES = 5, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="vit_t")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--windows", type=int, default=1, help="windows a step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {"handed back": [], "kept": []}
    for _ in range(arguments.repeats):
        for name, setting in (("handed back", {"MALLOC_CHECK_": "0"}), ("kept", {})):
            command = [sys.executable, *sys.argv, "--inside"]
            done = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    for name, values in middle.items():
        print(
            f"memory {name:12} {values['ms']:8.1f} ms a step, {values['faults']:8.0f} page faults, "
            f"peak {values['peak_mib']:6.0f} MiB"
        )
    print(f"a step takes {middle['kept']['ms'] / middle['handed back']['ms']:.2f} of the time")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    keep_freed_memory()
    spec = MasamSpec(
        sam=find_size(arguments.size), image_size=arguments.image_size, num_classes=CLASSES, adapter_channels=64
    )
    model = Masam(spec)
    side = arguments.image_size
    images = torch.rand(arguments.windows, SLICES, 3, side, side)
    labels = torch.randint(0, CLASSES + 1, (arguments.windows * SLICES, side, side))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    seconds, warm_up = [], max(1, arguments.steps // 5)
    for step in range(warm_up + arguments.steps):
        if step == warm_up:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        segmentation_loss(model(images).logits.flatten(0, 1), labels).total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": statistics.median(seconds[warm_up:]) * 1e3,
        "faults": (usage.ru_minflt - faults) / arguments.steps,
        "peak_mib": usage.ru_maxrss / 1024,
    }


main()
