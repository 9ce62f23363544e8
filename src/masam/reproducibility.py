"""Random numbers as a function of where they are used, not of what ran before.

A sample is determined by (seed, index of the sample in the run), so workers, GPUs and interruptions change nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# One stream per purpose, so that a new use of random numbers does not change the others.
_ORDER, _SAMPLE, _STEP, _DEPTH, _PICTURE, _HELD_OUT, _PROMPTS, _HALF_SIZE = range(8)


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, index))))


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator for sample ``index`` of a run, counted over all epochs."""
    return _generator(seed, _SAMPLE, index)


def prompt_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator for the prompts of sample ``index`` of a run."""
    return _generator(seed, _PROMPTS, index)


# Every sample needs the order of its epoch, which is as long as the epoch. Batches may span two epochs.
@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return the order of the samples of an epoch, a permutation of 0 .. length - 1."""
    order = _generator(seed, _ORDER, epoch).permutation(length)
    order.setflags(write=False)
    return order


def step_seed(seed: int, step: int) -> int:
    """Return the seed of the random numbers inside the model (dropout) in a step."""
    return int(np.random.SeedSequence((seed, _STEP, step)).generate_state(1, np.uint64)[0] >> 1)


def window_depth(seed: int, step: int, smallest: int, largest: int) -> int:
    """Return the number of slices of the training windows of a step, drawn uniformly from smallest to largest."""
    return int(_generator(seed, _DEPTH, step).integers(smallest, largest, endpoint=True))


def is_half_size(seed: int, step: int, share: float) -> bool:
    """Return whether the pictures of a pre-training step have half the side, which is so for a share of all steps."""
    return bool(_generator(seed, _HALF_SIZE, step).random() < share)


def picture_generator(seed: int, index: int, *, held_out: bool = False) -> np.random.Generator:
    """Return the generator of a synthetic picture.

    Args:
        seed: Seed of the run.
        index: Number of the picture.
        held_out: Use the stream of validation pictures, which training does not use.
    """
    return _generator(seed, _HELD_OUT if held_out else _PICTURE, index)
