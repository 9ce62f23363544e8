"""Measure the generation of labelled pictures for pre-training, by size and appearance.

    python benchmarks/pictures.py [--pictures 100] [--rounds 3]

Times are CPU times of one thread, which hardly depend on the load of the machine. Ratios are relative to the time of
drawing one normal random number per value of the picture.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from masam.reproducibility import picture_generator
from masam.synthetic.pictures.looks import LOOKS
from masam.synthetic.pictures.picture import make_picture


def picture_ms(side: int, look: str | None, pictures: int) -> float:
    started = time.process_time()
    for index in range(pictures):
        make_picture(picture_generator(1, index), side, look)
    return 1e3 * (time.process_time() - started) / pictures


def draw_ms(side: int, pictures: int) -> float:
    started = time.process_time()
    for index in range(pictures):
        picture_generator(1, index).standard_normal((3, side, side), np.float32)
    return 1e3 * (time.process_time() - started) / pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [(side, None) for side in (128, 256, 512)] + [(256, look) for look in LOOKS]
    print(f"median of {arguments.rounds} alternating rounds of {arguments.pictures} pictures")
    times: dict[tuple[int, str | None], list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(arguments.rounds):
        for row in rows:
            times[row].append((picture_ms(*row, arguments.pictures), draw_ms(row[0], arguments.pictures)))
    for (side, look), pairs in times.items():
        made, drawn = (statistics.median(one) for one in zip(*pairs, strict=True))
        print(f"  {side:4} {look or 'all':10} {made:6.1f} ms  {made / drawn:5.1f} x the time of random numbers")


if __name__ == "__main__":
    main()
