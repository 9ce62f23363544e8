"""The run folder: the files that a training run writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from masam.config import Settings
from masam.errors import InputError
from masam.preprocess.plan import Plan
from masam.runs.metrics import read_rows, write_rows
from masam.training.checkpoint import find_checkpoint
from masam.training.config import TrainConfig
from masam.weights.model_file import MODEL_FILE


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
        model: The file of the best model.
        metrics: The CSV file of losses and scores.
        manifest: The file that describes how the result was made.
        last: The folder of the complete state.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.last = root, root / "last"
        self.model, self.metrics, self.manifest = root / MODEL_FILE, root / "metrics.csv", root / "manifest.json"

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

    def create(self, **settings: Settings) -> None:
        """Write the settings of a new run to YAML files of their names."""
        self.require_free()
        # Rows of a run without a saved state would be read as rows of this one.
        self.metrics.unlink(missing_ok=True)
        for name, values in settings.items():
            values.to_yaml(self.root / f"{name}.yaml")

    def read_settings(self) -> tuple[Plan, TrainConfig]:
        """Return the plan and the configuration of the run."""
        return Plan.from_yaml(self.root / "plan.yaml"), TrainConfig.from_yaml(self.root / "config.yaml")

    def append_metrics(self, row: Mapping[str, float | int | str]) -> None:
        """Add a row to ``metrics.csv``; the file is rewritten because a row may add columns."""
        rows = [*read_rows(self.metrics), {key: str(value) for key, value in row.items()}]
        write_rows(self.metrics, rows)

    def drop_metrics_after(self, step: int) -> None:
        """Remove rows later than ``step``, which a resumed run writes again."""
        rows = read_rows(self.metrics)
        if rows:
            write_rows(self.metrics, [row for row in rows if int(row["step"]) <= step])
