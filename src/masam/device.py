"""Device and number format of a model."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from masam.errors import ConfigError, ResourceError

Precision = Literal["auto", "float32", "bf16", "fp16"]

# Options of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str = "auto") -> torch.device:
    """Return an available device.

    Args:
        device: ``auto`` (a GPU if available), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ConfigError: The name is not a device.
        ResourceError: The device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", device):
        raise ConfigError(f"expected auto, cpu, cuda or cuda:N, got {device!r}", where="device")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"{device} is not available ({torch.cuda.device_count()} GPUs found)",
            where="device",
            fix="use --device cpu",
        )
    return chosen


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context of a forward pass; ``auto`` is bf16 on a GPU that supports it, else float32.

    On a CPU bf16 is never the default: without hardware support it is many times slower than float32.
    """
    precision = resolve_precision(device, precision)
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=_DTYPES[precision])


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """Return the precision that ``auto`` selects on a device; other precisions are returned unchanged."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@contextmanager
def training_on(device: torch.device) -> Iterator[None]:
    """Speed up training steps on a CPU inside a ``with`` block; on a GPU nothing changes.

    The process keeps freed memory, also afterwards, and flushes denormal numbers (below 1.2e-38) to zero. Gradients of
    confidently classified pixels contain many of them; they are negligible, but processors handle them many times more
    slowly. Only threads that torch starts inside the block are affected, so enter it before torch has started any; they
    keep the setting afterwards. ``benchmarks/training_step.py`` measures both effects.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    smallest = sys.float_info.min
    was_flushed = smallest / 2 == 0
    # Returns False if the processor does not support it; training is then only slower.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees.

    A step frees large tensors and allocates the same again. By default glibc returns them to the system, which clears
    every page again. Without glibc, or if environment variables configure malloc, nothing changes.
    """
    is_set = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not is_set:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
