"""Compare the loading and augmentation of training windows (5 x 512 x 512) with the method of the reference.

The reference's method is reimplemented below from docs/reference/paper.md, 1.7: one operation after another on float32
arrays [H, W, S], with SciPy for the rotation and 8-bit Pillow images, slice by slice, for the others. Its samples are
loaded by the worker processes of a DataLoader, with 64-bit labels; masam uses the same number of threads. Both read the
same cached random data and normalise each window to 0..1. Rounds alternate between the methods. The samples are not
read by the main process, which saves the reference the page faults on shared memory. A low-resolution label that the
reference computes but never uses is omitted.

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


def apply_in_pillow(images: np.ndarray, change) -> None:
    """Modify images [H, W, S] with values 0..1 in place, slice by slice, in 8 bits."""
    for n in range(images.shape[2]):
        picture = Image.fromarray((np.clip(images[:, :, n], 0, 1) * 255).astype(np.uint8))
        images[:, :, n] = np.asarray(change(picture)).astype(np.float32) / 255


def apply_affine(images: np.ndarray, labels: np.ndarray, matrix: list[float]) -> None:
    """Apply an affine map: linear interpolation for images, nearest neighbour for labels."""
    apply_in_pillow(images, lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    for n in range(labels.shape[2]):
        picture = Image.fromarray(labels[:, :, n].astype(np.uint8))
        moved = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)
        labels[:, :, n] = np.asarray(moved).astype(np.float32)


def apply_operation(number: int, images: np.ndarray, labels: np.ndarray, g: np.random.Generator) -> None:
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
        apply_affine(images, labels, matrices[number])
    elif number < 9:
        apply_in_pillow(images, changes[number - 5])


def augment_like_reference(
    images: np.ndarray, labels: np.ndarray, g: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Augment images and labels [H, W, S] of float32."""
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
        apply_operation(int(number), images, labels, g)
    return images, labels


class ReferenceSamples(WindowSamples):
    """The same windows, augmented with the method of the reference."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        epoch, position = divmod(index, self.per_epoch)
        case, window = self._windows[epoch_order(self.seed, epoch, self.per_epoch)[position]]
        images, labels = case.read_window(window.slices)
        images = np.ascontiguousarray(minmax_per_window(images)[:, 0].transpose(1, 2, 0))
        floats = np.ascontiguousarray(labels.transpose(1, 2, 0)).astype(np.float32)
        images, floats = augment_like_reference(images, floats, sample_generator(self.seed, index))
        images, floats = (torch.from_numpy(x).permute(2, 0, 1).contiguous() for x in (images, floats))
        return images, floats.long(), case.case_id


def processor_ms(samples: WindowSamples, windows: int) -> float:
    """Return the CPU time per sample in this process; it hardly depends on the load of the machine."""
    started = time.process_time()
    for index in range(windows):
        samples[index]
    return 1e3 * (time.process_time() - started) / windows


def load_with_processes(samples: WindowSamples, count: int, workers: int) -> Iterable:
    """Load with worker processes, as the reference does."""
    return DataLoader(samples, batch_size=1, sampler=range(count), num_workers=workers)


def load_with_threads(samples: WindowSamples, count: int, workers: int) -> Iterable:
    """Load with threads, as masam does."""
    return load_batches(samples, 0, count, 1, workers)


def loading_seconds(samples: WindowSamples, load: Callable[..., Iterable], windows: int, workers: int) -> float:
    """Return the time to load windows with a batch size of 1, excluding the start of the workers."""
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
    # As in a worker process; without workers, both methods then use one core.
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
            "reference": (reference, load_with_processes),
            **{f"masam, {preset}": (samples, load_with_threads) for preset, samples in ours.items()},
            # The same samples with the reference's loader show the effect of threads.
            "paper, processes": (ours["paper"], load_with_processes),
            "none, processes": (ours["none"], load_with_processes),
        }
        made: dict[str, list[float]] = {way: [] for way in ways if not way.endswith("processes")}
        loaded: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, (samples, load) in ways.items():
                if way in made:
                    made[way].append(processor_ms(samples, arguments.windows))
                seconds = loading_seconds(samples, load, arguments.windows, arguments.workers)
                loaded[way].append(1e3 * seconds / arguments.windows)
        print(f"median of {arguments.rounds} alternating rounds of {arguments.windows} windows, in ms per window")
        report("augmentation: CPU time in one process", made)
        report(f"loading: wall-clock time with {arguments.workers} workers", loaded)


def report(title: str, rounds: dict[str, list[float]]) -> None:
    print(title)
    slow = statistics.median(next(iter(rounds.values())))
    for way, times in rounds.items():
        median = statistics.median(times)
        every = " ".join(f"{t:.1f}" for t in times)
        print(f"  {way:16} {median:6.1f} ms  {slow / median:4.1f} x as fast  {1e3 / median:6.1f} per second  ({every})")


if __name__ == "__main__":
    main()
