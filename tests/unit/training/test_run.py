import json
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import LABELS, randomise, write_dataset
from training_runs import MODEL, PLAN, TINY, StopAt, assert_same_run, config, rows

from masam.cases.folder import read_dataset
from masam.errors import ConfigError, DivergedError, InputError, ModelError, StoppedError
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.predict.predictor import Predictor
from masam.progress import Silent
from masam.runs.metrics import read_rows
from masam.training import loop as loop_module
from masam.training.loss import LossSums, loss_sums
from masam.training.planning import plan_dataset
from masam.training.run import train, train_folds
from masam.training.session import Session
from masam.training.setup import split_cases
from masam.weights.model_file import load


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch):
    """The smallest size, made yet smaller; its name must be one that a configuration knows."""
    monkeypatch.setitem(SIZES, "vit_t", TINY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vit_t", TINY)
        return train(dataset, tmp_path_factory.mktemp("whole") / "run", config(), plan=PLAN)


def test_a_published_split_has_priority(dataset, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(dataset, copy)
    splits = [{"train": ["case0"], "val": ["case2"]}]
    (copy / "splits_final.json").write_text(json.dumps(splits))
    training, validation, used = split_cases(read_dataset(copy), config())
    assert ([one.id for one in training], [one.id for one in validation], used) == (["case0"], ["case2"], splits)
    with pytest.raises(ConfigError, match=r"^fold, of the split in .*splits_final.json: expected 0 to 0, got 1$"):
        split_cases(read_dataset(copy), config(fold=1))
    everything, nothing, none = split_cases(read_dataset(copy), config(validate_every=0))
    assert ([one.id for one in everything], nothing, none) == (["case0", "case1", "case2"], [], [])


def test_files_of_a_run_folder(whole):
    names = {p.name for p in whole.folder.root.iterdir()}
    assert names == {
        "plan.yaml",
        "config.yaml",
        "metrics.csv",
        "tensorboard",
        "last",
        "model.safetensors",
        "splits.json",
        "manifest.json",
    }
    assert whole.folder.read_settings() == (PLAN, config())
    assert any((whole.folder.root / "tensorboard").iterdir())
    splits = json.loads((whole.folder.root / "splits.json").read_text())
    assert len(splits) == 3
    assert sorted(case for split in splits for case in split["val"]) == ["case0", "case1", "case2"]


def test_metrics_of_a_run(whole):
    assert whole.steps == 6
    found = rows(whole.folder)
    assert [(row["step"], row["epoch"]) for row in found] == [("3", "1"), ("6", "2")]
    for row in found:
        loss = 0.2 * float(row["cross_entropy"]) + 0.8 * float(row["dice_loss"])
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-5)
        assert 0 <= float(row["validation_dice"]) <= 1
        assert set(row) >= {"learning_rate", "dice.ball", "dice.box"}
    assert whole.best_dice == max(float(row["validation_dice"]) for row in found)
    assert all(float(row["seconds_per_step"]) > 0 for row in read_rows(whole.folder.metrics))


def test_the_model_of_a_run_predicts(whole, dataset):
    model = load(whole.folder.root)
    assert model.card.plan == PLAN
    assert model.card.training["validation_dice"] == whole.best_dice
    assert model.card.training["dataset"] == "tiny"
    labels = Predictor(whole.folder.root, device="cpu").predict(dataset / "imagesTr" / "case0_0000.nii.gz")
    assert labels.shape == (32, 32, 6)


@pytest.mark.parametrize(
    ("step", "number", "code", "workers"),
    [(1, signal.SIGINT, 130, 2), (3, signal.SIGTERM, 143, 0), (4, signal.SIGINT, 130, 1)],
)
def test_a_stopped_run_resumes_bit_for_bit(whole, dataset, tmp_path, step, number, code, workers):
    out = tmp_path / "run"
    message = rf"^stopped after step {step} of 6, the state is in {out / 'last'}; continue with --resume$"
    with pytest.raises(StoppedError, match=message) as caught:
        train(dataset, out, config(workers=workers), plan=PLAN, progress=StopAt(step, number))
    assert caught.value.exit_code == code
    result = train(dataset, out, resume=True)
    assert (result.steps, result.best_dice) == (6, whole.best_dice)
    assert_same_run(result.folder, whole.folder)
    again = train(dataset, out, resume=True)  # nothing is left to do
    assert_same_run(again.folder, whole.folder)


def test_a_run_killed_after_a_row_writes_it_again(whole, dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(dataset, out, config(), plan=PLAN, progress=StopAt(4))
    with monkeypatch.context() as patch:
        # As if killed at the end: metrics and model are later than the state.
        patch.setattr(Session, "save_state", lambda self: None)
        train(dataset, out, resume=True)
    assert [row["step"] for row in read_rows(out / "metrics.csv")] == ["3", "6"]
    assert json.loads((out / "last" / "state.json").read_text())["step"] == 4
    assert_same_run(train(dataset, out, resume=True).folder, whole.folder)


def test_changed_data_are_refused_on_resume(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(dataset, out, config(validate_every=0), plan=PLAN, progress=StopAt(2))
    changed = write_dataset(tmp_path / "other", cases=4)
    (changed / "imagesTr" / "case3_0000.nii.gz").rename(dataset / "imagesTr" / "case0_0000.nii.gz")
    message = (
        "run: the training cases, their preprocessing or the split have changed since the run started; restore the"
    )
    with pytest.raises(InputError, match=message):
        train(dataset, out, resume=True)


def test_another_sam_file_is_refused_on_resume(dataset, tmp_path):
    sam, out = tmp_path / "sam.pth", tmp_path / "run"
    torch.save(randomise(Sam(TINY, 64), seed=1).state_dict(), sam)
    settings = config(validate_every=0, model={**MODEL, "sam_checkpoint": str(sam)})
    with pytest.raises(StoppedError):
        train(dataset, out, settings, plan=PLAN, progress=StopAt(2))
    whole = sam.read_bytes()
    torch.save(randomise(Sam(TINY, 64), seed=2).state_dict(), sam)
    message = r"sam.pth: the SAM file has changed since the run started; restore the original, or start a new run$"
    with pytest.raises(InputError, match=message):
        train(dataset, out, resume=True)
    sam.write_bytes(whole)
    assert train(dataset, out, resume=True).steps == 9


def test_a_run_is_not_overwritten(whole, dataset):
    before = (whole.folder.root / "splits.json").read_bytes()
    with pytest.raises(InputError, match=r"run: the folder holds a run already; use --resume, or another --out$"):
        train(dataset, whole.folder.root, config(folds=2), plan=PLAN)
    assert (whole.folder.root / "splits.json").read_bytes() == before


class Told(Silent):
    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


def test_patience_ends_a_run_that_gets_no_better(dataset, tmp_path, monkeypatch):
    dices = iter([0.3, 0.5, 0.4, 0.5, 0.1, 0.9])
    monkeypatch.setattr("masam.training.session.score_cases", lambda *_, **__: [[next(dices), float("nan")]])
    told = Told()
    result = train(dataset, tmp_path / "run", config(epochs=6, patience=3), plan=PLAN, progress=told)
    assert (result.steps, result.best_dice) == (15, 0.5)
    assert told.lines[-1] == "step 15: the run ends after 15 steps (3 validations without a better Dice)"
    assert load(tmp_path / "run").card.training["steps"] == 6
    again = train(dataset, tmp_path / "run", resume=True)
    assert (again.steps, again.best_dice) == (15, 0.5)


def test_patience_continues_after_a_resume(dataset, tmp_path, monkeypatch):
    dices = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr("masam.training.session.score_cases", lambda *_, **__: [[next(dices), float("nan")]])
    with pytest.raises(StoppedError):
        train(dataset, tmp_path / "run", config(epochs=6, patience=2), plan=PLAN, progress=StopAt(7))
    assert train(dataset, tmp_path / "run", resume=True).steps == 9


def test_a_run_is_shortened_to_its_hours_and_stays_so(dataset, tmp_path, monkeypatch):
    class Halve:
        """Finds after four steps that ten fit."""

        def __init__(self, seconds):
            assert seconds == 1800

        def affordable_steps(self, step, total, spent):
            assert spent > 0
            return min(total, 10) if step >= 4 else total

    monkeypatch.setattr("masam.training.session.Budget", Halve)
    told = Told()
    settings = config(epochs=6, max_hours=0.5, validate_every=3, power=1.0)
    with pytest.raises(StoppedError, match="stopped after step 5 of 10"):
        train(dataset, tmp_path / "run", settings, plan=PLAN, progress=StopAt(5))
    monkeypatch.setattr(Halve, "affordable_steps", lambda self, step, total, spent: total)
    result = train(dataset, tmp_path / "run", resume=True, progress=told)
    assert result.steps == 10
    found = rows(result.folder)
    assert found[-1]["step"] == "10"
    # It falls to zero within ten steps after the warm-up of one; within eighteen it would be at 4.4e-4 by now.
    assert float(found[-1]["learning_rate"]) == pytest.approx(8e-4 * 0.2)
    assert found[-1]["validation_dice"]


def test_all_folds_train_one_after_the_other_and_resume(dataset, tmp_path):
    out = tmp_path / "runs"
    settings = config(epochs=1)
    with pytest.raises(StoppedError):
        # Three steps a fold: in the middle of the second.
        train_folds(dataset, out, settings, plan=PLAN, progress=StopAt(5))
    assert sorted(path.name for path in out.iterdir()) == ["fold_0", "fold_1", "prepared"]
    with pytest.raises(InputError, match="fold_0: the folder holds a run already"):
        train_folds(dataset, out, settings, plan=PLAN)
    results = train_folds(dataset, out, resume=True)
    assert [result.folder.root for result in results] == [out / f"fold_{fold}" for fold in range(3)]
    held_out = [json.loads((out / f"fold_{n}/splits.json").read_text())[n]["val"] for n in range(3)]
    assert sorted(case for cases in held_out for case in cases) == ["case0", "case1", "case2"]
    assert [result.folder.read_settings()[1].fold for result in results] == [0, 1, 2]
    assert_same_run(results[1].folder, train(dataset, tmp_path / "alone", config(epochs=1, fold=1), plan=PLAN).folder)
    with pytest.raises(
        ModelError, match="expected one model, got a folder of 3 folds; give one of them, such as fold_0"
    ):
        load(out)
    scan = dataset / "imagesTr" / "case0_0000.nii.gz"
    voted = Predictor(out, device="cpu").predict(scan)
    models = [load(result.folder.root) for result in results]
    assert np.array_equal(voted.array, Predictor(models, device="cpu").predict(scan).array)


def test_folds_need_validation(dataset, tmp_path):
    with pytest.raises(
        ConfigError, match=r"^validate_every: expected 1 or more, since each fold is held out for validation, got 0;"
    ):
        train_folds(dataset, tmp_path / "runs", config(validate_every=0), plan=PLAN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 3}, "^fold: expected 0 to 2, got 3$"),
        ({"micro_batch_windows": 3}, "^micro_batch_windows: expected a divisor of batch_windows = 4, got 3$"),
        ({"device": "gpu"}, "^device: expected auto, cpu, cuda or cuda:N, got 'gpu'$"),
    ],
)
def test_a_refused_run_leaves_no_folder(dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(dataset, tmp_path / "run", config(**changes), plan=PLAN)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_run_cannot_be_resumed(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"plan.yaml: settings file not found"):
        train(dataset, tmp_path / "run", resume=True)


def test_a_single_case_trains_only_without_validation(tmp_path):
    dataset = write_dataset(tmp_path / "data", cases=1)
    message = "data: expected at least 2 training cases to hold one out, got 1; add cases, or set validate_every to 0$"
    with pytest.raises(InputError, match=message):
        train(dataset, tmp_path / "run", config(), plan=PLAN)
    result = train(dataset, tmp_path / "run", config(validate_every=0, epochs=1), plan=PLAN)
    assert (result.steps, result.best_dice) == (2, None)
    assert not (tmp_path / "run" / "splits.json").exists()
    assert load(tmp_path / "run").card.training == {"steps": 2, "validation_dice": None, "dataset": "tiny"}


def test_a_diverged_run_keeps_its_last_good_model(whole, dataset, tmp_path, monkeypatch):
    calls = iter(range(10_000))

    def loss(*args):
        sums = loss_sums(*args)
        return LossSums(*(value * torch.nan for value in sums)) if next(calls) >= 6 else sums

    monkeypatch.setattr(loop_module, "loss_sums", loss)
    with pytest.raises(
        DivergedError, match="loss or gradients were not finite for 4 steps in a row, the last at step 6"
    ):
        train(dataset, tmp_path / "run", config(epochs=50, max_bad_steps=4), plan=PLAN)
    for name in ("model.safetensors", "last/weights.safetensors", "last/optimizer.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / name).values())


def test_the_windows_of_a_bad_step_are_named_and_kept(dataset, tmp_path, monkeypatch):
    calls, told = iter(range(10_000)), Told()

    def loss(*args):
        sums = loss_sums(*args)
        # Two micro-batches a step: the third and the fourth step are bad, and so is the sixth.
        return LossSums(*(value * torch.nan for value in sums)) if next(calls) in (4, 6, 11) else sums

    monkeypatch.setattr(loop_module, "loss_sums", loss)
    result = train(dataset, tmp_path / "run", config(epochs=4, validate_every=4), plan=PLAN, progress=told)
    assert result.steps == 12
    kept = sorted((tmp_path / "run/diverged").iterdir())
    assert [file.name for file in kept] == ["step000002.safetensors", "step000005.safetensors"]
    said = [line for line in told.lines if line.startswith("warning: step")]
    assert len(said) == 2
    windows, notes = load_file(kept[0]), safe_open(kept[0], "pt").metadata()
    assert json.loads(notes["samples"]) == [8, 9, 10, 11]
    assert (windows["images"].shape, windows["labels"].shape) == ((4, 3, 1, 32, 32), (4, 3, 32, 32))
    cases = json.loads(notes["cases"])
    assert all(case in said[0] for case in cases)
    assert said[0].endswith(f" are kept in {kept[0]}")
    first = result.folder.read_settings()[1]
    assert first.max_bad_steps == 20


def test_a_run_can_end_at_the_first_bad_step(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "loss_sums", lambda *args: LossSums(*(v * torch.inf for v in loss_sums(*args))))
    with pytest.raises(DivergedError, match="not finite for 1 step in a row, the last at step 0 with windows of case"):
        train(dataset, tmp_path / "run", config(max_bad_steps=1), plan=PLAN)
    assert (tmp_path / "run/diverged/step000000.safetensors").is_file()


def test_a_plan_is_derived_from_the_data(dataset, tmp_path):
    from masam.cases.folder import read_dataset

    plan = plan_dataset(read_dataset(dataset))
    assert (plan.slice_axis, plan.image_size, plan.labels, plan.modality) == ("axial", 32, LABELS, "CT")
    with pytest.raises(
        ConfigError, match=r"the plan has the classes \{.*\}, dataset.json has \{.*\}; give the plan of this"
    ):
        train(dataset, tmp_path / "run", config(), plan=plan.model_copy(update={"labels": {"background": 0, "x": 1}}))


def test_training_on_sams_weights_keeps_them(dataset, tmp_path):
    sam = tmp_path / "sam_vit_t.pth"
    torch.save(randomise(Sam(TINY, 64), seed=4).state_dict(), sam)
    settings = {"validate_every": 0, "epochs": 1}
    result = train(dataset, tmp_path / "a", config(**settings, model={**MODEL, "sam_checkpoint": str(sam)}), plan=PLAN)
    model = load(result.folder.root, sam)
    assert set(load_file(result.folder.model)) == model.trained_names()
    state = torch.load(sam, weights_only=True)
    name = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    everything = {**MODEL, "sam_checkpoint": str(sam), "trained": "everything"}
    result = train(dataset, tmp_path / "b", config(**settings, model=everything), plan=PLAN)
    model = load(result.folder.root)
    assert not torch.equal(model.state_dict()[name], state[name])
