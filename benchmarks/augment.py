"""Loading of training windows of 5 x 512 x 512: the paper preset against the reference's way of doing the same.

The reference's way is written out below as docs/reference/paper.md, 1.7, describes it: one operation after another, a
rotation by SciPy, the others slice by slice through 8-bit Pillow images, on arrays [H, W, S] of float32; its labels go
through torch's DataLoader, with its worker processes, in 64 bits. masam has as many threads instead. Both read the same
cache of random numbers and stretch each window to 0..1; rounds alternate. Nobody reads what comes, which spares the
reference the mapping of what its processes send. What it does besides (a label at low resolution that it never uses) is
left out.

    python benchmarks/augment.py [--windows 60] [--rounds 5] [--workers 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage
from torch.utils.data import DataLoader

from masam.augment import AugmentSettings
from masam.preprocess.cache import PreparedCase
from masam.preprocess.intensity import minmax_per_window
from masam.reproducibility import epoch_order, sample_generator
from masam.training.dataset import WindowSamples, load_batches

SIDE, WINDOW = 512, 5


def make_case(folder: Path, depth: int) -> PreparedCase:
    """Write a cached case of smooth random blobs."""
    generator = np.random.default_rng(depth)
    folder.mkdir()
    coarse = generator.random((depth, 17, 17), np.float32)
    images = ndimage.zoom(coarse, (1, SIDE / 17, SIDE / 17), order=1)
    np.save(folder / "images.npy", np.rint(images * 65535).astype(np.uint16)[:, None])
    np.save(folder / "labels.npy", (images * 12.99).astype(np.int8))
    return PreparedCase(folder.name, folder, depth, SIDE)


def through_pillow(images: np.ndarray, change) -> None:
    """Change [H, W, S] of 0..1 in place, slice by slice, in 8 bits."""
    for n in range(images.shape[2]):
        picture = Image.fromarray((np.clip(images[:, :, n], 0, 1) * 255).astype(np.uint8))
        images[:, :, n] = np.asarray(change(picture)).astype(np.float32) / 255


def by_matrix(images: np.ndarray, labels: np.ndarray, matrix: list[float]) -> None:
    """Apply an affine map, images linear and labels nearest."""
    through_pillow(images, lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    for n in range(labels.shape[2]):
        picture = Image.fromarray(labels[:, :, n].astype(np.uint8))
        moved = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
        labels[:, :, n] = np.asarray(moved).astype(np.float32)


def one_of_ten(number: int, images: np.ndarray, labels: np.ndarray, g: np.random.Generator) -> None:
    height, width, _ = images.shape
    shear, scale, shift = g.uniform(-0.3, 0.3), g.uniform(0.8, 1.2), g.uniform(-0.2, 0.2)
    factor, sharpness, bits = g.uniform(0.7, 1.3), g.uniform(0.1, 1.9), int(g.integers(4, 9))
    matrices = [
        [1, shear, -shear * width / 2, 0, 1, 0],
        [1, 0, 0, shear, 1, -shear * height / 2],
        [scale, 0, 0, 0, scale, 0],
        [1, 0, shift * width, 0, 1, 0],
        [1, 0, 0, 0, 1, shift * height],
    ]
    changes = [
        lambda p: ImageOps.posterize(p, bits),
        lambda p: ImageEnhance.Contrast(p).enhance(factor),
        lambda p: ImageEnhance.Brightness(p).enhance(factor),
        lambda p: ImageEnhance.Sharpness(p).enhance(sharpness),
    ]
    if number < 5:
        by_matrix(images, labels, matrices[number])
    elif number < 9:
        through_pillow(images, changes[number - 5])


def reference_way(images: np.ndarray, labels: np.ndarray, g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vary images and labels [H, W, S] of float32."""
    if g.random() < 0.5:
        turns, axis = g.integers(4), g.integers(2)
        images, labels = (np.flip(np.rot90(x, turns), axis).copy() for x in (images, labels))
    if g.random() < 0.5:
        angle = g.integers(-15, 15)
        images, labels = (ndimage.rotate(x, angle, order=0, reshape=False) for x in (images, labels))
    if g.random() < 0.5:
        table = (255 * (np.arange(256) / 255) ** (1 / g.uniform(0.5, 3.5))).astype(np.uint8)
        for n in range(images.shape[2]):
            images[:, :, n] = table[(images[:, :, n] * 255).astype(np.uint8)] / np.float32(255)
    if g.random() < 0.5:
        area, aspect = g.uniform(0.02, 0.05) * SIDE * SIDE, g.uniform(0.3, 3.3)
        rows, columns = int(np.sqrt(area / aspect)), int(np.sqrt(area * aspect))
        top, left = g.integers(SIDE - rows), g.integers(SIDE - columns)
        box = np.s_[top : top + rows, left : left + columns]
        images[box] = g.random((rows, columns, 1))
        labels[box] = 0
    for number in g.choice(10, 2, replace=False):
        one_of_ten(int(number), images, labels, g)
    return images, labels


