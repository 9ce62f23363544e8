"""The largest model and micro-batch that a given memory trains, for a plan."""

from __future__ import annotations

import re

from masam.errors import ConfigError
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan, Suggestion
from masam.progress import Progress, Silent
from masam.training.memory import least_memory, predict_memory

BATCH_WINDOWS = 24
"""Windows of an optimiser step in the paper (paper.md 1.6); a micro-batch divides it."""

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_HOW = (
    "a training step with the loss and the backward pass, run on tensors without bytes, float32; times 1.34 plus "
    "350 MiB for the allocator and the process, as measured on a CPU (benchmarks/training_memory.py), not on a GPU"
)


def parse_memory(text: str) -> int:
    """Return the bytes that a text such as ``8GB`` or ``7.5 GiB`` means.

    Raises:
        ConfigError: It means none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)\s*", text, re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ConfigError(f"expected a size such as 8GB or 24GiB, got {text!r}", where="--memory")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def suggest(plan: Plan, memory_bytes: int, progress: Progress | None = None) -> Suggestion:
    """Find the largest size that trains in a memory, and the most windows that go through it at once.

    A size that fits only with checkpointing goes before a smaller one that fits without.

    Args:
        plan: How volumes are prepared: image size, window, classes and channels.
        memory_bytes: What there is.
        progress: Told of each trial.

    Raises:
        ConfigError: Not even the smallest model fits.
    """
    progress = progress or Silent()
    progress.start("predicting memory", len(SIZES))
    # The largest first; SIZES is in that order.
    for name, size in SIZES.items():
        spec = MasamSpec(size, plan.scheme.num_classes, plan.image_size, plan.window, image_channels=len(plan.channels))
        peak = least_memory(spec).peak_bytes
        if peak <= memory_bytes or name == list(SIZES)[-1]:
            # It takes less than without checkpointing, so where it does not fit nothing does.
            peak = predict_memory(spec, 1, checkpointing=True).peak_bytes
        progress.advance(name)
        if peak > memory_bytes:
            continue
        whole = predict_memory(spec, 1).peak_bytes
        checkpointing = whole > memory_bytes
        windows, peak = 1, peak if checkpointing else whole
        for more in (n for n in range(2, BATCH_WINDOWS + 1) if BATCH_WINDOWS % n == 0):
            larger = predict_memory(spec, more, checkpointing=checkpointing).peak_bytes
            if larger > memory_bytes:
                break
            windows, peak = more, larger
        return Suggestion(
            size=name,
            batch_windows=BATCH_WINDOWS,
            micro_batch_windows=windows,
            checkpointing=checkpointing,
            memory_gb=round(memory_bytes / 1e9, 2),
            predicted_peak_gb=round(peak / 1e9, 2),
            how=_HOW,
        )
    raise ConfigError(
        f"the smallest model, {name}, takes {peak / 1e9:.1f} GB at {plan.image_size} pixels, more than the "
        f"{memory_bytes / 1e9:.1f} GB given",
        where="--memory",
        fix="give more, or lower image_size in the plan",
    )
