"""The largest model and micro-batch that can be trained in a given memory."""

from __future__ import annotations

import re

from masam.errors import ConfigError
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.preprocess.plan import Plan, Suggestion
from masam.progress import Progress, Silent
from masam.training.memory import least_memory, predict_memory

BATCH_WINDOWS = 24
"""Windows per optimiser step in the paper (paper.md 1.6), a multiple of the micro-batch."""

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_HOW = (
    "a training step in float32 with loss and backward pass, run on tensors without data; times 1.34 plus 350 MiB for "
    "the allocator and the process, as measured on a CPU (benchmarks/training_memory.py), not on a GPU"
)


def parse_memory(text: str) -> int:
    """Return the number of bytes of a size such as ``8GB`` or ``7.5 GiB``.

    Raises:
        ConfigError: The text is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b)\s*", text, re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ConfigError(f"expected a size such as 8GB or 24GiB, got {text!r}", where="--memory")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def suggest(plan: Plan, memory_bytes: int, progress: Progress | None = None) -> Suggestion:
    """Find the largest model that can be trained in a given memory, and its largest micro-batch.

    A size that fits only with checkpointing is preferred to a smaller one that fits without.

    Raises:
        ConfigError: The smallest model does not fit.
    """
    progress = progress or Silent()
    progress.start("predicting memory", len(SIZES))
    # SIZES is in descending order.
    for name, size in SIZES.items():
        spec = MasamSpec(size, plan.scheme.num_classes, plan.image_size, plan.window, image_channels=len(plan.channels))
        peak = least_memory(spec).peak_bytes
        if peak <= memory_bytes or name == list(SIZES)[-1]:
            # Checkpointing needs the least memory; if it does not fit, nothing does.
            peak = predict_memory(spec, 1, checkpointing=True).peak_bytes
        progress.advance(name)
        if peak > memory_bytes:
            continue
        plain_peak = predict_memory(spec, 1).peak_bytes
        checkpointing = plain_peak > memory_bytes
        windows, peak = 1, peak if checkpointing else plain_peak
        for more in (n for n in range(2, BATCH_WINDOWS + 1) if BATCH_WINDOWS % n == 0):
            larger_peak = predict_memory(spec, more, checkpointing=checkpointing).peak_bytes
            if larger_peak > memory_bytes:
                break
            windows, peak = more, larger_peak
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
        f"the smallest model, {name}, needs {peak / 1e9:.1f} GB at {plan.image_size} pixels, more than the "
        f"{memory_bytes / 1e9:.1f} GB given",
        where="--memory",
        fix="give more memory, or lower image_size in the plan",
    )
