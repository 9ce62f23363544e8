"""Making of labelled pictures by formula, by size and by look.

    python benchmarks/formula.py [--pictures 100] [--rounds 3]

Processor time of one thread, which busy neighbours hardly change. The unit of the ratios is the time of drawing as many
normal numbers as the picture has values.
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
    print(f"medians of {arguments.rounds} alternating rounds of {arguments.pictures} pictures")
    times: dict[tuple[int, str | None], list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(arguments.rounds):
        for row in rows:
            times[row].append((picture_ms(*row, arguments.pictures), draw_ms(row[0], arguments.pictures)))
    for (side, look), pairs in times.items():
        made, drawn = (statistics.median(one) for one in zip(*pairs, strict=True))
        print(
            f"  {side:4} {look or 'all looks':10} {made:6.1f} ms  {made / drawn:5.1f} times the drawing of its values"
        )


if __name__ == "__main__":
    main()
