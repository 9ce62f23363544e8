"""Training curves: ``metrics.csv``, TensorBoard and, if requested, MLflow."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from masam import atomic
from masam.io import gate
from masam.io.packages import require_package
from masam.progress import Progress
from masam.training.config import TrainConfig, flatten
from masam.training.run_folder import RunFolder

SAVE_SECONDS = 600.0
"""Longest time between two saved states, and so the work that a crash can lose."""

LOG_STEPS = 20
"""Largest number of steps that share a row of ``metrics.csv``."""

Row = Mapping[str, float | int]

_MLFLOW_FILE = "mlflow.json"
# Limits of MLflow: parameters per request, and characters per value.
_MOST_PARAMS, _MOST_CHARACTERS = 100, 500


def mean_of_steps(reports: Sequence[Any], unit: str, per_step: int) -> dict[str, float]:
    """Return the mean losses and the speed of consecutive steps.

    Args:
        reports: Named tuples with ``step``, ``learning_rate``, ``seconds`` and the losses to average.
        unit: Name of what a step processes, such as ``windows``.
        per_step: Number of them per step.
    """
    count = len(reports)
    seconds = sum(report.seconds for report in reports) / count
    losses = [name for name in reports[0]._fields if name not in ("step", "learning_rate", "seconds")]
    return {
        **{name: sum(getattr(report, name) for report in reports) / count for name in losses},
        "learning_rate": reports[-1].learning_rate,
        "seconds_per_step": seconds,
        f"{unit}_per_second": per_step / seconds,
    }


@contextmanager
def open_logs(
    folder: RunFolder | None, step: int, progress: Progress, config: TrainConfig | None = None
) -> Iterator[Callable[[Row], None]]:
    """Open the logs of a run inside a ``with`` block; yield a function that adds a row of values with their step.

    The function ignores an empty row.

    Args:
        folder: The run folder; None in a process that writes no logs.
        step: Steps completed so far; later entries in TensorBoard are from a lost process and are hidden.
        progress: Gets a warning if MLflow fails, which does not end the run.
        config: Configuration that may request MLflow; None for no MLflow.
    """
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as stack:
        mlflow = None if config is None or config.mlflow is None else _Mlflow(folder.root, config, progress)
        if mlflow is not None:
            stack.push(mlflow.end)
        board = stack.enter_context(SummaryWriter(str(folder.root / "tensorboard"), purge_step=step))

        def write(row: Row) -> None:
            if not row:
                return
            folder.append_metrics(row)
            for key, value in row.items():
                if key != "step" and isinstance(value, float):
                    board.add_scalar(key, value, row["step"])
            if mlflow is not None:
                mlflow.write(row)

        yield write


def require_logs(config: TrainConfig) -> None:
    """Refuse, before training starts, logs that cannot be written."""
    if config.mlflow is not None:
        require_package("mlflow")


class _Mlflow:
    """One run on the MLflow server that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, root: Path, config: TrainConfig, progress: Progress) -> None:
        # An unreachable server must not delay training for long.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        self._progress = progress
        self._client: Any = None
        with self._disable_on_failure():
            self._client = mlflow.MlflowClient()
            self._run = self._find_run(root / _MLFLOW_FILE) or self._create_run(root, config)

    def write(self, row: Row) -> None:
        """Send a row."""
        from mlflow.entities import Metric

        now, step = round(1000 * time.time()), int(row["step"])
        metrics = [
            Metric(_allowed_name(key), value, now, step)
            for key, value in row.items()
            if key != "step" and math.isfinite(value)
        ]
        if self._client is not None:
            with self._disable_on_failure():
                self._client.log_batch(self._run, metrics=metrics)

    def end(self, kind: type[BaseException] | None, *details: object) -> None:
        """Set the final status of the run, when the block of :func:`open_logs` ends, with or without an exception."""
        if self._client is not None:
            with self._disable_on_failure():
                self._client.set_terminated(self._run, "FINISHED" if kind is None else "FAILED")

    def _find_run(self, file: Path) -> str | None:
        """Return the id of the run that an earlier process of the same run created."""
        if not file.exists():
            return None
        with gate.library_errors(file):
            run = str(json.loads(gate.read_bytes(file))["run"])
        self._client.update_run(run, status="RUNNING")
        return run

    def _create_run(self, root: Path, config: TrainConfig) -> str:
        from mlflow.entities import Param

        name = str(config.mlflow)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run: str = self._client.create_run(number, run_name=root.name).info.run_id
        atomic.write_text(root / _MLFLOW_FILE, json.dumps({"run": run}) + "\n")
        settings = flatten(config.model_dump(mode="json"))
        params = [Param(key, str(value)[:_MOST_CHARACTERS]) for key, value in settings.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + _MOST_PARAMS])
        return run

    @contextmanager
    def _disable_on_failure(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            self._client = None
            reason = " ".join(str(error).split())[:200]
            self._progress.log(f"warning: MLflow failed, the run continues without it ({reason})")


def _allowed_name(name: str) -> str:
    """Replace the characters that MLflow does not allow; class names may contain any."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
