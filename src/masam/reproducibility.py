"""Randomness as a function of where it is used, never of what ran before.

A sample is determined by (seed, index of the sample in the run). Workers, GPUs and resumes therefore change nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# One stream a purpose, so that a new use of randomness does not shift the others.
_ORDER, _SAMPLE, _STEP, _DEPTH, _PICTURE, _HELD_OUT, _PROMPTS, _HALF_SIZE = range(8)


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator for sample ``index`` of a run (counted over all epochs)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _SAMPLE, index))))


def prompt_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator for the prompts of sample ``index`` of a run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _PROMPTS, index))))


# Every sample of an epoch asks for its order: two epochs meet at a border, and a permutation is as long as the epoch.
@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return a permutation of 0 .. length - 1, the order of one epoch."""
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _ORDER, epoch)))).permutation(length)
    order.setflags(write=False)
    return order


def step_seed(seed: int, step: int) -> int:
    """Return the seed of what is drawn inside the model at an optimiser step (dropout)."""
    return int(np.random.SeedSequence((seed, _STEP, step)).generate_state(1, np.uint64)[0] >> 1)


def window_depth(seed: int, step: int, smallest: int, largest: int) -> int:
    """Return the slices of the training windows of an optimiser step, drawn evenly.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        smallest: Fewest slices.
        largest: Most slices.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _DEPTH, step))))
    return int(generator.integers(smallest, largest, endpoint=True))


def is_half_size(seed: int, step: int, share: float) -> bool:
    """Say whether the pictures of a step of pre-training have half the side.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        share: Of all steps, 0 to 1.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _HALF_SIZE, step))))
    return bool(generator.random() < share)


def picture_generator(seed: int, index: int, *, held_out: bool = False) -> np.random.Generator:
    """Return the generator of a made picture.

    Args:
        seed: Seed of the run.
        index: Number of the picture.
        held_out: Take the pictures of validation, none of which is among those of training.
    """
    stream = _HELD_OUT if held_out else _PICTURE
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, index))))