class ReferenceSamples(WindowSamples):
    """The same windows, varied in the reference's way."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        epoch, position = divmod(index, self.per_epoch)
        case, window = self._windows[epoch_order(self.seed, epoch, self.per_epoch)[position]]
        images, labels = case.read_window(window.slices)
        images = np.ascontiguousarray(minmax_per_window(images)[:, 0].transpose(1, 2, 0))
        floats = np.ascontiguousarray(labels.transpose(1, 2, 0)).astype(np.float32)
        images, floats = reference_way(images, floats, sample_generator(self.seed, index))
        images, floats = (torch.from_numpy(x).permute(2, 0, 1).contiguous() for x in (images, floats))
        return images, floats.long(), case.case_id


def processor_ms(samples: WindowSamples, windows: int) -> float:
    """Return the processor time of making one sample in this process, which busy neighbours hardly change."""
    started = time.process_time()
    for index in range(windows):
        samples[index]
    return 1e3 * (time.process_time() - started) / windows


def by_processes(samples: WindowSamples, count: int, workers: int) -> Iterable:
    """Load as the reference does."""
    return DataLoader(samples, batch_size=1, sampler=range(count), num_workers=workers)


def by_threads(samples: WindowSamples, count: int, workers: int) -> Iterable:
    """Load as masam does."""
    return load_batches(samples, 0, count, 1, workers)


def seconds_of(samples: WindowSamples, load: Callable[..., Iterable], windows: int, workers: int) -> float:
    """Load windows, one a batch; the workers' start is not counted."""
    batches = iter(load(samples, windows + 2 * workers, workers))
    for _ in range(2 * workers):
        next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    # As in a worker process; without workers both ways then have one core.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        cases = {depth: make_case(Path(name) / f"slices{depth}", depth) for depth in (20, 200)}
        for depth, case in cases.items():
            times = []
            for start in range(0, depth - WINDOW, max(1, depth // 20)):
                started = time.perf_counter()
                case.read_window(range(start, start + WINDOW))
                times.append(time.perf_counter() - started)
            print(
                f"reading a window of {WINDOW} x {SIDE}^2 from {depth} slices: {1e3 * statistics.median(times):.1f} ms"
            )
        reference = ReferenceSamples([cases[200]], WINDOW, 1, True, AugmentSettings(preset="none"))
        ours = {
            preset: WindowSamples([cases[200]], WINDOW, 1, True, AugmentSettings(preset=preset))
            for preset in ("paper", "default", "none")
        }
        ways = {
            "reference's way": (reference, by_processes),
            **{f"masam, {preset}": (samples, by_threads) for preset, samples in ours.items()},
            # The same samples through the reference's loader show what threads spare.
            "paper, sent": (ours["paper"], by_processes),
            "none, sent": (ours["none"], by_processes),
        }
        made: dict[str, list[float]] = {way: [] for way in ways if not way.endswith("sent")}
        loaded: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, (samples, load) in ways.items():
                if way in made:
                    made[way].append(processor_ms(samples, arguments.windows))
                seconds = seconds_of(samples, load, arguments.windows, arguments.workers)
                loaded[way].append(1e3 * seconds / arguments.windows)
        print(f"medians of {arguments.rounds} alternating rounds of {arguments.windows} windows, in ms a window")
        report("made, processor time, one process", made)
        report(f"loaded, wall clock, {arguments.workers} workers", loaded)


def report(title: str, rounds: dict[str, list[float]]) -> None:
    print(title)
    slow = statistics.median(next(iter(rounds.values())))
    for way, times in rounds.items():
        median = statistics.median(times)
        every = " ".join(f"{t:.1f}" for t in times)
        print(
            f"  {way:16} {median:6.1f} ms  {slow / median:4.1f} times as fast  {1e3 / median:6.1f} a second  ({every})"
        )


if __name__ == "__main__":
    main()
