"""Windows of consecutive slices, the input of the model (paper, section 3.1: five slices, stride one)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from masam.errors import ConfigError

Slice = TypeVar("Slice")


@dataclass(frozen=True)
class SliceWindow:
    """A window of a volume.

    Attributes:
        start: Index of the first slice; negative if the window extends beyond the first slice of the volume.
        size: Number of slices S.
        depth: Number of slices of the volume; None before the end of a stream, when windows have no overhang.
    """

    start: int
    size: int
    depth: int | None

    @property
    def slices(self) -> tuple[int, ...]:
        """Volume index of each of the S slices; end slices are repeated beyond the volume."""
        last = self.start + self.size - 1 if self.depth is None else self.depth - 1
        return tuple(min(max(i, 0), last) for i in range(self.start, self.start + self.size))

    @property
    def votes(self) -> range:
        """Positions in the window whose predictions count, which excludes repeated end slices (paper.md 1.8)."""
        stop = self.size if self.depth is None else min(self.size, self.depth - self.start)
        return range(max(0, -self.start), stop)

    def resized(self, size: int) -> SliceWindow:
        """Return a window of another size with the same centre."""
        return SliceWindow(self.start + _before(self.size) - _before(size), size, self.depth)


def plan_windows(depth: int, size: int = 5, stride: int = 1) -> list[SliceWindow]:
    """Return windows that cover every slice of a volume.

    The windows are centred on slices 0, stride, 2 * stride, ..., and on the last slice if the others do not cover it.
    With stride 1 each slice is the centre of one window, as in the reference.

    Args:
        depth: Slices of the volume, 1 or more.
        size: Slices of a window, 1 or more; the centre of an even number is the slice before the middle.
        stride: Distance of consecutive windows, 1 to ``size``.

    Raises:
        ConfigError: A number is out of range.
    """
    if depth < 1 or size < 1:
        raise ConfigError(f"expected a depth and a window of 1 slice or more, got {depth} and {size}")
    _check_stride(size, stride)
    return [SliceWindow(start, size, depth) for start in _starts(-_before(size), depth, size, stride)]


def stream_windows(
    slices: Iterable[Slice], size: int = 5, stride: int = 1
) -> Iterator[tuple[SliceWindow, tuple[Slice, ...]]]:
    """Yield the windows of :func:`plan_windows` for a stream of unknown length.

    A window is yielded as soon as its last slice is available. At most ``size`` slices are in memory.

    Args:
        slices: Slices or frames in order.
        size: Slices of a window.
        stride: Distance of consecutive windows.

    Yields:
        A window and its S slices, with end slices repeated. Its depth is None before the end of the stream.

    Raises:
        ConfigError: A number is out of range, or the stream is empty.
    """
    if size < 1:
        raise ConfigError(f"expected a window of 1 slice or more, got {size}")
    _check_stride(size, stride)
    held: deque[Slice] = deque(maxlen=size)
    start, depth = -_before(size), 0
    for item in slices:
        held.append(item)
        depth += 1
        if start + size == depth:
            yield _with_slices(SliceWindow(start, size, None), held, depth)
            start += stride
    if depth == 0:
        raise ConfigError("expected a stream of 1 slice or more, got none")
    # The remaining windows extend beyond the end of the stream.
    for last in _starts(start, depth, size, stride):
        yield _with_slices(SliceWindow(last, size, depth), held, depth)


def _with_slices(window: SliceWindow, held: deque[Slice], depth: int) -> tuple[SliceWindow, tuple[Slice, ...]]:
    first = depth - len(held)
    return window, tuple(held[index - first] for index in window.slices)


def _starts(first: int, depth: int, size: int, stride: int) -> list[int]:
    """Return the starts of a volume's windows from ``first`` on."""
    before = _before(size)
    starts = list(range(first, depth - before, stride))
    last_centre = (depth - 1) // stride * stride
    if last_centre - before + size < depth:
        starts.append(depth - 1 - before)
    return starts


def _before(size: int) -> int:
    """Return the number of slices before the centre of a window."""
    return (size - 1) // 2


def _check_stride(size: int, stride: int) -> None:
    if not 1 <= stride <= size:
        raise ConfigError(
            f"expected a stride from 1 to the window's {size} slices, got {stride}: slices would be skipped"
        )
