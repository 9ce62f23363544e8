"""The run folder: the files that a training run writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from masam.errors import InputError
from masam.preprocess.plan import Plan
from masam.runs.metrics import read_rows, write_rows
from masam.training.checkpoint import find_checkpoint
from masam.training.config import TrainConfig
from masam.weights.model_file import MODEL_FILE


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run.

    ::

        plan.yaml  config.yaml        settings
        metrics.csv  tensorboard/     training curves
        diverged/                     windows of steps with non-finite loss or gradients
        last/                         complete state, from which the run resumes
        model.safetensors             best model so far
        manifest.json                 versions, hardware, result

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def model(self) -> Path:
        """The file of the best model."""
        return self.root / MODEL_FILE

    @property
    def metrics(self) -> Path:
        """The CSV file of losses and scores."""
        return self.root / "metrics.csv"

    @property
    def manifest(self) -> Path:
        """The file that describes how the result was made."""
        return self.root / "manifest.json"

    @property
    def last(self) -> Path:
        """The folder of the complete state."""
        return self.root / "last"

    @property
    def has_state(self) -> bool:
        """Whether the folder contains a complete state to resume from."""
        return find_checkpoint(self.root) is not None

    def require_free(self) -> None:
        """Refuse a folder that contains a run; files of a run that ended before its first saved state do not count.

        Raises:
            InputError: The folder contains a run.
        """
        if self.model.exists() or self.has_state:
            raise InputError("the folder holds a run already", where=self.root, fix="use --resume, or another --out")

    def create(self, plan: Plan, config: TrainConfig) -> None:
        """Write the settings of a new run.

        Raises:
            InputError: The folder contains a run.
            ResourceError: The folder cannot be written.
        """
        self.require_free()
        # Rows of a run without a saved state would be read as rows of this one.
        self.metrics.unlink(missing_ok=True)
        plan.to_yaml(self.root / "plan.yaml")
        config.to_yaml(self.root / "config.yaml")

    def read_settings(self) -> tuple[Plan, TrainConfig]:
        """Return the plan and the configuration of the run.

        Raises:
            ConfigError: The folder is not a run, or a file is invalid.
        """
        return Plan.from_yaml(self.root / "plan.yaml"), TrainConfig.from_yaml(self.root / "config.yaml")

    def append_metrics(self, row: Mapping[str, float | int | str]) -> None:
        """Add a row to ``metrics.csv``; the file is rewritten because a row may add columns.

        Raises:
            ResourceError: The file cannot be written.
        """
        rows = [*read_rows(self.metrics), {key: str(value) for key, value in row.items()}]
        write_rows(self.metrics, rows)

    def drop_metrics_after(self, step: int) -> None:
        """Remove rows later than ``step``, which a resumed run writes again."""
        rows = read_rows(self.metrics)
        if rows:
            write_rows(self.metrics, [row for row in rows if int(row["step"]) <= step])
