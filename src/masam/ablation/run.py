"""Run a table of training variants: cell after cell, what is done is kept, what was interrupted goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from masam.ablation.cell import (
    SCORES_FILE,
    Cell,
    CellResult,
    State,
    differences,
    earlier_folder,
    read_cell,
    write_cell,
)
from masam.ablation.config import AblationConfig
from masam.ablation.data import AblationData, read_data, without_labels
from masam.ablation.rows import Row, make_rows
from masam.ablation.table import AblationTable, make_row
from masam.errors import BatchError, DivergedError, MasamError, StoppedError, some_of
from masam.evaluation import evaluate
from masam.predict.cohort import predict_cohort
from masam.predict.predictor import Predictor
from masam.predict.video_cohort import predict_videos
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.runs.lock import locked
from masam.runs.manifest import build_manifest, write_manifest
from masam.training.planning import plan_dataset
from masam.training.run import train
from masam.training.run_folder import RunFolder

RUNS = "runs"
"""Folder of the cells' run folders, in the folder of the table."""

PREDICTIONS = "predictions"
"""Folder of a cell's label files."""

_AGAIN = "the same command again goes on from there"


@dataclass(frozen=True)
class Ablation:
    """A table before its first step: everything checked, nothing run.

    Attributes:
        config: What is asked for.
        data: The data set.
        plan: Plan that all rows start from.
        rows: Its rows.
    """

    config: AblationConfig
    data: AblationData
    plan: Plan
    rows: tuple[Row, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed after seed, so that an unfinished table already compares all rows."""
        each = len(self.rows[0].cells)
        return [row.cells[number] for number in range(each) for row in self.rows]


@dataclass
class AblationResult:
    """What came of a table.

    Attributes:
        table: The figures.
        failed: The errors of cells that failed, by the cell's title.
        stopped: The signal that ended it, or None.
    """

    table: AblationTable
    failed: dict[str, MasamError]
    stopped: StoppedError | None = None

    def raise_failures(self) -> None:
        """Raise if the table is not whole.

        Raises:
            StoppedError: A signal ended it.
            MasamError: Its only cell failed, with its own reason.
            BatchError: A cell of several failed.
        """
        if self.stopped is not None:
            raise self.stopped
        if not self.failed:
            return
        count = sum(len(row.results) for row in self.table.rows)
        if count == 1:
            raise next(iter(self.failed.values()))
        reasons = some_of(f"{title}: {error}" for title, error in self.failed.items())
        fix = "the others are done; the same command again tries these"
        raise BatchError(f"{len(self.failed)} of {count} cells failed ({reasons})", fix=fix)


def prepare_ablation(file: Path, out: Path, progress: Progress) -> Ablation:
    """Read a table's file and check all of it, down to whether every row's model can be built.

    Args:
        file: YAML file of an ``AblationConfig``; paths in it are from the working folder, as on a command line.
        out: Folder of the table, where an earlier run may have left the plan that it derived.
        progress: Told of everything.

    Raises:
        ConfigError: Settings are wrong, or do not fit the data set.
        InputError: The data set or a file is refused.
        ModelError: A SAM file is damaged or of another size.
        ResourceError: A device is not there, or the system did not let us read.
    """
    config = AblationConfig.from_yaml(file)
    data = read_data(Path(config.dataset), progress)
    plan = _plan(config, data, out, progress)
    progress.say(f"checking {len(config.rows)} rows")
    return Ablation(config, data, plan, tuple(make_rows(config, plan, data, file)))


def _plan(config: AblationConfig, data: AblationData, out: Path, progress: Progress) -> Plan:
    if config.plan is not None:
        return Plan.from_yaml(Path(config.plan))
    kept = _derived_plan(data, out)
    return Plan.from_yaml(kept) if kept.is_file() else plan_dataset(data.dataset, progress)


def _derived_plan(data: AblationData, out: Path) -> Path:
    """Return where the plan derived from these very data is kept, as deriving it reads every case."""
    return out / f"plan.{data.training_sha256[:10]}.yaml"


def run_ablation(ablation: Ablation, out: Path, progress: Progress) -> AblationResult:
    """Train, predict and score every cell that is not done, and write the table after each.

    A cell that fails does not end the table; a signal does, and the same call again goes on to the same weights.

    Args:
        ablation: The table.
        out: Folder for everything; it is made if need be.
        progress: Told of everything.

    Raises:
        ResourceError: The folder cannot be written, or another process runs a table in it.
        InputError: A folder that a cell would take holds something else.
    """
    with locked(out):
        ablation.config.to_yaml(out / "ablation.yaml")
        if ablation.config.plan is None:
            ablation.plan.to_yaml(_derived_plan(ablation.data, out))
        return _run(ablation, out, progress)


def _run(ablation: Ablation, out: Path, progress: Progress) -> AblationResult:
    cells, runs = ablation.cells, out / RUNS
    results = {cell.title: read_cell(cell, runs) for cell in cells}
    outcome = AblationResult(_table(ablation, results), {})
    outcome.table.write(out)
    kept = sum(result.state == "done" for result in results.values())
    progress.say(f"{len(cells)} cells, {kept} of them done by an earlier run")
    for number, cell in enumerate(cells, start=1):
        before = results[cell.title]
        if before.state == "done":
            continue
        title = f"cell {number} of {len(cells)}, {cell.title}"
        _say_beginning(before, title, runs, progress)
        try:
            results[cell.title] = _run_cell(before, ablation.data, progress)
            progress.say(f"{title}: Dice {_dice(results[cell.title]):.3f}")
        except StoppedError as stop:
            results[cell.title] = replace(before, state="unfinished")
            outcome.stopped = StoppedError(stop.exit_code - 128, f"{title}: {stop.what}", fix=_AGAIN)
        except MasamError as error:
            state: State = "diverged" if isinstance(error, DivergedError) else "failed"
            write_cell(cell, before.root, state, str(error))
            results[cell.title] = read_cell(cell, runs)
            outcome.failed[cell.title] = error
            progress.say(f"{title}: {state}: {error}")
        outcome.table = _table(ablation, results)
        outcome.table.write(out)
        if outcome.stopped is not None:
            break
    return outcome


def _run_cell(before: CellResult, data: AblationData, progress: Progress) -> CellResult:
    """Train a cell, or go on with it, and score it."""
    cell, root = before.cell, before.root
    if before.state != "trained":
        started = datetime.now(UTC)
        write_cell(cell, root, "unfinished")
        if RunFolder(root).has_state:
            result = train(data.dataset.root, root, resume=True, progress=progress)
        else:
            result = train(data.dataset.root, root, cell.config, plan=cell.plan, progress=progress)
        facts = {"steps": result.steps, "best_dice": result.best_dice, "seed": cell.seed, "row": cell.row}
        manifest = build_manifest("ablate", started=started, dataset=data.dataset.root, **facts)
        write_manifest(root / "manifest.json", manifest)
        write_cell(cell, root, "trained")
    _score(cell, root, data, progress)
    write_cell(cell, root, "done")
    return read_cell(cell, root.parent)


def _score(cell: Cell, root: Path, data: AblationData, progress: Progress) -> None:
    """Predict and evaluate a cell's cases as ``masam predict`` and ``masam evaluate`` do."""
    cases = data.scored_cases(cell.config)
    predictor = Predictor(
        root,
        device=cell.config.device,
        precision=cell.config.precision,
        stride=cell.scoring["stride"],
        sam_checkpoint=cell.config.model.sam_checkpoint,
    )
    predict, ending = (predict_videos, "") if data.holds_videos else (predict_cohort, ".nii.gz")
    predict(predictor, without_labels(cases), root / PREDICTIONS, progress).raise_failures()
    progress.start("scoring", len(cases))
    evaluation = evaluate(
        {case.id: root / PREDICTIONS / f"{case.id}{ending}" for case in cases},
        {case.id: case.label for case in cases if case.label is not None},
        data.dataset.labels,
        reference_empty=cell.scoring["reference_empty"],
        progress=lambda done, total: progress.advance(),
    )
    evaluation.to_json(root / SCORES_FILE)


def _table(ablation: Ablation, results: dict[str, CellResult]) -> AblationTable:
    of_rows = {row.name: [results[cell.title] for cell in row.cells] for row in ablation.rows}
    baseline = of_rows[ablation.config.first]
    return AblationTable(
        ablation.data.dataset.name,
        ablation.data.scored_on,
        ablation.config.first,
        tuple(make_row(row.name, row.parameters, of_rows[row.name], baseline) for row in ablation.rows),
    )


def _say_beginning(before: CellResult, title: str, runs: Path, progress: Progress) -> None:
    """Say whether a cell begins or goes on, and where its settings are not those of an earlier run."""
    if before.state != "not begun":
        progress.say(f"{title}: {'scoring' if before.state == 'trained' else 'going on'}, it was {before.state}")
        return
    earlier = earlier_folder(before.cell, runs)
    if earlier is not None:
        changed = some_of(differences(before.cell, earlier))
        progress.say(f"{title}: made anew, since {changed}; the earlier run stays in {earlier}")
    progress.say(f"{title}: training")


def _dice(result: CellResult) -> float:
    return float("nan") if result.evaluation is None else result.evaluation.mean_dice
