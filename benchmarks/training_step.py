"""Measure a training step on the CPU with different settings for freed memory and denormal numbers.

``returned`` returns freed memory to the system, the default of the C library; ``kept`` keeps it; ``kept, flushed`` also
treats numbers below 1.2e-38 as zero, as ``masam train`` does (``masam.device.training_on``). The variants alternate,
each in a separate process. The logits are scaled to the range of a trained model, down to -150, because only confident
predictions produce denormal numbers. Prints the median time of a step, page faults, peak memory, and ratios.

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
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec
from masam.training.loss import segmentation_loss

SLICES, CLASSES = 5, 7
LOWEST = -150.0
"""Lowest logit; after 1500 steps of the demonstration it was -178."""
VARIANTS = {"returned": {"MALLOC_CHECK_": "0"}, "kept": {}, "kept, flushed": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="vit_t")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--windows", type=int, default=1, help="windows per step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.repeats):
        for name, setting in VARIANTS.items():
            command = [sys.executable, *sys.argv, "--inside", name]
            done = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    first = middle["returned"]["ms"]
    for name, values in middle.items():
        print(
            f"{name:14} {values['ms']:8.1f} ms per step, {values['ms'] / first:.2f} of the first, "
            f"{values['faults']:8.0f} page faults, peak {values['peak_mib']:6.0f} MiB"
        )


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    keep_freed_memory()
    torch.set_flush_denormal("flushed" in arguments.inside)
    spec = MasamSpec(
        sam=find_size(arguments.size), image_size=arguments.image_size, num_classes=CLASSES, adapter_channels=64
    )
    model = Masam(spec)
    side = arguments.image_size
    images = torch.rand(arguments.windows, SLICES, 3, side, side)
    labels = torch.randint(0, CLASSES + 1, (arguments.windows * SLICES, side, side))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    with torch.no_grad():
        stretch = LOWEST / float(model(images).logits.min())
    seconds, warm_up = [], max(1, arguments.steps // 5)
    for step in range(warm_up + arguments.steps):
        if step == warm_up:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        segmentation_loss(stretch * model(images).logits.flatten(0, 1), labels).total.backward()
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
