"""Measure the evaluation time of a case with 512 x 512 x 150 voxels and 13 organs.

One distance transform of the same volume is timed for comparison.

python benchmarks/evaluate.py [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from masam.evaluation import evaluate
from masam.volume import Geometry, Volume

SHAPE, SPACING_MM, ORGANS = (512, 512, 150), (0.78, 0.78, 3.0), 13


def organs(seed: int, shift: float) -> np.ndarray:
    """Return ellipsoids with the sizes of organs (liver to adrenal gland), shifted by ``shift`` voxels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for value, radius in enumerate(np.geomspace(95, 6, ORGANS), start=1):
        radii = radius / np.array(SPACING_MM) * rng.uniform(0.7, 1.1, 3)
        centre = np.array(SHAPE) * rng.uniform(0.25, 0.75, 3) + shift
        low = np.maximum(0, np.floor(centre - radii)).astype(int)
        high = np.minimum(SHAPE, np.ceil(centre + radii) + 1).astype(int)
        axes = [(np.arange(a, b) - c) / r for a, b, c, r in zip(low, high, centre, radii, strict=True)]
        inside = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][inside] = value
    return labels


def main() -> None:
    """Run the benchmark, print the result and optionally write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    geometry = Geometry(np.diag([*SPACING_MM, 1.0]))
    reference, prediction = (Volume(organs(0, shift), geometry) for shift in (0.0, 1.5))
    labels = {"background": 0, **{f"organ {n}": n for n in range(1, ORGANS + 1)}}
    start = time.perf_counter()
    evaluation = evaluate({"case": prediction}, {"case": reference}, labels)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    ndimage.distance_transform_edt(reference.array != 1, sampling=SPACING_MM)
    transform_seconds = time.perf_counter() - start
    numbers = {
        "evaluate_seconds": round(seconds, 2),
        "one_distance_transform_of_the_image_seconds": round(transform_seconds, 2),
        "mean_dice": evaluation.mean_dice,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    print(evaluation.table())
    print(json.dumps(numbers, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
