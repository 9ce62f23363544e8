"""Where a model runs, and in which number format."""

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
    """Return a device that is there.

    Args:
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        ConfigError: The name is not a device.
        ResourceError: There is no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", device):
        raise ConfigError(f"expected auto, cpu, cuda or cuda:N, got {device!r}", where="device")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"there is no {device} here ({torch.cuda.device_count()} GPUs found)",
            where="device",
            fix="use --device cpu",
        )
    return chosen


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context of a forward pass; ``auto`` is bf16 on a GPU that has it, else float32.

    On a CPU bf16 is an option but never the default: without hardware for it, it is many times slower.
    """
    precision = resolve_precision(device, precision)
    return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype=_DTYPES[precision])


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """Return what ``auto`` means on a device; other precisions are what they are."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@contextmanager
def training_on(device: torch.device) -> Iterator[None]:
    """Make steps on a CPU fast while this lasts; enter it before torch's threads have begun. A GPU needs nothing.

    The process keeps freed memory, also afterwards, and takes numbers below 1.2e-38 for zero, which a processor handles
    many times slower than others. The gradient of pixels that a model is sure of is full of them, and they are nothing
    beside the rest. Threads that torch has begun before do not take part, and those it begins now stay so.
    ``benchmarks/training_step.py`` says what each is worth.
    """
    if device.type != "cpu":
        yield
        return
    keep_freed_memory()
    smallest = sys.float_info.min
    was_flushed = smallest / 2 == 0
    # Returns False where the processor cannot, which then is only slower.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees.

    A step frees large tensors and asks for the same again. By default glibc hands them back to the system each time,
    which then clears every page anew. Elsewhere than on glibc, and where the environment holds settings of malloc,
    nothing changes.
    """
    is_set = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not is_set:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
