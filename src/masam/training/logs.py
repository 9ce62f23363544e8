"""Where the figures of a run go: ``metrics.csv``, TensorBoard, and MLflow where it is asked for."""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from masam import atomic
from masam.config import Settings
from masam.errors import ResourceError
from masam.io import gate
from masam.progress import Progress
from masam.training.config import TrainConfig
from masam.training.run_folder import RunFolder

Row = Mapping[str, float | int]

_MLFLOW_FILE = "mlflow.json"
# MLflow takes at most so many settings, and so many letters of each.
_MOST_PARAMS, _MOST_LETTERS = 100, 500


class Logs:
    """The open logs of a run; without a folder, those of a process that writes none.

    Args:
        folder: The run folder, or None.
        config: The run's settings; those of training may ask for MLflow.
        step: Steps done so far; what TensorBoard holds of later ones is of a process that was lost, and is dropped.
        progress: Told if MLflow fails, which does not end the run.
    """

    def __init__(self, folder: RunFolder | None, config: Settings, step: int, progress: Progress) -> None:
        self._folder, self._step = folder, step
        self._board: Any = None
        self._mlflow = None
        self._open = ExitStack()
        if folder is not None and isinstance(config, TrainConfig) and config.mlflow is not None:
            self._mlflow = _Mlflow(folder.root, config, progress)

    def __enter__(self) -> Logs:
        """Open them."""
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(self._folder.root / "tensorboard"), purge_step=self._step)
            self._board = self._open.enter_context(board)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        self._open.close()
        if self._mlflow is not None:
            self._mlflow.end(is_whole=error is None)

    def write(self, row: Row) -> None:
        """Add a row of figures, one of them the step; an empty row is none.

        Raises:
            ResourceError: A file cannot be written.
        """
        if not row or self._folder is None:
            return
        self._folder.append_metrics(row)
        for key, value in row.items():
            if key != "step" and isinstance(value, float):
                self._board.add_scalar(key, value, row["step"])
        if self._mlflow is not None:
            self._mlflow.write(row)


def require_logs(config: TrainConfig) -> None:
    """Refuse logs that cannot be written, before there is anything to log.

    Raises:
        ResourceError: MLflow is asked for and not installed.
    """
    if config.mlflow is None:
        return
    try:
        importlib.import_module("mlflow")
    except ImportError as error:
        raise ResourceError(
            f"the setting mlflow needs the package, which is not here ({error})", fix="pip install 'masam[mlflow]'"
        ) from error


class _Mlflow:
    """One run of an MLflow server, whose address is where MLflow looks for it: ``MLFLOW_TRACKING_URI``."""

    def __init__(self, root: Path, config: TrainConfig, progress: Progress) -> None:
        # A server that is away shall not hold the training up for long.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow
        from mlflow.exceptions import MlflowException

        self._fault: type[Exception] = MlflowException
        self._progress = progress
        self._client: Any = None
        self._run = ""
        try:
            self._client = mlflow.MlflowClient()
            self._run = self._find_run(root / _MLFLOW_FILE) or self._new_run(root, config)
        except MlflowException as error:
            self._give_up(error)

    def write(self, row: Row) -> None:
        """Send a row."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        sent = [Metric(_plain(key), value, now, int(row["step"])) for key, value in row.items() if key != "step"]
        try:
            self._client.log_batch(self._run, metrics=[one for one in sent if math.isfinite(one.value)])
        except self._fault as error:
            self._give_up(error)

    def end(self, *, is_whole: bool) -> None:
        """Say how the run ended."""
        if self._client is None:
            return
        try:
            self._client.set_terminated(self._run, "FINISHED" if is_whole else "FAILED")
        except self._fault as error:
            self._give_up(error)

    def _find_run(self, file: Path) -> str | None:
        """Return the run that an earlier process of the same run began."""
        if not file.exists():
            return None
        with gate.library_errors(file):
            run = str(json.loads(gate.read_bytes(file))["run"])
        self._client.update_run(run, status="RUNNING")
        return run

    def _new_run(self, root: Path, config: TrainConfig) -> str:
        name = str(config.mlflow)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run: str = self._client.create_run(number, run_name=root.name).info.run_id
        atomic.write_text(root / _MLFLOW_FILE, json.dumps({"run": run}) + "\n")
        from mlflow.entities import Param

        params = [Param(key, text[:_MOST_LETTERS]) for key, text in _flat(config.model_dump(mode="json"))]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + _MOST_PARAMS])
        return run

    def _give_up(self, error: Exception) -> None:
        self._client = None
        what = " ".join(str(error).split())[:200]
        self._progress.say(f"warning: MLflow failed, the run goes on without it ({what})")


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else [(above + key, str(value))]
    return pairs


def _plain(name: str) -> str:
    """Return a name that MLflow takes; a class may be called anything."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
