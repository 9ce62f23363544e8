"""Where the figures of a run go: ``metrics.csv`` and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from masam.train.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Logs:
    """The open logs of a run.

    Args:
        folder: The run folder.
        step: Steps done so far; what a log holds of later ones is of a process that was lost, and is dropped.
        writes: Whether this process writes them.
    """

    def __init__(self, folder: RunFolder, step: int, writes: bool) -> None:
        self._folder, self._step, self._writes = folder, step, writes
        self._board: SummaryWriter | None = None

    def __enter__(self) -> Logs:
        """Open them."""
        if self._writes:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder.root / "tensorboard"), purge_step=self._step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        if self._board is not None:
            self._board.close()

    def write(self, row: Mapping[str, float | int]) -> None:
        """Add a row of figures, one of them the step; an empty row is none.

        Raises:
            ResourceError: A file cannot be written.
        """
        if not row or self._board is None:
            return
        self._folder.append_metrics(row)
        for key, value in row.items():
            if key != "step" and isinstance(value, float):
                self._board.add_scalar(key, value, row["step"])
