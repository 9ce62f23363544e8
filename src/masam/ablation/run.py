"""Run a table of training variants cell by cell; finished cells are kept, interrupted ones are resumed."""

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
from masam.ablation.data import AblationData, read_data
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
"""Folder of the run folders, in the folder of the table."""

PREDICTIONS = "predictions"
"""Folder of the label files, in a run folder."""


@dataclass(frozen=True)
class Ablation:
    """A table that has been checked and not run."""

    config: AblationConfig  # settings of the table
    data: AblationData
    plan: Plan  # plan to which the rows apply their changes
    rows: tuple[Row, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that an unfinished table already compares all rows."""
        return [cell for cells in zip(*(row.cells for row in self.rows), strict=True) for cell in cells]


@dataclass
class AblationResult:
    """The result of a table."""

    table: AblationTable  # the scores
    failed: dict[str, MasamError]  # errors of failed cells, by the title of the cell
    stopped: StoppedError | None = None  # the signal that stopped the run, or None

    def raise_failures(self) -> None:
        """Raise if the table is incomplete.

        Raises:
            StoppedError: A signal stopped the run.
            MasamError: The only cell failed, with its own reason.
            BatchError: One of several cells failed.
        """
        if self.stopped is not None:
            raise self.stopped
        if not self.failed:
            return
        count = sum(len(row.results) for row in self.table.rows)
        if count == 1:
            raise next(iter(self.failed.values()))
        reasons = some_of(f"{title}: {error}" for title, error in self.failed.items())
        fix = "the others are done; the same command repeats these"
        raise BatchError(f"{len(self.failed)} of {count} cells failed ({reasons})", fix=fix)


def prepare_ablation(file: Path, out: Path, progress: Progress) -> Ablation:
    """Read the file of a table and check it, including whether the model of every row can be built.

    Paths in the file are relative to the working folder. A plan that an earlier run derived is read from ``out``.
    """
    config = AblationConfig.from_yaml(file)
    data = read_data(Path(config.dataset), progress)
    kept = _derived_plan(data, out)
    if config.plan is not None or kept.is_file():
        plan = Plan.from_yaml(Path(config.plan or kept))
    else:
        plan = plan_dataset(data.dataset, progress)
    progress.log(f"checking {len(config.rows)} rows")
    return Ablation(config, data, plan, tuple(make_rows(config, plan, data, file)))


def _derived_plan(data: AblationData, out: Path) -> Path:
    """Return the file of the plan derived from these data, which is kept because deriving it reads every case."""
    return out / f"plan.{data.training_sha256[:10]}.yaml"


def run_ablation(ablation: Ablation, out: Path, progress: Progress) -> AblationResult:
    """Train, predict and score every cell that is not done, and write the table after each.

    A cell that fails does not stop the table. After a signal, the same call resumes and yields the same weights.
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
    progress.log(f"{len(cells)} cells, {kept} of them done by an earlier run")
    for number, cell in enumerate(cells, start=1):
        before = results[cell.title]
        if before.state == "done":
            continue
        title = f"cell {number} of {len(cells)}, {cell.title}"
        _say_start(before, title, runs, progress)
        try:
            results[cell.title] = _run_cell(before, ablation.data, progress)
            progress.log(f"{title}: Dice {results[cell.title].dice:.3f}")
        except StoppedError as stop:
            results[cell.title] = replace(before, state="unfinished")
            fix = "the same command resumes from there"
            outcome.stopped = StoppedError(stop.exit_code - 128, f"{title}: {stop.what}", fix=fix)
        except MasamError as error:
            state: State = "diverged" if isinstance(error, DivergedError) else "failed"
            write_cell(cell, before.root, state, str(error))
            results[cell.title] = read_cell(cell, runs)
            outcome.failed[cell.title] = error
            progress.log(f"{title}: {state}: {error}")
        outcome.table = _table(ablation, results)
        outcome.table.write(out)
        if outcome.stopped is not None:
            break
    return outcome


def _run_cell(before: CellResult, data: AblationData, progress: Progress) -> CellResult:
    """Train or resume a cell, and score it."""
    cell, root = before.cell, before.root
    if before.state != "trained":
        started = datetime.now(UTC)
        write_cell(cell, root, "unfinished")
        resume = RunFolder(root).has_state
        config, plan = (None, None) if resume else (cell.config, cell.plan)
        result = train(data.dataset.root, root, config, plan=plan, resume=resume, progress=progress)
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
    unlabelled = [replace(case, label=None) for case in cases]
    predictor = Predictor(
        root,
        device=cell.config.device,
        precision=cell.config.precision,
        stride=cell.scoring["stride"],
        sam_checkpoint=cell.config.model.sam_checkpoint,
    )
    predict, ending = (predict_videos, "") if data.holds_videos else (predict_cohort, ".nii.gz")
    predict(predictor, unlabelled, root / PREDICTIONS, progress).raise_failures()
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


def _say_start(before: CellResult, title: str, runs: Path, progress: Progress) -> None:
    """Report whether a cell starts or resumes, and how its settings differ from an earlier run."""
    if before.state != "not begun":
        progress.log(f"{title}: {'scoring' if before.state == 'trained' else 'resuming'}, it was {before.state}")
        return
    earlier = earlier_folder(before.cell, runs)
    if earlier is not None:
        changed = some_of(differences(before.cell, earlier))
        progress.log(f"{title}: repeated because of {changed}; the earlier run stays in {earlier}")
    progress.log(f"{title}: training")
