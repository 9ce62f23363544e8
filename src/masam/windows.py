"""Windows of consecutive slices: the model's input (paper, section 3.1: five slices, stride one)."""

from __future__ import annotations

from dataclasses import dataclass

from masam.errors import ConfigError


@dataclass(frozen=True)
class SliceWindow:
    """One window over a volume.

    Attributes:
        start: Index of the first slice; negative where the window overhangs the volume's beginning.
        size: Number of slices S.
        depth: Number of slices of the volume.
    """

    start: int
    size: int
    depth: int

    @property
    def slices(self) -> tuple[int, ...]:
        """Volume index of each of the S slices; beyond an end of the volume the end slice is repeated."""
        return tuple(min(max(i, 0), self.depth - 1) for i in range(self.start, self.start + self.size))

    @property
    def votes(self) -> range:
        """Positions in the window whose prediction counts: those that are not repeated end slices (paper.md 1.8)."""
        return range(max(0, -self.start), min(self.size, self.depth - self.start))


def plan_windows(depth: int, size: int = 5, stride: int = 1) -> list[SliceWindow]:
    """Cover a volume with windows, so that each slice gets at least one vote.

    The windows are centred on slices 0, stride, 2 * stride, ..., and on the last slice if it were left out. With stride
    1 each slice is once the centre, as in the reference.

    Args:
        depth: Slices of the volume, 1 or more.
        size: Slices of a window, 1 or more, odd or even (the centre of an even one is the slice before its middle).
        stride: Step from one window to the next, 1 to ``size``.

    Raises:
        ConfigError: A number is out of its range.
    """
    if depth < 1 or size < 1:
        raise ConfigError(f"expected a depth and a window of 1 slice or more, got {depth} and {size}")
    if not 1 <= stride <= size:
        raise ConfigError(
            f"expected a stride from 1 to the window's {size} slices, got {stride}: slices would be skipped"
        )
    before = (size - 1) // 2
    centres = list(range(0, depth, stride))
    if centres[-1] - before + size < depth:
        centres.append(depth - 1)
    return [SliceWindow(centre - before, size, depth) for centre in centres]
